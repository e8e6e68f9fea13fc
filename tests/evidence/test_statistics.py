"""The statistics of an evaluation against independent facts."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import rankdata, trim_mean, wilcoxon

from autobatch.evidence._statistics import holm, improvement, iqm, signed_rank


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 20, 33])
def test_the_interquartile_mean_is_the_trimmed_mean(count):
    values = np.random.default_rng(count).normal(size=count)
    cut = count // 4
    assert iqm([values]).value == pytest.approx(np.mean(np.sort(values)[cut : count - cut]))
    assert iqm([values[: count // 2], values[count // 2 :]]).value == pytest.approx(trim_mean(values, 0.25))


def test_the_bootstrap_interval_covers_as_often_as_it_says():
    generator = np.random.default_rng(1)
    offsets = (0.0, 0.5)  # two tasks; the law of the mixture is symmetric, so its interquartile mean is its centre
    inside = 0
    for _ in range(200):
        strata = [generator.normal(offset, 1.0, size=25) for offset in offsets]
        found = iqm(strata, resamples=400)
        assert found.low <= found.value <= found.high
        inside += found.low <= 0.25 <= found.high
    assert 0.89 <= inside / 200 <= 0.99


def test_strata_keep_differences_between_tasks_out_of_the_interval():
    # Stratified, each task keeps its share of the sample: nothing varies where runs of a task agree.
    assert iqm([[0.0] * 5, [100.0] * 5]).high - iqm([[0.0] * 5, [100.0] * 5]).low == 0.0


def test_one_run_a_task_has_no_interval():
    found = iqm([[0.5], [0.7]])
    assert found.value == pytest.approx(0.6)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isnan(iqm([[], []]).value)
    assert math.isnan(improvement([[1.0]], [[]]).value)


def test_the_probability_of_improvement_counts_pairs_task_by_task():
    generator = np.random.default_rng(2)
    ours = [np.round(generator.normal(0.3, 1, size=6), 1), np.round(generator.normal(0.0, 1, size=9), 1)]
    theirs = [np.round(generator.normal(0.0, 1, size=5), 1), np.round(generator.normal(0.0, 1, size=4), 1)]
    by_hand = []
    for one, other in zip(ours, theirs, strict=True):
        points = [1.0 if x > y else 0.5 if x == y else 0.0 for x, y in itertools.product(one, other)]
        by_hand.append(sum(points) / len(points))
    found = improvement(ours, theirs)
    assert found.value == pytest.approx(sum(by_hand) / 2)
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0
    assert improvement(theirs, ours).value == pytest.approx(1.0 - found.value)
    assert improvement(ours, theirs) == found
    assert improvement([[2.0, 3.0]], [[0.0, 1.0]]).low == 1.0


@pytest.mark.parametrize("count", [1, 4, 10, 25])
def test_signed_ranks_without_ties_are_scipy_s_exact_test(count):
    differences = np.random.default_rng(count).normal(0.4, 1.0, size=count)
    assert signed_rank(differences) == pytest.approx(wilcoxon(differences, method="exact").pvalue)


def test_signed_ranks_with_ties_enumerate_every_sign():
    differences = np.array([0.1, 0.1, -0.1, 0.3, 0.3, -0.2, 0.5, 0.0, 0.5, 0.4])
    known = differences[differences != 0]
    ranks = rankdata(np.abs(known))
    seen = ranks[known > 0].sum()
    sums = np.array([ranks @ np.array(signs) for signs in itertools.product((0, 1), repeat=len(known))])
    tail = min((sums <= seen + 1e-9).mean(), (sums >= seen - 1e-9).mean())
    assert signed_rank(differences) == pytest.approx(min(1.0, 2 * tail))
    assert signed_rank([0.0, 0.0]) == 1.0


def test_signed_ranks_of_many_are_scipy_s_approximation():
    differences = np.round(np.random.default_rng(5).normal(0.1, 1.0, size=300), 1)
    known = differences[differences != 0]
    expected = wilcoxon(known, method="asymptotic", correction=False).pvalue
    assert signed_rank(differences) == pytest.approx(expected, rel=1e-6)


def test_holm_by_the_textbook():
    # Four tests at 0.01, 0.04, 0.03, 0.005: 0.005 * 4, 0.01 * 3, 0.03 * 2, then 0.04 * 1 held at the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    # What could not be tested is no part of the family.
    assert holm([0.03, math.nan, 0.01])[::2] == pytest.approx([0.03, 0.02])
    assert math.isnan(holm([0.03, math.nan, 0.01])[1])

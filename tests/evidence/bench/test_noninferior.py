"""Relative differences with intervals, against scipy, and what is made of them."""

import math

import numpy as np
import pytest
from scipy import stats

from autobatch.evidence.bench._noninferior import non_inferiority, relative_difference
from tests.evidence.bench.test_bench import a_run

BASE = [0.0300, 0.0304, 0.0298, 0.0301, 0.0302]
OURS = [0.0306, 0.0309, 0.0308, 0.0305, 0.0307]


def by_scipy(ours, theirs):
    """Welch's interval of the values over their own means, whose difference is 0: scipy has variance and freedom."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    centre = math.log(ours.mean() / theirs.mean())
    interval = stats.ttest_ind(ours / ours.mean(), theirs / theirs.mean(), equal_var=False).confidence_interval(0.95)
    return [math.expm1(centre + reach) for reach in (0.0, interval.low, interval.high)]


@pytest.mark.parametrize("seed", range(5))
def test_one_task_is_welch_s_test_on_values_over_their_means(seed):
    generator = np.random.default_rng(seed)
    ours, theirs = generator.gamma(50.0, 0.001, size=4 + seed), generator.gamma(20.0, 0.002, size=6)
    found = relative_difference([(ours, theirs)])
    assert (found.value, found.low, found.high) == pytest.approx(by_scipy(ours, theirs))
    # Where values differ little, the logarithms of the values say nearly the same.
    ours, theirs = generator.normal(1.02, 0.005, size=8), generator.normal(1.0, 0.01, size=8)
    logs = stats.ttest_ind(np.log(ours), np.log(theirs), equal_var=False).confidence_interval(0.95)
    found = relative_difference([(ours, theirs)])
    assert (found.low, found.high) == pytest.approx((math.expm1(logs.low), math.expm1(logs.high)), abs=2e-4)
    # Ours and theirs exchanged, the ratio is turned over.
    back = relative_difference([(theirs, ours)])
    assert 1.0 + back.high == pytest.approx(1.0 / (1.0 + found.low))


def test_over_tasks_it_is_the_mean_of_the_logarithms():
    generator = np.random.default_rng(7)
    pairs = [(generator.normal(1.0 + k, 0.1, size=5), generator.normal(1.0 + k, 0.2, size=5)) for k in range(3)]
    found = relative_difference(pairs)
    parts = [(side.var(ddof=1) / side.mean() ** 2 / 5 / 9, 4) for pair in pairs for side in pair]
    variance = sum(own for own, _ in parts)
    freedom = variance**2 / sum(own**2 / df for own, df in parts)
    centre = np.mean([math.log(ours.mean() / theirs.mean()) for ours, theirs in pairs])
    low, high = stats.t.interval(0.95, freedom, centre, math.sqrt(variance))
    assert (found.value, found.low, found.high) == pytest.approx([math.expm1(x) for x in (centre, low, high)])
    # The same task three times says the same, more surely.
    once, thrice = relative_difference(pairs[:1]), relative_difference(pairs[:1] * 3)
    assert thrice.value == pytest.approx(once.value)
    assert once.low < thrice.low < thrice.high < once.high


def test_the_interval_covers_as_often_as_it_says():
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(1000):
        ours, theirs = generator.normal(1.05, 0.05, size=5), generator.normal(1.0, 0.1, size=5)
        found = relative_difference([(ours, theirs)])
        inside += found.low <= 0.05 <= found.high
    assert 0.93 <= inside / 1000 <= 0.97


def test_what_cannot_be_known_has_no_interval():
    assert math.isnan(relative_difference([]).value)
    assert math.isnan(relative_difference([([], [1.0])]).value)
    assert math.isnan(relative_difference([([1.0, 2.0], [0.0, 0.0])]).value)
    assert relative_difference([([0.0, 0.0], [1.0, 2.0])]).value == -1.0
    for ours, theirs in (([1.1], [1.0, 1.1]), ([1.1, 1.1], [1.0, 1.0])):
        found = relative_difference([(ours, theirs)])
        assert found.value == pytest.approx(np.mean(ours) / np.mean(theirs) - 1.0)
        assert math.isnan(found.high)
    # One side without spread leaves that of the other.
    found = relative_difference([([1.1, 1.1, 1.1], [1.0, 1.1, 1.2])])
    assert found.low < found.value < found.high


def test_a_policy_is_judged_by_where_its_interval_ends():
    def runs(env, policy, values):
        return [a_run(policy, seed, value, env=env, test_loss=10 * value) for seed, value in enumerate(values)]

    one = [*runs("one", "best", BASE), *runs("one", "ours", OURS), *runs("one", "bad", [2 * each for each in BASE])]
    wide = [0.02, 0.03, 0.04, 0.03, 0.03]
    two = [*runs("two", "s8", BASE), *runs("two", "ours", wide), *runs("two", "best", BASE)]
    found = {(each.policy, each.figure): each for each in non_inferiority("one", [(one, "best")], 0.05)}
    assert {(policy, each.verdict) for (policy, _), each in found.items()} == {
        ("ours", "non-inferior"),
        ("bad", "inferior"),
    }
    ours = found["ours", "test_error"]
    assert (ours.tasks, ours.runs, ours.reference_runs, ours.margin) == (1, 5, 5, 0.05)
    assert [ours.difference.value, ours.difference.low, ours.difference.high] == pytest.approx(by_scipy(OURS, BASE))
    assert found["ours", "test_loss"].difference.high == pytest.approx(ours.difference.high)
    # The margin decides, and a wide interval is no answer.
    strict = non_inferiority("one", [(one, "best")], ours.difference.low / 2)
    assert {each.verdict for each in strict if each.policy == "ours"} == {"inferior"}
    assert {each.verdict for each in non_inferiority("two", [(two, "s8")], 0.05) if each.policy == "ours"} == {"open"}
    # Over both, where "best" is the reference of one only.
    both = {(each.policy, each.figure): each for each in non_inferiority("all", [(one, "best"), (two, "s8")], 0.05)}
    assert both["ours", "test_error"].tasks == 2
    assert both["best", "test_error"].tasks == both["bad", "test_error"].tasks == 1
    pooled = relative_difference([(OURS, BASE), (wide, BASE)])
    assert both["ours", "test_error"].difference == pooled


def test_a_policy_with_a_diverged_run_is_not_judged():
    lost = a_run("ours", 5, math.nan, stopped_because="diverged: loss is nan")
    runs = [a_run("best", seed, error) for seed, error in enumerate(BASE)]
    runs += [a_run("ours", seed, error / 2) for seed, error in enumerate(BASE)]
    for one in non_inferiority("tiny", [([*runs, lost], "best")], 0.05):
        assert (one.verdict, one.diverged) == ("diverged", 1)

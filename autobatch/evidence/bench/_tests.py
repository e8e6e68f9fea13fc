"""Is one policy's figure another's? Tests between two policies over their seeds, and what they leave open."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from autobatch._arrays import Floats
from autobatch.evidence._statistics import LEVEL, NOTHING, Estimate, holm, signed_rank
from autobatch.evidence.bench._compared import ComparedRun

STUDENT, WELCH, PAIRED, SIGNED_RANK = "student", "welch", "paired", "signed_rank"
TESTS = (STUDENT, WELCH, PAIRED, SIGNED_RANK)
"""Two-sample t-tests with equal variances (Student, as in the paper's Table 1) and without (Welch), and by seed the
paired t-test and Wilcoxon's signed-rank test."""

_ROUND_OFF = 1e-12


@dataclass(frozen=True)
class PolicyTest:
    """One figure of a policy against that of the reference, which is the best fixed beacon where there are beacons.

    Attributes:
        policy: the policy.
        figure: ``"test_error"`` or the task's score.
        test: one of ``TESTS``.
        runs: runs of the policy that the test uses. Diverged ones have no figure for t-tests; the signed-rank test
            takes them as worse than any other.
        reference_runs: runs of the reference that the test uses.
        p: two-sided p-value; NaN where runs are too few or do not differ among themselves.
        p_holm: the same after Holm's correction for all policies of this figure and test.
    """

    policy: str
    figure: str
    test: str
    runs: int
    reference_runs: int
    p: float
    p_holm: float


def mean_interval(values: ArrayLike) -> Estimate:
    """Return a mean with its 95 % interval by Student's t."""
    known = np.asarray(values, dtype=np.float64)
    if not known.size:
        return NOTHING
    mean = float(known.mean())
    if known.size < 2:
        return Estimate(mean, math.nan, math.nan)
    reach = _quantile(known.size - 1) * float(known.std(ddof=1)) / math.sqrt(known.size)
    return Estimate(mean, mean - reach, mean + reach)


def mean_difference(ours: ArrayLike, theirs: ArrayLike) -> Estimate:
    """Return the difference of two means with its 95 % interval by Student's t, the variances taken as equal."""
    one, other = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if not one.size or not other.size:
        return NOTHING
    difference, freedom = float(one.mean() - other.mean()), one.size + other.size - 2
    if freedom < 1:
        return Estimate(difference, math.nan, math.nan)
    squares = sum(float(np.sum((values - values.mean()) ** 2)) for values in (one, other))
    reach = _quantile(freedom) * math.sqrt(squares / freedom * (1.0 / one.size + 1.0 / other.size))
    return Estimate(difference, difference - reach, difference + reach)


def two_sample(ours: ArrayLike, theirs: ArrayLike, *, equal_variances: bool) -> float:
    """Return the two-sided p-value of a two-sample t-test."""
    one, other = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if min(one.size, other.size) < 2:
        return math.nan
    if _constant(one) and _constant(other):
        return _without_spread(float(one.mean() - other.mean()), one, other)
    figures = [(float(values.mean()), float(values.std(ddof=1)), values.size) for values in (one, other)]
    return float(stats.ttest_ind_from_stats(*figures[0], *figures[1], equal_var=equal_variances).pvalue)


def paired_t(ours: ArrayLike, theirs: ArrayLike) -> float:
    """Return the two-sided p-value of the paired t-test."""
    one, other = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if one.size < 2:
        return math.nan
    differences = one - other
    scale = max(float(np.abs(one).max()), float(np.abs(other).max()))
    if float(np.ptp(differences)) <= _ROUND_OFF * scale:
        return _without_spread(float(differences.mean()), one, other)
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def policy_tests(
    runs: Sequence[ComparedRun], *, policies: Sequence[str], reference: str, score: str
) -> tuple[PolicyTest, ...]:
    """Test every policy against the reference, by its test error and by the task's score."""
    found: list[PolicyTest] = []
    for figure in ("test_error", score):
        values: dict[str, dict[int, float]] = {policy: {} for policy in policies}
        for run in runs:
            # What diverged is worse than anything else.
            value = float(getattr(run, figure)) if run.finished else math.inf
            if not math.isnan(value):
                values[run.policy][run.seed] = value
        theirs = values.pop(reference)
        for test in TESTS:
            own = [
                _tested(PolicyTest(policy, figure, test, 0, 0, 0.0, 0.0), values[policy], theirs) for policy in values
            ]
            found += [replace(one, p_holm=p) for one, p in zip(own, holm([one.p for one in own]), strict=True)]
    return tuple(found)


def _tested(blank: PolicyTest, own: Mapping[int, float], theirs: Mapping[int, float]) -> PolicyTest:
    """Fill in a test of a figure by seed; infinite for a run that diverged."""
    if blank.test in (STUDENT, WELCH):
        mine, other = ([value for value in side.values() if math.isfinite(value)] for side in (own, theirs))
        p = two_sample(mine, other, equal_variances=blank.test == STUDENT)
        return replace(blank, runs=len(mine), reference_runs=len(other), p=p)
    pairs = [(own[seed], theirs[seed]) for seed in own if seed in theirs]
    if blank.test == PAIRED:
        pairs = [pair for pair in pairs if all(map(math.isfinite, pair))]
        p = paired_t([one for one, _ in pairs], [other for _, other in pairs])
    else:
        # Where both diverged there is nothing to choose between them. Rounded, so that differences of as many examples
        # are a tie.
        differences = [0.0 if one == other else one - other for one, other in pairs]
        p = signed_rank(np.round(differences, 12)) if pairs else math.nan
    return replace(blank, runs=len(pairs), reference_runs=len(pairs), p=p)


def _without_spread(difference: float, *sides: Floats) -> float:
    scale = max(float(np.abs(side).max()) for side in sides)
    return 1.0 if abs(difference) <= _ROUND_OFF * scale else math.nan


def _constant(values: Floats) -> bool:
    return bool(np.ptp(values) <= _ROUND_OFF * np.abs(values).max())


def _quantile(freedom: int) -> float:
    return float(stats.t.ppf(0.5 + LEVEL / 2.0, freedom))

"""No worse than by so much? Relative differences of final test figures, with intervals, on each task and over all.

A p-value above 0.05 shows no equality. What shows that a policy is as good as the reference, up to a margin, is an
interval of their difference that ends below the margin (Piaggio et al., "Reporting of noninferiority and equivalence
randomized trials", JAMA 308, 2012).

The difference is relative, so that tasks can be put together: the ratio of two means, less one. Its interval is that of
the logarithm of the ratio, whose variance is s²/(n m²) of either side, added up, by the delta method (Hedges, Gurevitch
and Curtis, "The meta-analysis of response ratios in experimental ecology", Ecology 80, 1999, equation 1), with the
degrees of freedom of Welch and Satterthwaite, as the variances of a policy and of the reference need not be equal. Over
tasks it is the mean of the logarithms: tasks are fixed strata of equal weight, as in the bootstrap of the aggregates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from autobatch.evidence._statistics import LEVEL, NOTHING, Estimate, finite
from autobatch.evidence.bench._compared import ComparedRun

FIGURES = ("test_loss", "test_error")
"""Figures that are judged so."""

ALL = "all"
"""What stands for all tasks together."""

NON_INFERIOR, INFERIOR, OPEN, DIVERGED = "non-inferior", "inferior", "open", "diverged"
"""Verdicts: the interval ends at the margin or below; it begins above; neither, or there is none; a run diverged, whose
figure no interval can hold."""


@dataclass(frozen=True)
class NonInferiority:
    """A final test figure of a policy beside the reference's, in relation to it.

    Attributes:
        env: the task; ``"all"`` for all tasks on which both train.
        policy: the policy.
        figure: ``"test_loss"`` or ``"test_error"``.
        tasks: tasks that it is taken over.
        runs: runs of the policy that the interval uses.
        reference_runs: runs of the reference.
        diverged: further runs of the policy, which diverged.
        difference: relative difference of the means, 0.05 where the policy's is 5 % above; below 0 it is better.
        margin: the relative difference that is put up with.
        verdict: ``"non-inferior"``, ``"inferior"``, ``"open"`` or ``"diverged"``.
    """

    env: str
    policy: str
    figure: str
    tasks: int
    runs: int
    reference_runs: int
    diverged: int
    difference: Estimate
    margin: float
    verdict: str


@dataclass(frozen=True)
class _LogRatio:
    """Logarithm of a ratio of means; variance and degrees of freedom of either side."""

    value: float
    parts: tuple[tuple[float, int], ...]


def relative_difference(pairs: Sequence[tuple[ArrayLike, ArrayLike]]) -> Estimate:
    """Return how much higher our mean is than theirs, in relation to theirs, with its 95 % interval.

    Args:
        pairs: our values and theirs on each task, all from 0 on.

    Returns:
        The geometric mean over tasks of the ratios of means, less one. Without an interval where a side has one value
        only, or nothing differs; -1 where all of ours are 0; not known where theirs are.
    """
    ratios = [_log_ratio(ours, theirs) for ours, theirs in pairs]
    if not ratios or any(math.isnan(ratio.value) for ratio in ratios):
        return NOTHING
    value = sum(ratio.value for ratio in ratios) / len(ratios)
    parts = [(variance / len(ratios) ** 2, freedom) for ratio in ratios for variance, freedom in ratio.parts]
    variance = sum(own for own, _ in parts)
    if not math.isfinite(value) or not all(freedom for _, freedom in parts) or variance <= 0.0:
        return Estimate(math.expm1(value), math.nan, math.nan)
    freedom = variance**2 / sum(own**2 / own_freedom for own, own_freedom in parts)
    reach = float(stats.t.ppf(0.5 + LEVEL / 2.0, freedom)) * math.sqrt(variance)
    return Estimate(*(math.expm1(end) for end in (value, value - reach, value + reach)))


def non_inferiority(
    env: str, tasks: Sequence[tuple[Sequence[ComparedRun], str]], margin: float
) -> tuple[NonInferiority, ...]:
    """Set the final test figures of every policy beside those of the reference.

    Args:
        env: what the tasks are called together.
        tasks: the runs of each task, and its reference.
        margin: the relative difference that is put up with.

    Returns:
        Every figure and policy, over the tasks on which it trains beside another reference.
    """
    found = []
    for figure in FIGURES:
        for policy in dict.fromkeys(run.policy for runs, _ in tasks for run in runs):
            beside = [
                (runs, reference)
                for runs, reference in tasks
                if policy != reference and any(run.policy == policy for run in runs)
            ]
            own = [run for runs, _ in beside for run in runs if run.policy == policy]
            if not own:
                continue
            pairs = [(_known(runs, policy, figure), _known(runs, reference, figure)) for runs, reference in beside]
            difference = relative_difference(pairs)
            diverged = sum(not run.finished for run in own)
            found.append(
                NonInferiority(
                    env=env,
                    policy=policy,
                    figure=figure,
                    tasks=len(pairs),
                    runs=sum(len(ours) for ours, _ in pairs),
                    reference_runs=sum(len(theirs) for _, theirs in pairs),
                    diverged=diverged,
                    difference=difference,
                    margin=margin,
                    verdict=DIVERGED if diverged else _verdict(difference, margin),
                )
            )
    return tuple(found)


def _verdict(difference: Estimate, margin: float) -> str:
    return NON_INFERIOR if difference.high <= margin else INFERIOR if difference.low > margin else OPEN


def _known(runs: Sequence[ComparedRun], policy: str, figure: str) -> list[float]:
    return finite(float(getattr(run, figure)) for run in runs if run.policy == policy and run.finished)


def _log_ratio(ours: ArrayLike, theirs: ArrayLike) -> _LogRatio:
    sides = [np.asarray(values, dtype=np.float64) for values in (ours, theirs)]
    if not all(side.size for side in sides) or sides[1].mean() <= 0.0:
        return _LogRatio(math.nan, ())
    if sides[0].mean() <= 0.0:
        return _LogRatio(-math.inf, ())
    parts = tuple(
        (float(side.var(ddof=1) / side.mean() ** 2 / side.size) if side.size > 1 else 0.0, side.size - 1)
        for side in sides
    )
    return _LogRatio(float(np.log(sides[0].mean() / sides[1].mean())), parts)

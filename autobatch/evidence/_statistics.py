"""What a few runs on a few tasks can say: interquartile means, bootstrap intervals and paired tests.

Aggregates and their intervals are those of Agarwal et al., "Deep reinforcement learning at the edge of the statistical
precipice" (NeurIPS 2021): tasks are strata, and runs are drawn anew within each of them. Their library, rliable, wants
an old arch, statsmodels, pandas and seaborn, and ``scipy.stats.bootstrap`` refuses a task with one run; hence this.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, rankdata, trim_mean

from autobatch._arrays import Floats

LEVEL = 0.95
"""Share of cases that an interval is to cover."""

RESAMPLES = 4000
"""Bootstrap samples of an interval."""

TRIMMED = 0.25
"""Share of the values that an interquartile mean leaves out at either end."""

EXACT_UP_TO = 200
"""Differences up to which a signed-rank test enumerates its distribution."""

_SEED = 0x6576616C


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        value: the figure; NaN where there is nothing to take it of.
        low: lower end of the interval; NaN where every stratum has one value only, which says nothing of its spread.
        high: upper end of the interval.
    """

    value: float
    low: float
    high: float


NOTHING = Estimate(math.nan, math.nan, math.nan)


def iqm(strata: Sequence[ArrayLike], *, resamples: int = RESAMPLES) -> Estimate:
    """Return the interquartile mean of all runs, with a stratified percentile-bootstrap interval.

    Args:
        strata: the values of each task, one a run; tasks without a value are left out.
        resamples: bootstrap samples.

    Returns:
        The estimate; the same values always give the same interval.
    """
    known = _known(strata)
    if not known:
        return NOTHING
    value = float(trim_mean(np.concatenate(known), TRIMMED))
    if all(len(stratum) < 2 for stratum in known):
        return Estimate(value, math.nan, math.nan)
    generator = np.random.default_rng(_SEED)
    drawn = np.concatenate([_redrawn(stratum, resamples, generator) for stratum in known], axis=1)
    return Estimate(value, *_percentiles(trim_mean(drawn, TRIMMED, axis=1)))


def improvement(ours: Sequence[ArrayLike], theirs: Sequence[ArrayLike]) -> Estimate:
    """Return the probability that a run of ours has a higher value than one of theirs on a task drawn at random.

    A tie counts as half. The interval draws both sides' runs anew within each task.

    Args:
        ours: our values of each task.
        theirs: their values of the same tasks, in the same order; tasks that either side lacks are left out.

    Returns:
        The estimate, in [0, 1].
    """
    pairs = [
        (one, other)
        for one, other in zip(map(_values, ours), map(_values, theirs), strict=True)
        if one.size * other.size
    ]
    if not pairs:
        return NOTHING
    value = float(np.mean([_win_rate(one, other) for one, other in pairs]))
    if all(len(one) < 2 and len(other) < 2 for one, other in pairs):
        return Estimate(value, math.nan, math.nan)
    generator = np.random.default_rng(_SEED)
    drawn = [
        _win_rate(_redrawn(one, RESAMPLES, generator), _redrawn(other, RESAMPLES, generator)) for one, other in pairs
    ]
    return Estimate(value, *_percentiles(np.mean(drawn, axis=0)))


def signed_rank(differences: ArrayLike) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test: are paired differences symmetric about zero?

    Differences of zero are left out, ties share their ranks. Up to ``EXACT_UP_TO`` differences the distribution over
    all assignments of signs is enumerated, ties or not; beyond, it is taken as normal with a correction for ties.

    Args:
        differences: paired differences, one an instance; none may be NaN.

    Returns:
        The p-value; 1 where nothing differs.
    """
    known = _values(differences)
    known = known[known != 0.0]
    if not known.size:
        return 1.0
    doubled = np.rint(2.0 * rankdata(np.abs(known))).astype(np.int64)  # shared ranks are halves
    above = int(doubled[known > 0.0].sum())
    if len(known) > EXACT_UP_TO:
        mean, variance = doubled.sum() / 2.0, float((doubled.astype(np.float64) ** 2).sum()) / 4.0
        return float(min(1.0, 2.0 * norm.sf(abs(above - mean) / math.sqrt(variance))))
    # Probability of each sum of the ranks with a positive sign, every sign being a fair coin.
    chances = np.zeros(int(doubled.sum()) + 1)
    chances[0] = 1.0
    for rank in doubled:
        chances[rank:] = 0.5 * (chances[rank:] + chances[: len(chances) - rank])
        chances[:rank] *= 0.5
    return float(min(1.0, 2.0 * min(chances[: above + 1].sum(), chances[above:].sum())))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct the p-values of several tests so that the chance of any false finding stays at the level (Holm 1979).

    Args:
        p_values: one a test; NaN for what could not be tested, which is no part of the family.

    Returns:
        The corrected p-values, in the same order; NaN where they were.
    """
    order = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    corrected, highest = [math.nan] * len(p_values), 0.0
    for place, (p, index) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - place) * p))
        corrected[index] = highest
    return corrected


def finite(values: Iterable[float]) -> list[float]:
    """Return the values that are known."""
    return [value for value in values if math.isfinite(value)]


def rounded(value: float, digits: int) -> float | None:
    """Return a figure for a file: rounded, and None where it is not finite."""
    return round(float(value), digits) if math.isfinite(value) else None


def _values(stratum: ArrayLike) -> Floats:
    return np.asarray(stratum, dtype=np.float64).reshape(-1)


def _known(strata: Sequence[ArrayLike]) -> list[Floats]:
    return [stratum for stratum in map(_values, strata) if stratum.size]


def _redrawn(stratum: Floats, resamples: int, generator: np.random.Generator) -> Floats:
    return stratum[generator.integers(len(stratum), size=(resamples, len(stratum)))]


def _win_rate(ours: Floats, theirs: Floats) -> Floats:
    """Return the share of pairs that ours wins, along the last axis of both."""
    # Run by run: all pairs of all resamples at once would take gigabytes for a hundred runs.
    wins = [((one > theirs) + 0.5 * (one == theirs)).mean(axis=-1) for one in np.moveaxis(ours, -1, 0)[..., None]]
    return np.asarray(np.mean(wins, axis=0))


def _percentiles(statistics: Floats) -> tuple[float, float]:
    tail = 50.0 * (1.0 - LEVEL)
    low, high = np.percentile(statistics, [tail, 100.0 - tail])
    return float(low), float(high)

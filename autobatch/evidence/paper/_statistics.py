"""The statistics behind the claims: tests between seeds, trends along a grid, compactness of a few among many."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autobatch._arrays import Floats

SIGNIFICANT = 0.05
"""p-value below which a test counts."""

_DRAWS = 20_000
_SEED = 20


@dataclass(frozen=True)
class Identification:
    """How well runs can be told by where they end.

    Attributes:
        runs: runs that were judged.
        correct: how many of them lie nearest to the mean of their own configuration's other seeds.
        chance: share of them that guessing would get right.
        pairs: pairs of configurations.
        apart: how many of them differ by Hotelling's test at 5 %, the covariance pooled over all.
    """

    runs: int
    correct: int
    chance: float
    pairs: int
    apart: int


def identify(groups: Sequence[Floats]) -> Identification:
    """Tell runs by their places, in units of the spread between seeds.

    Args:
        groups: for each configuration the places of its seeds, shape (seeds, 2).

    Returns:
        What was found; of no run where fewer than two configurations, or none, have two seeds.
    """
    freedom = sum(len(own) - 1 for own in groups)
    if freedom < 3 or len(groups) < 2:
        return Identification(0, 0, math.nan, 0, 0)
    inside = np.concatenate([own - own.mean(axis=0) for own in groups])
    covariance = inside.T @ inside / freedom
    inverse = np.linalg.pinv(covariance + 1e-12 * np.eye(covariance.shape[0]))
    means = np.array([own.mean(axis=0) for own in groups])
    runs = correct = 0
    for index, own in enumerate(groups):
        for seed in range(len(own)) if len(own) > 1 else ():
            rivals = means.copy()
            rivals[index] = np.delete(own, seed, axis=0).mean(axis=0)
            off = rivals - own[seed]
            runs += 1
            correct += int(np.argmin(np.einsum("ij,jk,ik->i", off, inverse, off)) == index)
    pairs = list(combinations(range(len(groups)), 2))
    apart = sum(_hotelling(groups[one], groups[other], inverse, freedom) < SIGNIFICANT for one, other in pairs)
    return Identification(runs, correct, 1.0 / len(groups), len(pairs), apart)


def _hotelling(one: Floats, other: Floats, inverse: Floats, freedom: int) -> float:
    from scipy.stats import f

    off = one.mean(axis=0) - other.mean(axis=0)
    squared = len(one) * len(other) / (len(one) + len(other)) * float(off @ inverse @ off)
    return float(f.sf(squared * (freedom - 1) / (2 * freedom), 2, freedom - 1))


def rank_correlation(one: ArrayLike, other: ArrayLike) -> float:
    """Return Spearman's rank correlation; NaN for fewer than three pairs or where either does not vary."""
    from scipy.stats import spearmanr

    if np.size(one) < 3 or np.ptp(one) == 0.0 or np.ptp(other) == 0.0:
        return math.nan
    return float(spearmanr(one, other).statistic)


def correlation_p(correlation: float, count: int) -> float:
    """Return the one-sided p-value of a positive rank correlation by the t approximation; 1 where it is not known."""
    from scipy.stats import t

    if not math.isfinite(correlation) or count < 4:
        return 1.0
    if abs(correlation) >= 1.0:
        return 0.0 if correlation > 0 else 1.0
    return float(t.sf(correlation * math.sqrt((count - 2) / (1.0 - correlation**2)), count - 2))


def compactness(coordinates: Floats, chosen: NDArray[np.intp]) -> tuple[float, float]:
    """Say how close together a few points are, beside as many drawn at random.

    Args:
        coordinates: all points, shape (n, d).
        chosen: indices of the few.

    Returns:
        Their mean distance from one another over that of random choices, and the share of random choices that are as
        close (a permutation p-value).
    """
    distances = np.sqrt(((coordinates[:, None] - coordinates[None]) ** 2).sum(axis=-1))
    generator = np.random.default_rng(_SEED)
    drawn = generator.random((_DRAWS, len(coordinates))).argpartition(len(chosen) - 1, axis=1)[:, : len(chosen)]
    pairs = np.array(list(combinations(range(len(chosen)), 2)))
    random = distances[drawn[:, pairs[:, 0]], drawn[:, pairs[:, 1]]].mean(axis=1)
    own = float(distances[chosen[pairs[:, 0]], chosen[pairs[:, 1]]].mean())
    p = (1 + int(np.sum(random <= own + 1e-12))) / (_DRAWS + 1)
    return own / float(random.mean()), p


def welch(one: ArrayLike, other: ArrayLike) -> float:
    """Return the two-sided p-value of the two-sample t-test without equal variances.

    NaN where either has fewer than two values, 1 where nothing varies and nothing differs.
    """
    from scipy.stats import ttest_ind

    ours, theirs = (np.asarray(values, dtype=np.float64) for values in (one, other))
    if min(len(ours), len(theirs)) < 2:
        return math.nan
    if np.ptp(ours) == 0.0 and np.ptp(theirs) == 0.0:
        return 1.0 if ours[0] == theirs[0] else 0.0
    return float(ttest_ind(ours, theirs, equal_var=False).pvalue)


def above_zero(values: ArrayLike) -> float:
    """Return the one-sided p-value of a t-test that values have a mean above 0; NaN for fewer than two."""
    from scipy.stats import ttest_1samp

    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < 2:
        return math.nan
    if np.ptp(sample) == 0.0:
        return 0.0 if sample[0] > 0.0 else 1.0
    return float(ttest_1samp(sample, 0.0, alternative="greater").pvalue)


def share_explained(values: Floats, labels: ArrayLike) -> float:
    """Return the share of the variance that lies between the groups of a label (eta squared); NaN for no variance."""
    groups = np.asarray(labels)
    total = float(np.sum((values - values.mean()) ** 2))
    if total == 0.0:
        return math.nan
    between = sum(
        float(np.sum(groups == group)) * float(values[groups == group].mean() - values.mean()) ** 2
        for group in np.unique(groups)
    )
    return between / total

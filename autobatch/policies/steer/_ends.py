"""What a longer training would come to, by how fast what is validated falls."""

import math
from collections.abc import Mapping
from itertools import combinations
from statistics import median

LOOK = 0.5
"""Share of the task's length whose figures are looked at."""

KEPT = 0.4
"""Share of the fall within a training that is left between trainings of different lengths."""

RISEN = 0.005
"""Share by which what is validated may have risen above its lowest, at the end, where a longer training is still
expected to end lower."""

TOLD = 0.04
"""Share from which on it is said how much lower: of smaller ones not even the direction is sure."""

FEWEST = 3
"""Figures that the slope is taken from, at least."""


def elasticity(figures: Mapping[int, float]) -> float | None:
    """Return by how many per cent a figure falls while the training gets 1 % longer.

    Args:
        figures: a figure by finished decision periods, lower is better.

    Returns:
        Minus the slope of its logarithm over that of the period, over the second half of the periods: the median of
        the slopes between any two (Theil 1950, Sen 1968), which single bad epochs leave alone. None where there are
        fewer than ``FEWEST`` figures, or where one is no positive number.
    """
    half = max(figures, default=0) / 2
    periods = sorted(figures)[-max(FEWEST, sum(period > half for period in figures)) :]
    if len(periods) < FEWEST or not all(0.0 < figures[period] < math.inf for period in periods):
        return None
    return -median(
        math.log(figures[after] / figures[before]) / math.log(after / before)
        for before, after in combinations(periods, 2)
    )


def lower_by(falls: float, end: int, other: int) -> float:
    """Return by which share a figure is expected to end lower where training ends later.

    Between whole trainings it falls as their length to the power of ``KEPT`` times what it falls by within one
    (``benchmarks/steering/ends.py``).

    Args:
        falls: what ``elasticity`` gives.
        end: where training ends.
        other: where it would.

    Returns:
        The share; negative where it would be higher.
    """
    return 1.0 - math.pow(end / other, KEPT * falls)

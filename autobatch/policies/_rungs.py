"""From a batch size that a rule asks for to a rung of the ladder."""

import math
from collections.abc import Sequence


def nearest_rung(batch_size: float, batch_sizes: Sequence[int]) -> int:
    """Return the rung with the smallest ratio to a size, from infinity to below 1; the smaller of two equally near."""
    within = min(max(batch_size, batch_sizes[0]), batch_sizes[-1])
    return min(batch_sizes, key=lambda rung: (abs(math.log(rung / within)), rung))


def rung_above(batch_size: float, batch_sizes: Sequence[int]) -> int:
    """Return the smallest rung that is not below a batch size; the last rung where all are."""
    return next((rung for rung in batch_sizes if rung >= batch_size), batch_sizes[-1])


def rung_below(batch_size: float, batch_sizes: Sequence[int]) -> int:
    """Return the largest rung that is not above a batch size; the first rung where all are."""
    return next((rung for rung in reversed(batch_sizes) if rung <= batch_size), batch_sizes[0])

"""Ticks of logarithmic axes and colour bars, coarse or fine as the range is wide or narrow."""

import math

_COARSE = (1.0, 2.0, 5.0)
_MEDIUM = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
_FINE = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
_ENOUGH = 3
_MOST = 8


def log_ticks(low: float, high: float) -> list[float]:
    """Return 3 to 8 round values, ascending, within a range above 0 of any size; fewer only where it is a point."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1.0,), _COARSE, _MEDIUM, _FINE):
        values = [step * 10.0**power for power in powers for step in steps]
        found = [float(f"{value:.6g}") for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        if len(found) >= _ENOUGH:
            return found[:: math.ceil(len(found) / _MOST)]
    return linear_ticks(low, high)


def linear_ticks(low: float, high: float) -> list[float]:
    """Return 3 to 8 round values, ascending and evenly spread, within a range; fewer only where it is a point."""
    if not high > low:
        return [low]
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * min((1.0, 2.0, 2.5, 5.0, 10.0), key=lambda one: abs(one - rough / power))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.6g}") for number in range(first, last + 1)]


def error_ticks(low: float, high: float) -> list[float]:
    """Return round shares within a range, ascending from 0.01 % on, at least three where round values allow it."""
    found: list[float] = []
    for steps in (_COARSE, _FINE):
        values = [step * 10.0**power for power in range(-4, 1) for step in steps]
        found = [value for value in values if low <= value <= min(high, 1.0)]
        if len(found) >= _ENOUGH:
            break
    return found

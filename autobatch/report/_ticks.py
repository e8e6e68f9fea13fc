"""Ticks of a logarithmic axis of errors, coarse or fine as its range is wide or narrow."""

_COARSE = (1.0, 2.0, 5.0)
_FINE = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
_ENOUGH = 3


def error_ticks(low: float, high: float) -> list[float]:
    """Return round values within a range, at least three where round values allow it.

    Args:
        low: lower end of the axis, a share.
        high: upper end.

    Returns:
        The values, ascending; none below a hundredth of a percent.
    """
    found: list[float] = []
    for steps in (_COARSE, _FINE):
        values = [step * 10.0**power for power in range(-4, 1) for step in steps]
        found = [value for value in values if low <= value <= min(high, 1.0)]
        if len(found) >= _ENOUGH:
            break
    return found

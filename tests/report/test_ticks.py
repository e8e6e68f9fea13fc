"""Ticks of error axes."""

import pytest

from autobatch.report._ticks import error_ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0009, 0.06, [0.001, 0.002, 0.005, 0.01, 0.02, 0.05]),
        (0.37, 0.72, [0.4, 0.5, 0.6, 0.7]),  # one in the coarse steps
        (0.45, 1.4, [0.5, 0.6, 0.7, 0.8, 1.0]),  # an axis may go beyond 100 %, an error can't
        (0.61, 0.62, []),
    ],
)
def test_error_ticks(low: float, high: float, expected: list[float]):
    assert error_ticks(low, high) == pytest.approx(expected)

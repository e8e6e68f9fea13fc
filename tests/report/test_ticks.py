"""Ticks of error axes."""

import pytest

from autobatch.report.plane._ticks import error_ticks, linear_ticks, log_ticks


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


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.105, 2.3, [0.2, 0.5, 1.0, 2.0]),
        (2.3, 15.2, [3.0, 5.0, 7.0, 10.0, 15.0]),
        (1.0, 1e6, [1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6]),
        (1e-3, 1e9, [1e-3, 0.1, 10.0, 1e3, 1e5, 1e7, 1e9]),
        (0.0312, 0.0341, [0.0315, 0.032, 0.0325, 0.033, 0.0335, 0.034]),
        (0.3, 0.3, [0.3]),
    ],
)
def test_a_logarithmic_scale_of_any_span_has_round_ticks(low, high, ticks):
    assert log_ticks(low, high) == pytest.approx(ticks)


def test_a_linear_scale_has_round_ticks():
    assert linear_ticks(0.021, 0.148) == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.125])
    assert linear_ticks(0.5, 0.5) == [0.5]

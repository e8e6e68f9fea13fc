"""Measuring plans: the paper's rule, and how samples are spread over an epoch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch import _errors
from autobatch.control import MeasureAtInterval, NeverMeasure
from autobatch.control.measuring._measuring import at_interval, middles, stretches


@given(steps=st.integers(1, 500), data=st.data())
def test_stretches_are_even_and_cover_the_epoch(steps: int, data: st.DataObject) -> None:
    samples = data.draw(st.integers(1, steps))
    parts = stretches(steps, samples)
    assert [step for start, stop in parts for step in range(start, stop)] == list(range(steps))
    assert len(parts) == samples
    lengths = [stop - start for start, stop in parts]
    assert max(lengths) - min(lengths) <= 1
    chosen = middles(steps, samples)
    before, after = zip(
        *((step - start, stop - 1 - step) for step, (start, stop) in zip(chosen, parts, strict=True)), strict=True
    )
    assert all(0 <= right - left <= 1 for left, right in zip(before, after, strict=True))


def test_no_samples_are_no_steps() -> None:
    assert stretches(10, 0) == []
    assert middles(10, 0) == ()


def test_the_papers_rule_is_the_first_batch_and_every_fiftieth() -> None:
    assert at_interval(391, interval=50, floor=4) == (0, 50, 100, 150, 200, 250, 300, 350)


@pytest.mark.parametrize(
    ("steps", "chosen"),
    [(1, (0,)), (2, (0, 1)), (15, (1, 4, 8, 12)), (150, (18, 55, 93, 130)), (151, (0, 50, 100, 150))],
)
def test_an_interval_has_a_floor(steps: int, chosen: tuple[int, ...]) -> None:
    assert MeasureAtInterval(50, floor=4).choose(64, steps + 1, steps, changed=False) == chosen


def test_never_is_never() -> None:
    assert NeverMeasure().choose(8, 100, 100, changed=True) == ()


def test_impossible_intervals_are_refused() -> None:
    with pytest.raises(_errors.ConfigError, match="at least 1"):
        MeasureAtInterval(0)

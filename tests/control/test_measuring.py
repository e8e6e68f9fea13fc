"""Measuring plans: the paper's rule, and a budget that is kept without a clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch import _errors
from autobatch.beacons import CostTable
from autobatch.control import MeasureAtInterval, MeasureWithinBudget, NeverMeasure
from autobatch.control._measuring import at_interval, middles, stretches

COSTS = CostTable(
    device="test",
    step_seconds={8: 0.003, 64: 0.007, 512: 0.04},
    measuring_seconds={8: 0.006, 64: 0.02, 512: 0.4},
    epoch_seconds=0.01,
)
STEPS = {8: 122, 64: 15, 512: 2}


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


def run_plan(plan: MeasureWithinBudget, sizes: list[int]) -> list[int]:
    """Return the samples of each epoch."""
    before = [0, *sizes]
    return [
        len(plan.choose(size, STEPS[size], STEPS[size], changed=size != last))
        for size, last in zip(sizes, before, strict=False)
    ]


def modelled_share(sizes: list[int], samples: list[int]) -> float:
    measuring = sum(COSTS.measuring(size) * count for size, count in zip(sizes, samples, strict=True))
    return measuring / sum(COSTS.training_seconds(size, STEPS[size], 1) for size in sizes)


@pytest.mark.parametrize("size", [8, 64, 512])
def test_a_budget_is_kept_and_used_up(size: int) -> None:
    sizes = [size] * 400
    samples = run_plan(MeasureWithinBudget(0.1, COSTS), sizes)
    one_sample = COSTS.measuring(size) / (400 * COSTS.training_seconds(size, STEPS[size], 1))
    assert 0.1 - one_sample <= modelled_share(sizes, samples) <= 0.1 + one_sample


def test_a_change_of_batch_size_is_measured_at_once_and_paid_back() -> None:
    plan = MeasureWithinBudget(0.1, COSTS)
    sizes = [512, 512, 8, *[512] * 120]
    samples = run_plan(plan, sizes)
    assert samples[0] == 1
    assert samples[1] == 0
    assert samples[2] >= 1
    assert samples[3] == 1
    assert modelled_share(sizes, samples) <= 0.1 + COSTS.measuring(512) / 5


def test_the_opening_is_measured_whatever_it_costs_and_paid_back() -> None:
    sizes = [512] * 200
    samples = run_plan(MeasureWithinBudget(0.1, COSTS, opening=4), sizes)
    assert samples[:6] == [1, 1, 1, 1, 0, 0]
    assert modelled_share(sizes, samples) <= 0.1 + COSTS.measuring(512) / (200 * 0.09)


def test_a_budget_of_zero_measures_only_after_changes() -> None:
    assert run_plan(MeasureWithinBudget(0.0, COSTS), [8, 8, 64, 64, 8]) == [1, 0, 1, 0, 1]


def test_what_an_epoch_cannot_use_is_not_saved_up() -> None:
    plan = MeasureWithinBudget(0.9, COSTS)
    for _ in range(50):
        plan.choose(8, STEPS[8], full_steps=1, changed=False)
    assert len(plan.choose(8, STEPS[8], full_steps=100, changed=False)) <= 0.9 * 0.376 / 0.006 + 1


def test_a_plan_continues_from_its_state() -> None:
    sizes = [512, 64, 8, 512, 512, 64, 64, 8] * 3
    whole = run_plan(MeasureWithinBudget(0.1, COSTS), sizes)
    first = MeasureWithinBudget(0.1, COSTS)
    head = run_plan(first, sizes[:16])  # the next size differs from both 0 and the last one
    second = MeasureWithinBudget(0.1, COSTS)
    second.load_state_dict(first.state_dict())
    assert head + run_plan(second, sizes[16:]) == whole


def test_never_is_never() -> None:
    assert NeverMeasure().choose(8, 100, 100, changed=True) == ()


@pytest.mark.parametrize(("budget", "opening"), [(-0.1, 1), (float("nan"), 1), (float("inf"), 1), (0.1, -1)])
def test_impossible_budgets_are_refused(budget: float, opening: int) -> None:
    with pytest.raises(_errors.ConfigError, match="finite number of at least 0"):
        MeasureWithinBudget(budget, COSTS, opening)


def test_impossible_intervals_are_refused() -> None:
    with pytest.raises(_errors.ConfigError, match="at least 1"):
        MeasureAtInterval(0)

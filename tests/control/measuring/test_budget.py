"""Measuring within a share of the training time: the share is kept, and well used."""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch import _errors
from autobatch.beacons import BeaconLibrary, CostTable
from autobatch.control import MeasureWithinBudget, full_steps_per_epoch, steps_per_epoch
from autobatch.control.measuring._measuring import at_interval
from autobatch.policies import TaskInfo

ENVS = Path(__file__).resolve().parents[3] / "envs"
SHIPPED = {"digits-mlp": 979, "digits-resnet8": 979, "mnist10k-resnet8": 8000}
EPOCHS = 40
COSTS = CostTable(
    device="test",
    step_seconds={8: 0.003, 64: 0.007, 512: 0.04},
    measuring_seconds={8: 0.006, 64: 0.02, 512: 0.4},
    epoch_seconds=0.01,
)
ROUND_OFF = 1 + 1e-8


@pytest.fixture(scope="module")
def tables() -> dict[str, CostTable]:
    shipped = {name: BeaconLibrary.load(ENVS / name).costs for name in SHIPPED}
    return {name: table for name, table in shipped.items() if table is not None}


def make_task(train_size: int, batch_sizes: tuple[int, ...], epochs: int) -> TaskInfo:
    return TaskInfo("test", batch_sizes, (0.1,), epochs, train_size, "validation_loss", (), 0, None, 0.0)


@dataclass
class Training:
    """What a plan chose over a training, and what it cost, reckoned apart from the plan."""

    samples: list[tuple[int, ...]]
    training: float
    measuring: float
    plan: MeasureWithinBudget

    @property
    def counts(self) -> list[int]:
        return [len(chosen) for chosen in self.samples]


def train(costs: CostTable, train_size: int, sizes: list[int], budget: float = 0.02, floor: int = 4) -> Training:
    plan = MeasureWithinBudget(budget, costs, floor=floor)
    plan.reset(make_task(train_size, tuple(sorted(costs.step_seconds)), len(sizes)))
    return follow(plan, costs, train_size, sizes)


def follow(plan: MeasureWithinBudget, costs: CostTable, train_size: int, sizes: list[int], before: int = 0) -> Training:
    result = Training([], 0.0, 0.0, plan)
    for last, size in pairwise([before, *sizes]):
        steps = steps_per_epoch(train_size, size)
        full_steps = full_steps_per_epoch(train_size, size)
        chosen = plan.choose(size, steps, full_steps, changed=size != last)
        assert list(chosen) == sorted(set(chosen))
        assert all(0 <= step < full_steps for step in chosen)
        result.samples.append(chosen)
        result.training += costs.training_seconds(size, steps, epochs=1)
        result.measuring += len(chosen) * costs.measuring(size)
    return result


def assert_kept(done: Training, budget: float, first_price: float) -> None:
    """The promise: the share is kept, but for a single sample where the share is less than one."""
    assert done.measuring <= max(budget * done.training, first_price if sum(done.counts) == 1 else 0.0) * ROUND_OFF
    assert done.plan.modelled_share == pytest.approx(done.measuring / done.training)
    assert done.counts[0] >= 1


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("budget", [0.005, 0.02, 0.1])
def test_every_shipped_table_keeps_its_budget_at_every_size(
    tables: dict[str, CostTable], name: str, budget: float
) -> None:
    costs = tables[name]
    for size in costs.step_seconds:
        done = train(costs, SHIPPED[name], [size] * EPOCHS, budget)
        assert_kept(done, budget, costs.measuring(size))
        wanted = len(at_interval(full_steps_per_epoch(SHIPPED[name], size), 50, 4))
        if max(done.counts) < wanted:  # the budget binds, so it is used up, but for part of a sample
            assert done.measuring > budget * done.training - costs.measuring(size)


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("budget", [0.02, 0.1])
def test_every_shipped_table_keeps_its_budget_on_any_way_up(
    tables: dict[str, CostTable], name: str, budget: float
) -> None:
    costs = tables[name]
    ladder = sorted(costs.step_seconds)
    for first in range(len(ladder)):
        for last in range(first + 1, len(ladder) + 1):
            for late in (1, 3):  # stages of equal length, and ones that come late
                stages = ladder[first:last]
                place = [min(1.0, (epoch / EPOCHS) ** late) * len(stages) for epoch in range(EPOCHS)]
                sizes = [stages[min(int(where), len(stages) - 1)] for where in place]
                assert_kept(train(costs, SHIPPED[name], sizes, budget), budget, costs.measuring(sizes[0]))


@settings(max_examples=300)
@given(data=st.data())
def test_any_table_and_any_order_of_sizes_keep_any_budget(data: st.DataObject) -> None:
    seconds = st.floats(1e-5, 10.0)
    ladder = (8, 16, 64, 512)
    costs = CostTable(
        device="test",
        step_seconds={size: data.draw(seconds) for size in ladder},
        measuring_seconds={size: data.draw(seconds) for size in ladder},
        epoch_seconds=data.draw(st.floats(0.0, 10.0)),
    )
    budget = data.draw(st.floats(1e-4, 2.0))
    sizes = data.draw(st.lists(st.sampled_from(ladder), min_size=1, max_size=60))
    done = train(costs, data.draw(st.integers(512, 5000)), sizes, budget, floor=data.draw(st.integers(1, 5)))
    assert_kept(done, budget, costs.measuring(sizes[0]))


def test_where_there_is_plenty_the_papers_rule_is_followed() -> None:
    done = train(COSTS, 979, [8] * 10, budget=0.5)
    assert done.samples == [at_interval(121, 50, 4)] * 10
    assert train(COSTS, 8 * 500, [8] * 3, budget=0.5).samples[0] == tuple(range(0, 500, 50))


def test_where_it_binds_an_epochs_samples_are_spread_evenly() -> None:
    (chosen,) = {chosen for chosen in train(COSTS, 8 * 500, [8] * 40, budget=0.01).samples if len(chosen) == 3}
    assert chosen == (82, 249, 416)


def test_early_epochs_have_more() -> None:
    counts = train(COSTS, 979, [64] * 100, budget=0.05).counts
    quarter, half = sum(counts[:25]), sum(counts[:50])
    assert quarter == pytest.approx(0.5 * sum(counts), abs=1)
    assert half == pytest.approx(0.5**0.5 * sum(counts), abs=1)


def test_a_training_too_short_for_one_sample_has_one() -> None:
    assert train(COSTS, 979, [512] * 40).counts == [1] + [0] * 39
    assert train(COSTS, 979, [512]).counts == [1]


def test_a_change_of_batch_size_is_measured_at_once() -> None:
    counts = train(COSTS, 979, [8] * 10 + [64] * 10 + [8] * 20, budget=0.02).counts
    assert counts[10] >= 1
    assert counts[20] >= 1


def test_a_sample_that_a_change_cannot_pay_for_waits_until_it_can() -> None:
    costs = CostTable("test", {8: 1e-4, 64: 0.007}, {8: 1e-4, 64: 0.06}, 0.0)
    done = train(costs, 979, [8] * 10 + [64] * 100)
    first = next(epoch for epoch in range(10, 110) if done.counts[epoch])
    sure = sum(costs.training_seconds(size, steps_per_epoch(979, size)) for size in [8] * 10 + [64] * (first - 9))
    sure += (109 - first) * costs.training_seconds(8, 122)
    spent = sum(done.counts[:10]) * 1e-4
    assert 10 < first < 60
    assert 0.0 <= 0.02 * sure - spent - 0.06 < 0.02 * costs.training_seconds(64, 15)
    assert_kept(done, 0.02, 1e-4)


def test_a_change_too_late_to_be_paid_for_is_not_measured() -> None:
    done = train(COSTS, 979, [64] * 200 + [512, *[8] * 60, *[512] * 9])
    assert done.counts[200] == 0
    assert_kept(done, 0.02, COSTS.measuring(64))


def test_a_budget_of_zero_measures_nothing() -> None:
    assert sum(train(COSTS, 979, [8, 8, 64, 64, 8], budget=0.0).counts) == 0


def test_a_plan_continues_from_its_state() -> None:
    sizes = [512, 64, 8, 512, 512, 64, 64, 8] * 3
    whole = train(COSTS, 979, sizes, budget=0.1)
    task = make_task(979, (8, 64, 512), len(sizes))
    first, second = MeasureWithinBudget(0.1, COSTS), MeasureWithinBudget(0.1, COSTS)
    first.reset(task)
    head = follow(first, COSTS, 979, sizes[:16]).samples
    second.reset(task)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert head + follow(second, COSTS, 979, sizes[16:], before=sizes[15]).samples == whole.samples
    assert second.modelled_share == whole.plan.modelled_share


def test_a_plan_serves_several_runs() -> None:
    plan = MeasureWithinBudget(0.1, COSTS)
    task = make_task(979, (8, 64, 512), 20)
    runs = []
    for _ in range(2):
        plan.reset(task)
        runs.append(follow(plan, COSTS, 979, [64] * 20).samples)
    assert runs[0] == runs[1]


def timed(plan: MeasureWithinBudget, sizes: list[int]) -> list[int]:
    """Follow a plan without a table; the loop takes what COSTS says."""
    counts = []
    for last, size in pairwise([0, *sizes]):
        steps, full_steps = steps_per_epoch(979, size), full_steps_per_epoch(979, size)
        counts.append(len(plan.choose(size, steps, full_steps, changed=size != last)))
        if plan.timing:
            plan.learn(COSTS.step_seconds[size], COSTS.measuring_seconds[size])
    return counts


def test_without_a_table_the_first_epoch_at_each_size_makes_it() -> None:
    plan = MeasureWithinBudget(0.02)
    plan.reset(make_task(979, (8, 64, 512), 60))
    sizes = [8] * 20 + [64] * 20 + [8] * 20
    counts = timed(plan, sizes)
    assert counts[0] == 2
    assert counts[20] == 1
    assert plan.costs.measuring_seconds == {8: 0.006, 64: 0.02}
    measuring = sum(count * COSTS.measuring(size) for count, size in zip(counts, sizes, strict=True))
    training = sum(COSTS.step_seconds[size] * steps_per_epoch(979, size) for size in sizes)
    assert plan.modelled_share == pytest.approx(measuring / training)
    assert measuring <= 0.02 * training
    continued = MeasureWithinBudget(0.02)
    continued.reset(make_task(979, (8, 64, 512), 60))
    continued.load_state_dict(json.loads(json.dumps(plan.state_dict())))
    assert continued.costs == plan.costs


def test_a_table_must_hold_the_ladder() -> None:
    with pytest.raises(_errors.ConfigError, match="no batch size 32"):
        MeasureWithinBudget(0.02, COSTS).reset(make_task(979, (8, 32), 10))


@pytest.mark.parametrize("budget", [-0.1, float("nan"), float("inf")])
def test_impossible_budgets_are_refused(budget: float) -> None:
    with pytest.raises(_errors.ConfigError, match="finite number of at least 0"):
        MeasureWithinBudget(budget, COSTS)


def test_impossible_intervals_are_refused() -> None:
    with pytest.raises(_errors.ConfigError, match="at least 1"):
        MeasureWithinBudget(0.02, COSTS, floor=0)

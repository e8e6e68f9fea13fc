"""When the rate falls, batches grow and training ends."""

import itertools
import math

import pytest

from autobatch.beacons import CostTable
from autobatch.policies.steer._plan import Plan, grown

LADDER = (16, 32, 64, 128)


@pytest.mark.parametrize(
    ("periods", "decay_from", "end"),
    # By hand: end = round(0.65 periods), of which round(0.75 end) fall, one at least; a single one does not.
    [(1, 1, 1), (2, 1, 1), (3, 0, 2), (5, 1, 3), (8, 1, 5), (40, 6, 26)],
)
def test_the_default_plan_of_a_training(periods: int, decay_from: int, end: int) -> None:
    assert Plan.of(periods, 0.65, 0.75) == Plan(decay_from, end)


@pytest.mark.parametrize("periods", [1, 2, 3, 5, 8, 40])
@pytest.mark.parametrize("length", [0.001, 0.3, 1.0])
@pytest.mark.parametrize("decay", [0.001, 0.5, 1.0])
def test_every_plan_trains_and_falls_to_the_end(periods: int, length: float, decay: float) -> None:
    plan = Plan.of(periods, length, decay)
    assert 0 <= plan.decay_from <= plan.end <= periods
    assert (plan.decay_from == plan.end) == (plan.end == 1)
    factors = [plan.factor(period) for period in range(plan.end)]
    assert factors[: plan.decay_from] == [1.0] * plan.decay_from
    falling = factors[plan.decay_from :]
    assert all(later < sooner for sooner, later in itertools.pairwise(falling))
    # The mean of a line from 1 to 0 is a half, however many periods it goes over.
    assert math.fsum(falling) == pytest.approx(len(falling) / 2)
    assert min(factors) > 0.0


@pytest.mark.parametrize(("epochs", "end"), [(1, 1), (2, 1), (6, 4), (8, 6), (10, 7)])
def test_a_training_ends_between_two_epochs(epochs: int, end: int) -> None:
    assert Plan.of(3 * epochs, 0.7, 0.75, 3).end == 3 * end


def test_the_whole_length_falls_where_that_is_asked() -> None:
    plan = Plan.of(4, 1.0, 1.0)
    assert [plan.factor(period) for period in range(4)] == [0.875, 0.625, 0.375, 0.125]


def test_beyond_its_end_a_plan_stays_at_the_last_factor() -> None:
    plan = Plan(1, 3)
    assert plan.factor(3) == plan.factor(9) == plan.factor(2) == 0.25


def test_a_batch_grows_as_far_as_the_rate_has_fallen() -> None:
    # Without costs a larger batch counts as faster.
    assert grown(32, 1.0, LADDER, None) == (32, 1.0)
    assert grown(32, 0.51, LADDER, None) == (32, 0.51)
    assert grown(32, 0.5, LADDER, None) == (64, pytest.approx(0.5 * math.sqrt(2)))
    assert grown(32, 0.01, LADDER, None) == (128, pytest.approx(0.01 * 2))


def test_a_batch_grows_only_where_that_is_faster() -> None:
    seconds = {16: 1.0, 32: 2.0, 64: 3.0, 128: 7.0}  # an example takes least at 64
    costs = CostTable(device="test", step_seconds=seconds, measuring_seconds=seconds, epoch_seconds=1.0)
    assert grown(16, 0.01, LADDER, costs)[0] == 64
    assert grown(128, 0.01, LADDER, costs) == (128, 0.01)
    # Two sizes whose examples take the same: the larger, whose steps are fewer.
    assert grown(16, 0.5, LADDER, costs)[0] == 32


def test_a_size_that_is_not_on_the_ladder_does_not_grow_below_itself() -> None:
    assert grown(300, 0.01, LADDER, None) == (300, 0.01)
    assert grown(24, 0.5, LADDER, None)[0] == 32


def test_a_batch_may_grow_ahead_of_the_fall_and_take_the_rate_with_it() -> None:
    assert grown(32, 1.0, LADDER, None, (4.0, 0.5)) == (32, 1.0), "not before the rate falls"
    assert grown(32, 0.9, LADDER, None, (1.0, 1.0)) == (32, 0.9)
    assert grown(32, 0.9, LADDER, None, (4.0, 0.5)) == (128, pytest.approx(0.9 * 2))
    assert grown(32, 0.9, LADDER, None, (2.0, 1.0)) == (64, pytest.approx(0.9 * 2))
    assert grown(32, 0.5, LADDER, None, (2.0, 0.0)) == (128, 0.5)

"""What the whole length would come to, by how fast what is validated falls."""

import math

import pytest
from scipy import stats

from autobatch.policies import SteerParameters, SteerPolicy
from autobatch.policies.steer._ends import KEPT, elasticity, lower_by
from tests.policies.cases import make_observation, make_task, through_json

EPOCHS = 40


def falling(power: float) -> dict[int, float]:
    return {period: 3.0 * period**-power for period in range(1, 21)}


@pytest.mark.parametrize("power", [-0.2, 0.0, 0.5, 2.0])
def test_a_power_of_the_time_is_found(power: float) -> None:
    assert elasticity(falling(power)) == pytest.approx(power, abs=1e-12)


def test_it_is_the_median_slope_of_the_second_half() -> None:
    figures = dict(enumerate([9.0, 8.0, 5.0, 4.0, 4.4, 2.9, 3.1, 50.0, 2.2, 2.0], start=1))
    half = range(6, 11)
    slope = stats.theilslopes([math.log(figures[one]) for one in half], [math.log(one) for one in half])[0]
    assert elasticity(figures) == pytest.approx(-slope)


def test_of_few_figures_the_last_three_are_taken() -> None:
    assert elasticity({1: 9.0, 2: 1.0, 3: 0.5, 4: 0.25}) == elasticity({2: 1.0, 3: 0.5, 4: 0.25})


@pytest.mark.parametrize("figures", [{}, {1: 1.0, 2: 0.9}, {1: 1.0, 2: 0.5, 3: 0.0}, {1: 1.0, 2: math.inf, 3: 0.5}])
def test_what_says_nothing(figures: dict[int, float]) -> None:
    assert elasticity(figures) is None


def test_the_same_length_ends_alike_and_a_longer_one_lower() -> None:
    assert lower_by(0.7, 28, 28) == 0.0
    assert lower_by(1.0 / KEPT, 20, 40) == pytest.approx(0.5)
    assert lower_by(-0.1, 28, 40) < 0.0


def last_reason(power: float, *, afresh: bool = False, rise: float = 0.0, **parameters: float) -> str:
    """Return what is said when training stops whose validation loss falls as a power, and then rises by a share."""
    policy = SteerPolicy(SteerParameters(scouts=0, **parameters))
    task = make_task(epochs=EPOCHS, steered=True, batch_sizes=(32,))
    policy.reset(task, None)
    for epoch in range(EPOCHS + 1):
        loss = float(max(min(epoch, 22) if rise else epoch, 1)) ** -power * (1.0 + rise * (epoch > 25))
        decision = policy.decide(make_observation(epoch, EPOCHS, validation_loss=loss, validation_error=math.nan))
        if decision.stop:
            return decision.reason
        if afresh:
            state = through_json(policy.state_dict())
            policy = SteerPolicy(SteerParameters(scouts=0, **parameters))
            policy.reset(task, None)
            policy.load_state_dict(state)
    raise AssertionError("it never stopped")


def test_the_end_says_what_the_whole_length_would_have_come_to() -> None:
    # 0.7 ** (0.4 * 1) is 0.867
    after = "after all 40 (which the policy's parameter length=1 trains)"
    told = f"going by its validation loss until epoch 20, the training might have ended about 10 % lower {after}"
    assert last_reason(1.0).endswith(told)
    assert last_reason(1.0, afresh=True).endswith(told)
    for slope in (0.2, 0.01, 0.0):
        assert last_reason(slope).endswith(f"the training might have ended hardly lower, if at all, {after}")


def test_nothing_is_said_where_the_whole_length_is_trained_or_the_end_was_hastened() -> None:
    assert last_reason(1.0, length=1.0).endswith("after 40 of 40 epochs: stop")
    assert "might have ended" not in last_reason(-1.0)


def test_where_the_last_figures_have_risen_nothing_is_promised() -> None:
    for afresh in (False, True):
        assert last_reason(1.0, rise=0.01, patience=0.0, afresh=afresh).endswith(
            "after 28 of 40 epochs: stop, which spares 4.6 s by the cost table"
        )
    assert "about 10 % lower" in last_reason(1.0, rise=0.004, patience=0.0)

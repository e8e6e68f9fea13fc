"""A training that fits its own examples alone ends sooner than planned."""

import math

import numpy as np
import pytest

from autobatch.policies import SteerParameters, SteerPolicy
from autobatch.policies.steer._overfit import Validated, best_period
from autobatch.policies.steer._plan import Plan
from tests.policies.cases import make_observation, make_task, through_json

EPOCHS = 40
FALLS_THEN_RISES = [abs(epoch - 5) / 10 + 0.5 + 0.003 * (-1) ** epoch for epoch in range(1, EPOCHS + 1)]


def steer(**parameters: float) -> SteerPolicy:
    policy = SteerPolicy(SteerParameters(scouts=0, **parameters))
    policy.reset(make_task(epochs=EPOCHS, steered=True, batch_sizes=(32,)), None)
    return policy


def train(policy: SteerPolicy, losses: list[float], errors: list[float] | None = None) -> list[tuple[int, float, str]]:
    """Return batch size, factor and reason of each epoch that is trained."""
    decision, trained = policy.decide(make_observation(0, EPOCHS)), []
    for epoch in range(1, EPOCHS + 1):
        trained.append((decision.batch_size, decision.factor or 1.0, decision.reason))
        seen = {"validation_loss": losses[epoch - 1], "validation_error": errors[epoch - 1] if errors else math.nan}
        decision = policy.decide(make_observation(epoch, EPOCHS, **seen))
        if decision.stop:
            break
    return trained


def test_a_mean_that_has_risen_beyond_its_scatter_has_got_worse() -> None:
    rising = dict(enumerate(FALLS_THEN_RISES[:12], start=1))
    assert best_period(rising) == 6  # the mean of epochs 4 to 6 is the lowest
    assert best_period({**rising, 12: math.nan}) is None
    assert best_period(dict(enumerate(reversed(FALLS_THEN_RISES[5:12])))) is None


def test_scatter_alone_is_seldom_taken_for_worse() -> None:
    """Noise of 30 % around a level, over a whole plan: a training that gets no better loses nothing by ending."""
    noise = np.exp(0.3 * np.random.default_rng(0).standard_normal((100, 28)))
    ended = [len(train(steer(), [*figures, *figures])) < 28 for figures in noise.tolist()]
    assert sum(ended) <= 10


def test_the_rate_falls_to_nothing_in_one_more_epoch() -> None:
    trained = train(steer(), FALLS_THEN_RISES)
    assert len(trained) == 11  # best in epoch 6, four epochs (a tenth) of getting worse, one more
    *_, (_, before, _), (_, last, reason) = trained
    assert last == pytest.approx(0.5 * before, rel=0.1)
    assert "sooner than planned, as validation has got worse since epoch 6" in reason
    assert reason.endswith("; it overfits or diverges")


def test_patience_of_nothing_hastens_nothing() -> None:
    assert len(train(steer(patience=0), FALLS_THEN_RISES)) == 28


@pytest.mark.parametrize(("drop", "epochs"), [(0.01, 28), (0.0, 11)])
def test_an_error_that_gets_better_meanwhile_keeps_the_plan(drop: float, epochs: int) -> None:
    errors = [0.5 - drop * epoch for epoch in range(EPOCHS)]
    assert len(train(steer(), FALLS_THEN_RISES, errors)) == epochs


def test_an_error_whose_scatter_is_as_large_does_not() -> None:
    errors = [0.5 - 0.01 * epoch + 0.02 * (-1) ** epoch for epoch in range(EPOCHS)]
    assert len(train(steer(), FALLS_THEN_RISES, errors)) < 28


def test_a_restart_goes_on_alike() -> None:
    whole = train(steer(), FALLS_THEN_RISES)
    for cut in range(1, len(whole)):
        policy = steer()
        policy.decide(make_observation(0, EPOCHS))
        for epoch in range(1, cut + 1):
            seen = {"validation_loss": FALLS_THEN_RISES[epoch - 1], "validation_error": math.nan}
            policy.decide(make_observation(epoch, EPOCHS, **seen))
        state, resumed = through_json(policy.state_dict()), steer()
        resumed.load_state_dict(state)
        seen = {"validation_loss": FALLS_THEN_RISES[cut], "validation_error": math.nan}
        assert resumed.decide(make_observation(cut + 1, EPOCHS, **seen)) == policy.decide(
            make_observation(cut + 1, EPOCHS, **seen)
        )


def test_a_plan_is_hastened_along_its_own_line() -> None:
    plan = Plan(8, 28)
    assert plan.hastened(4) == Plan(4, 5)  # constant until then
    assert plan.hastened(18).factor(18) == pytest.approx(0.5 * 0.5)
    assert plan.hastened(27) is plan
    assert [plan.hastened(18, over=2).factor(period) for period in (18, 19)] == pytest.approx([0.5 * 0.75, 0.5 * 0.25])


def test_figures_of_the_score_alone_are_known() -> None:
    validated = Validated("validation_error")
    for epoch, error in enumerate(FALLS_THEN_RISES[:12], start=1):
        validated.take(make_observation(epoch, EPOCHS, validation_loss=math.nan, validation_error=min(error, 1.0)))
    assert validated.worse_since(4) == 6
    assert validated.worse_since(7) is None

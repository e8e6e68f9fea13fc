"""A training that fits its own examples alone ends sooner than planned."""

import math

import numpy as np
import pytest

from autobatch.policies import SteerParameters, SteerPolicy
from autobatch.policies.steer._overfit import TELLING_FALLING, Validated, best_period
from autobatch.policies.steer._plan import Plan
from tests.policies.cases import make_observation, make_task, through_json

EPOCHS = 40
FALLS_THEN_RISES = [abs(epoch - 5) / 10 + 0.5 + 0.003 * (-1) ** epoch for epoch in range(1, EPOCHS + 1)]


def steer(**parameters: float) -> SteerPolicy:
    policy = SteerPolicy(SteerParameters(scouts=0, **parameters))
    policy.reset(make_task(epochs=EPOCHS, steered=True, batch_sizes=(32,)), None)
    return policy


def train(
    policy: SteerPolicy, losses: list[float], errors: list[float] | None = None, *, kept: bool = False
) -> list[tuple[int, float, str]]:
    """Return batch size, factor and reason of each epoch that is trained; ``kept`` where weights are at hand."""
    decision, trained = policy.decide(make_observation(0, EPOCHS)), []
    for epoch in range(1, EPOCHS + 1):
        trained.append((decision.batch_size, decision.factor or 1.0, decision.reason))
        if epoch == EPOCHS:  # as in a training, nothing is decided after the task's last epoch
            break
        seen = {"validation_loss": losses[epoch - 1], "validation_error": errors[epoch - 1] if errors else math.nan}
        decision = policy.decide(make_observation(epoch, EPOCHS, **seen))
        if kept and policy.back_to is not None:
            policy.gone_back()
            decision = policy.decide(make_observation(epoch, EPOCHS, **seen))
        if decision.stop:
            break
    return trained


def rises_late(end: int, by: float = 0.06) -> list[float]:
    """Return losses that fall until six epochs before the end and rise from then on, within their scatter."""
    turn = end - 6
    fall = [1.0 + 0.02 * abs(turn - epoch) * (1.0 if epoch < turn else by / 0.06) for epoch in range(1, EPOCHS + 1)]
    return [loss + 0.03 * (-1) ** epoch for epoch, loss in enumerate(fall)]


def test_a_mean_that_has_risen_beyond_its_scatter_has_got_worse() -> None:
    rising = dict(enumerate(FALLS_THEN_RISES[:12], start=1))
    assert best_period(rising) == 6  # the mean of epochs 4 to 6 is the lowest
    assert best_period({**rising, 12: math.nan}) is None
    assert best_period(dict(enumerate(reversed(FALLS_THEN_RISES[5:12])))) is None


@pytest.mark.parametrize(("power", "most"), [(0.0, 15), (0.3, 3)])
def test_scatter_alone_is_seldom_taken_for_worse(power: float, most: int) -> None:
    """Noise of 30 % of the rate: around a level, where ending loses nothing, and around a power of the time."""
    rates = [Plan.of(EPOCHS, 0.7, 0.75).factor(epoch) for epoch in range(28)]
    noise = np.exp(0.3 * np.array(rates) * np.random.default_rng(0).standard_normal((100, 28)))
    losses = np.concatenate([noise * np.arange(1, 29) ** -power, np.ones((100, EPOCHS - 28))], axis=1)
    ended = [len(train(steer(), figures)) < 28 for figures in losses.tolist()]
    assert sum(ended) <= most


def test_less_tells_once_the_rate_has_fallen_for_a_while() -> None:
    """Losses that rise from epoch 3 on, and scatter so that it takes a while to tell."""
    losses = [1.0 - 0.1 * min(epoch, 3) + 0.03 * max(0, epoch - 3) + 0.05 * (-1) ** epoch for epoch in range(1, 41)]
    figures = [dict(enumerate(losses[:end], start=1)) for end in range(41)]
    at_a_constant_rate = next(end for end in range(8, 41) if best_period(figures[end]))
    falling = next(end for end in range(8, 41) if best_period(figures[end], TELLING_FALLING))
    assert 10 <= falling < at_a_constant_rate < 25
    assert len(train(steer(), losses)) == falling + 1  # the rate falls from epoch 7 on
    assert len(train(steer(decay=0.2), losses)) == at_a_constant_rate + 1  # from epoch 22 on


@pytest.mark.parametrize("length", [0.7, 1.0])
@pytest.mark.parametrize("kept", [True, False])
def test_the_last_epoch_begins_with_better_weights_where_it_can(length: float, kept: bool) -> None:
    end = round(length * EPOCHS)
    policy, plan = steer(length=length), Plan.of(EPOCHS, length, 0.75)
    trained = train(policy, rises_late(end), kept=kept)
    *_, (_, before, _), (_, last, reason) = trained
    assert len(trained) == policy.planned_epochs == end
    if not kept:
        assert last == plan.factor(end - 1)
        assert f"which lets the loss settle: {100 * last:.3g} % of" in reason
        assert "; validation loss has got worse since epoch " in reason
        return
    back = int(reason.split("goes on from its weights after epoch ")[1].split(":")[0])
    assert abs(back - (end - 6)) <= 1
    assert last == pytest.approx(0.5 * (plan.factor(back) + plan.factor(back - 1)) / 2)
    assert last > before
    assert "sooner than planned" not in reason
    assert "as validation loss has got worse since epoch " in reason


@pytest.mark.parametrize("patience", [0.0, 0.1])
def test_the_last_epoch_goes_on_where_nothing_got_worse_or_nobody_asks(patience: float) -> None:
    losses = rises_late(28, 0.0 if patience else 0.06)
    assert train(steer(patience=patience), losses, kept=True) == train(steer(patience=0.0), losses)


def test_a_restart_before_and_after_going_back_for_the_last_epoch_goes_on_alike() -> None:
    whole = train(steer(), rises_late(28), kept=True)
    policy = steer()
    for epoch in range(28):
        seen = {"validation_loss": rises_late(28)[epoch - 1], "validation_error": math.nan} if epoch else {}
        decision = policy.decide(make_observation(epoch, EPOCHS, **seen))
        state, policy = through_json(policy.state_dict()), steer()
        policy.load_state_dict(state)
        if policy.back_to is not None:
            policy.gone_back()
            state, policy = through_json(policy.state_dict()), steer()
            policy.load_state_dict(state)
            decision = policy.decide(make_observation(epoch, EPOCHS, **seen))
        assert (decision.batch_size, decision.factor or 1.0, decision.reason) == whole[epoch]
    assert policy.decide(make_observation(28, EPOCHS, validation_loss=1.0)).stop


def test_the_rate_falls_to_nothing_in_one_more_epoch() -> None:
    trained = train(steer(), FALLS_THEN_RISES)
    assert len(trained) == 11  # best in epoch 6, four epochs (a tenth) of getting worse, one more
    *_, (_, before, _), (_, last, reason) = trained
    assert last == pytest.approx(0.5 * before, rel=0.1)
    assert "sooner than planned, as validation loss has got worse since epoch 6" in reason
    assert reason.endswith("; it overfits or diverges")


def test_what_has_got_worse_is_named_by_the_tasks_score() -> None:
    policy = SteerPolicy(SteerParameters(scouts=0))
    policy.reset(make_task(epochs=EPOCHS, steered=True, batch_sizes=(32,), score="validation_error"), None)
    *_, (_, _, reason) = train(policy, [1.0] * EPOCHS, FALLS_THEN_RISES)
    assert "sooner than planned, as validation error has got worse since epoch 6" in reason


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
    assert plan.hastened(27, since=18).factor(27) == pytest.approx(0.5 * 0.5)  # from what it was then
    assert plan.hastened(27, since=18).end == 28
    assert [plan.hastened(18, over=2).factor(period) for period in (18, 19)] == pytest.approx([0.5 * 0.75, 0.5 * 0.25])


def test_figures_of_the_score_alone_are_known() -> None:
    validated = Validated("validation_error")
    for epoch, error in enumerate(FALLS_THEN_RISES[:12], start=1):
        figures = {"validation_loss": math.nan, "validation_error": min(error + 1e-6 * epoch, 1.0)}
        validated.take(make_observation(epoch, EPOCHS, **figures))
    assert validated.worse_since(4) == 6
    assert validated.worse_since(7) is None


@pytest.mark.parametrize(("more", "told"), [(3, None), (40, 6)])
def test_a_few_examples_more_are_chance(more: int, told: int | None) -> None:
    """Errors among 400 examples, which hardly change: their scatter is at least that of so many draws."""
    errors = [count / 400 for count in [9, 7, 6, 5, 5, 5, *[5 + more] * 5]]
    assert best_period(dict(enumerate(errors, start=1)), shares=True) == told
    assert best_period(dict(enumerate(errors, start=1))) == 6
    in_batches = [error + 1e-9 * place for place, error in enumerate(errors)]  # round-off tells no epochs apart
    assert best_period(dict(enumerate(in_batches, start=1)), shares=True) == told


def test_by_how_much_it_has_risen() -> None:
    validated = Validated("validation_loss")
    for epoch, loss in enumerate([4.0, 2.0, 2.0, 2.0, 2.3], start=1):
        validated.take(make_observation(epoch, EPOCHS, validation_loss=loss, validation_error=math.nan))
        assert validated.risen == pytest.approx(0.05 if epoch == 5 else 0.0)

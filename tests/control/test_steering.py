"""A policy that ends the training and sets the rate's factor, in a loop of one's own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autobatch import ConfigError
from autobatch.control import AutoBatchController, BatchPlan, DecisionRecord, MeasureAtInterval, Rates
from autobatch.control.run import load_summary
from autobatch.policies import Decision, Observation, TaskInfo
from autobatch.policies._parameters import Stateless

EXAMPLES = 16


class Steering(Stateless):
    """Halves the rate once, then stops."""

    needs_library = False

    def __init__(self, *decisions: Decision) -> None:
        self.decisions = decisions or (
            Decision(4, 0.1, "begin"),
            Decision(4, 0.1, "fall", factor=0.5),
            Decision(4, 0.1, "enough", stop=True),
        )
        self.task: TaskInfo | None = None

    def reset(self, task: TaskInfo, library: Any) -> None:
        self.task = task

    def decide(self, observation: Observation) -> Decision:
        return self.decisions[min(observation.epoch, len(self.decisions) - 1)]


class Loop:
    """A loop of a user's own: a linear model of noise."""

    def __init__(self, policy: Any = None, **arguments: Any) -> None:
        torch.manual_seed(0)
        self.x, self.y = torch.randn(EXAMPLES, 3), torch.randn(EXAMPLES, 1)
        self.model = nn.Linear(3, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        facts = {"batch_sizes": (4, 8), "dataset_size": EXAMPLES, "epochs": 5, "rates": Rates(steered=True)}
        self.policy = policy or Steering()
        self.controller = AutoBatchController(self.model, self.optimizer, policy=self.policy, **facts | arguments)

    def epoch(self) -> DecisionRecord | None:
        for indices in self.controller.batches():
            self.train(indices)
        return self.controller.end_epoch(val_loss=1.0)

    def train(self, indices: torch.Tensor) -> None:
        with self.controller.step() as step:
            step.backward((self.model(self.x[indices]) - self.y[indices]).square().mean())
        self.optimizer.step()
        self.optimizer.zero_grad()


def test_a_decision_to_stop_ends_the_training() -> None:
    loop = Loop()
    first, second = loop.epoch(), loop.epoch()
    assert first is not None
    assert (first.lr_effective, first.limit, first.stop) == (0.05, None, False)
    assert loop.policy.task is not None
    assert loop.policy.task.steered
    assert second is None
    controller = loop.controller
    assert (controller.finished, controller.stopped_because, controller.epoch) == (True, "enough", 2)
    assert (controller.decision.stop, controller.decision.epoch) == (True, 2)
    with pytest.raises(Exception, match="finished after 2 of 5 epochs"):
        controller.batches()


def test_a_first_decision_to_stop_trains_nothing() -> None:
    controller = Loop(Steering(Decision(4, 0.1, "not worth it", stop=True))).controller
    assert (controller.finished, controller.stopped_because, controller.steps) == (True, "not worth it", 0)


def test_a_decision_to_stop_within_an_epoch_ends_it_there() -> None:
    stop = Steering(Decision(4, 0.1, "begin"), Decision(4, 0.1, "enough", stop=True))
    loop = Loop(stop, plan=BatchPlan(decide_every=8), measuring=MeasureAtInterval(50, 1))
    assert loop.epoch() is None
    assert (loop.controller.steps, loop.controller.samples) == (2, 1)  # the sample counts once
    assert loop.controller.stopped_because == "enough"


def test_a_state_after_the_stop_is_finished_too() -> None:
    loop = Loop()
    loop.epoch(), loop.epoch()
    state = json.loads(json.dumps(loop.controller.state_dict()))
    again = Loop().controller
    again.load_state_dict(state)
    assert (again.finished, again.stopped_because, again.epoch) == (True, "enough", 2)
    assert again.decision.stop
    mine = again.state_dict() | {"seconds": state["seconds"]}  # a clock that goes on
    assert json.dumps(mine) == json.dumps(state)


def test_a_state_and_a_record_of_before_there_was_a_stop_load() -> None:
    loop = Loop()
    loop.epoch()
    state = loop.controller.state_dict()
    for record in state["decisions"]["records"].values():
        del record["stop"]
    again = Loop()
    again.controller.load_state_dict(state)
    assert not again.controller.decision.stop
    assert again.epoch() is None
    old = loop.controller.decision.to_dict()
    del old["stop"]
    assert not DecisionRecord.from_dict(old).stop


def test_advice_neither_stops_nor_changes_the_rate_and_says_so() -> None:
    loop = Loop(advise=8)
    for _ in range(2):
        for indices in torch.randperm(EXAMPLES).split(8):
            loop.train(indices)
        decision = loop.controller.end_epoch(val_loss=1.0)
        assert decision is not None
        if decision.epoch == 1:
            assert (decision.lr, decision.lr_effective) == (0.1, 0.1)
            assert decision.limit == "advice: 4 at 0.05, 0.5 of 0.1; nothing is changed"
    assert not loop.controller.finished
    assert not decision.stop
    assert decision.limit == "advice: stop; nothing is changed"


def test_a_factor_where_the_schedule_is_the_loops_is_a_note() -> None:
    loop = Loop(rates=Rates(steered=False))
    decision = loop.epoch()
    assert decision is not None
    assert decision.lr_effective == 0.1
    assert decision.limit == "a factor of 0.5 on the rate was asked for; the schedule is the loop's"
    assert loop.policy.task is not None
    assert not loop.policy.task.steered


@pytest.mark.parametrize("factor", [0.0, -0.5, float("nan"), float("inf")])
@pytest.mark.parametrize("steered", [True, False])
def test_a_factor_that_is_none_is_an_error(factor: float, steered: bool) -> None:
    with pytest.raises(ConfigError, match="factor on the learning rate that the policy asked for"):
        Loop(Steering(Decision(4, 0.1, "begin", factor=factor)), rates=Rates(steered=steered))


def test_a_factor_replaces_that_of_the_schedule() -> None:
    loop = Loop(
        rates=Rates(schedule="steered", steered=False),
    )  # the name alone gives the schedule into the policy's hand
    assert loop.controller.decision.lr_effective == pytest.approx(0.1)
    loop.epoch()
    assert loop.controller.decision.lr_effective == pytest.approx(0.05)


def test_the_steered_schedule_falls_over_the_last_two_fifths_where_no_factor_is_said() -> None:
    loop = Loop(Steering(Decision(4, 0.1, "go on")), rates="steered")
    rates = [loop.controller.decision.lr_effective]
    for _ in range(4):
        loop.epoch()
        rates.append(loop.controller.decision.lr_effective)
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.05])


def test_another_name_of_a_schedule_is_refused() -> None:
    with pytest.raises(ConfigError, match="schedule='cosine': expected a function of progress, or 'steered'"):
        Loop(rates=Rates(schedule="cosine"))


@pytest.mark.parametrize("steered", [True, False])
def test_a_training_that_has_diverged_ends_where_its_end_is_the_policys(
    steered: bool, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    loop = Loop(
        Steering(Decision(4, 0.1, "hold")), rates=Rates(steered=True) if steered else Rates(), out=tmp_path / "run"
    )
    with torch.no_grad():
        loop.model.weight.fill_(float("nan"))
    for _ in range(1 if steered else 5):
        for indices in loop.controller.batches():
            loop.train(indices)
        loop.controller.end_epoch(val_loss=float("nan"))
    diverged = "diverged: val_loss is nan and the parameters are no longer finite after epoch 1"
    assert loop.controller.stopped_because == (diverged if steered else None)
    assert loop.controller.finished
    assert caplog.text.count("the training has diverged") == 1
    summary = load_summary(tmp_path / "run")
    assert (summary.stopped_because, summary.ended_early) == (diverged, None)


def test_a_figure_that_is_missing_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(Steering(Decision(4, 0.1, "hold")))
    for indices in loop.controller.batches():
        loop.train(indices)
    loop.controller.end_epoch(val_loss=float("nan"))
    assert "val_loss is nan; the training goes on" in caplog.text
    assert not loop.controller.finished


@pytest.mark.parametrize("steered", [True, False])
def test_a_scheduler_beside_a_steered_schedule_is_told_once(steered: bool, caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(Steering(Decision(4, 0.1, "hold")), rates=Rates(steered=True) if steered else Rates())
    scheduler = torch.optim.lr_scheduler.ExponentialLR(loop.optimizer, 0.5)
    for _ in range(3):
        loop.epoch()
        scheduler.step()
    assert caplog.text.count("the two multiply; leave the scheduler out") == steered

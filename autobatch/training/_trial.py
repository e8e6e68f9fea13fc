"""A training in memory, one decision after another: what a run keeps, and an environment or a branch run steers."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from autobatch._errors import AutoBatchError, ConfigError
from autobatch.beacons import BeaconLibrary, CostTable, chance
from autobatch.beacons._columns import FINISHED
from autobatch.control import (
    BatchPlan,
    DecisionRecord,
    MeasureAsked,
    MeasureAtInterval,
    MeasureWithinBudget,
    Measuring,
    MeasuringPlan,
    Processes,
    Rates,
    TaskFacts,
)
from autobatch.control._ranks import Ranks
from autobatch.control.run import EpochRow
from autobatch.policies import Decision, Moves, Observation, Policy, TaskInfo
from autobatch.training._checkpoint import put_back
from autobatch.training._controller import EngineController
from autobatch.training._engine import Engine, divergence
from autobatch.training._run import RunConfig
from autobatch.training.data import Data

BN: Final = "rows"
"""What a sample's gradient means under BatchNorm; see ``FisherProbe``."""


@dataclass(frozen=True)
class TrialState:
    """A training between two decision periods; holds copies, so it stays as it was.

    Attributes:
        tensors: model and optimizer tensors by prefixed name, on the CPU.
        controller: the controller's state.
        kept: what it may go back to.
        stopped_because: ``"finished"`` while nothing has gone wrong.
    """

    tensors: Mapping[str, Tensor]
    controller: dict[str, Any]
    kept: dict[str, Any]
    stopped_because: str


class Trial:
    """A training in memory; enter ``reproducible(device, threads)`` around everything that is done with it.

    Where ``torch.distributed`` is initialised, all of its processes train it together, and each makes the same calls.

    Args:
        config: the configuration.
        data: the task's data, on the device.
        device: where to train.
        policy: the policy; None for a training that is steered by hand with ``decide``.
        library: beacons for the policy and the controller.
        costs: seconds by batch size, which a measuring budget needs.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        data: Data,
        device: torch.device,
        policy: Policy | None = None,
        library: BeaconLibrary | None = None,
        costs: CostTable | None = None,
    ) -> None:
        self.config = config
        self.ranks = Ranks(None, device)
        self.engine = Engine(config.task, data, device, config.seed, trust_code=config.trust_code, ranks=self.ranks)
        self._hand = _ByHand(config) if policy is None else None
        chosen = policy if policy is not None else self._hand
        assert chosen is not None
        self.controller = _controller(config, self.engine, chosen, library, costs)
        self.stopped_because = FINISHED

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done, or the training has diverged."""
        return self.controller.finished

    def decide(
        self, batch_size: int, lr: float, reason: str = "chosen by hand", factor: float | None = None
    ) -> DecisionRecord:
        """Choose what the coming decision period uses.

        Args:
            batch_size: global batch size.
            lr: base learning rate.
            reason: why, for the records.
            factor: what the rate is multiplied by, in (0, 1], where the schedule is not the task's to keep; None leaves
                it to the task's schedule.

        Returns:
            The decision as it was applied.

        Raises:
            AutoBatchError: a batch of the epoch has been handed out, or the training is finished.
            ConfigError: the training has a policy of its own.
        """
        if self._hand is None:
            raise ConfigError("this training has a policy; only one without can be steered by hand")
        before, self._hand.decision = self._hand.decision, Decision(batch_size, lr, reason, factor=factor)
        try:
            return self.controller.redecide()
        except AutoBatchError:
            self._hand.decision = before  # what was refused shall not hold from the next epoch on either
            raise

    def period(self, after_step: Callable[[int, int], None] = lambda step, steps: None) -> EpochRow:
        """Train under the decision in force, an epoch or a part of one, validate, and have the next decision made."""
        controller, engine = self.controller, self.engine
        train_loss = engine.train_period(controller, after_step)
        validation_loss, validation_error = engine.validate()
        seen = divergence(train_loss, validation_loss, engine.data.num_classes)
        controller.end_period(
            train_loss=train_loss,
            validation_loss=validation_loss,
            validation_error=validation_error,
            stop=seen is not None,
        )
        if seen is not None:
            self.stopped_because = f"diverged: {seen}"
        return controller.rows[-1]

    def state(self) -> TrialState:
        """Return a copy of where the training stands, between two decision periods."""
        return TrialState(
            self.engine.snapshot(),
            self.controller.state_dict(),
            self.controller.kept,
            self.stopped_because,
        )

    def restore(self, state: TrialState) -> None:
        """Go back to where ``state`` was taken, of this or an equal training, as often as wanted."""
        put_back(state.tensors, self.engine.model, self.engine.optimizer, "the state of a trial")
        self.controller.load_state_dict(state.controller)
        self.controller.kept = state.kept
        self.stopped_because = state.stopped_because


class _ByHand:
    """Says what it has been told to say."""

    needs_library = False

    def __init__(self, config: RunConfig) -> None:
        moves = Moves(config.task.batch_sizes, config.task.learning_rates)
        batch_size, lr = moves.at(*moves.start)
        self.decision = Decision(batch_size, lr, "the middle of the ladder")

    def reset(self, task: TaskInfo, library: BeaconLibrary | None) -> None:
        """Nothing to do."""

    def decide(self, observation: Observation) -> Decision:
        """Return what was told last."""
        return self.decision

    def state_dict(self) -> dict[str, Any]:
        """Return what was told last."""
        told = self.decision
        return {"batch_size": told.batch_size, "lr": told.lr, "reason": told.reason, "factor": told.factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what was told last."""
        self.decision = Decision(state["batch_size"], state["lr"], state["reason"], factor=state["factor"])


def _controller(
    config: RunConfig, engine: Engine, policy: Policy, library: BeaconLibrary | None, costs: CostTable | None
) -> EngineController:
    task, examples = config.task, len(engine.data.train_labels)
    return EngineController(
        engine.trained,
        engine.optimizer,
        policy=policy,
        dataset_size=examples,
        epochs=task.epochs,
        batch_sizes=task.batch_sizes,
        library=library,
        rates=Rates(
            learning_rates=task.learning_rates,
            schedule=task.schedule.schedule_factor,
            steered=not task.schedule.keep,
            milestones=task.schedule.milestones,
            milestone_factor=task.schedule.milestone_factor,
        ),
        measuring=Measuring(
            steps=_measured_steps(config, costs),
            bn=BN,
            reuse_weight_gradient=task.measuring.reuse_weight_gradient,
            **task.measuring.sketch,
        ),
        plan=BatchPlan(decide_every=math.ceil(examples / config.periods)),
        processes=Processes(device=engine.device),
        task=TaskFacts(
            name=task.name,
            dataset=task.dataset.name,
            score=task.score,
            costs=costs,
            guessing=chance("train_loss", engine.data.num_classes),
            shares_loss=engine.data.shares_loss,
        ),
        seed=config.seed,
    )


def _measured_steps(config: RunConfig, costs: CostTable | None) -> MeasuringPlan:
    measuring = config.task.measuring
    floor = max(1, round(measuring.floor / config.periods))  # of an epoch, each period its share
    if not config.measure:
        return MeasureAsked()
    if config.recording:
        return MeasureAtInterval(measuring.interval, floor)
    assert costs is not None
    return MeasureWithinBudget(measuring.budget, costs, interval=measuring.interval, floor=floor)

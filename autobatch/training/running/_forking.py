"""A fork of a run: one epoch under each of two configurations from the same state, of which one is thrown away."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from autobatch._plain import Plain
from autobatch.beacons._columns import FINISHED
from autobatch.control import DecisionRecord
from autobatch.control.measuring import MeasuredStep, is_out_of_memory
from autobatch.control.run import FORKS, EpochRow
from autobatch.control.run._files import load_json, write_json
from autobatch.policies._wording import configuration
from autobatch.policies.steer import DID_NOT_FIT, Fork, ForkChoice, Forking, ForkOutcome
from autobatch.training._trial import Trial, TrialState


@dataclass(frozen=True)
class ForkRecord(Plain):
    """What a fork came to, and what the epoch that was thrown away has cost.

    Attributes:
        epoch: finished epochs when it began.
        batch_size: global batch size in force.
        lr: base learning rate in force.
        fork_batch_size: what was tried beside it.
        fork_lr: its base learning rate.
        taken: whether the run has gone on with the fork.
        reason: why, in words.
        loss: mean validation loss of the averaged weights under what was in force.
        difference: by how much the fork's is higher.
        standard_error: of ``difference``.
        examples: training examples that the thrown epoch has seen.
        optimizer_steps: its optimizer steps.
        samples: its measured steps.
        seconds: its wall time.
        measuring_seconds: the part of it that measuring took.
    """

    epoch: int
    batch_size: int
    lr: float
    fork_batch_size: int
    fork_lr: float
    taken: bool
    reason: str
    loss: float
    difference: float
    standard_error: float
    examples: int
    optimizer_steps: int
    samples: int
    seconds: float
    measuring_seconds: float


@dataclass(frozen=True)
class Branch:
    """One of the two epochs of a fork.

    Attributes:
        row: its figures.
        decision: what it was trained under.
        measurements: its measured steps.
        state: the training after it.
        losses: validation losses of its averaged weights, shape (N,); none where it has diverged.
        seconds: its wall time.
        stopped_because: ``"finished"``, or what has gone wrong.
    """

    row: EpochRow
    decision: DecisionRecord
    measurements: tuple[MeasuredStep, ...]
    state: TrialState
    losses: Tensor
    seconds: float
    stopped_because: str


@dataclass(frozen=True)
class ForkedEpoch:
    """An epoch that was trained twice.

    Attributes:
        kept: the epoch that counts, the time of the other one in its figures.
        record: what the fork came to; None where the run diverged before there was anything to try.
        tried: both epochs as they were trained, the one in force first; without the fork's where it did not fit into
            memory, and none where there is no record.
    """

    kept: Branch
    record: ForkRecord | None = None
    tried: tuple[Branch, ...] = ()


def save_forks(out: Path, forks: Sequence[ForkRecord]) -> None:
    """Write ``forks.json`` into a run directory."""
    write_json(out / FORKS, [fork.to_dict() for fork in forks])


def load_forks(out: Path) -> list[ForkRecord]:
    """Read ``forks.json`` of a run; empty where there were none."""
    path = out / FORKS
    return load_json(path, "forks", lambda forks: [*map(ForkRecord.from_dict, forks)]) if path.exists() else []


def told_fork(fork: Fork) -> str:
    """Say in a line what is going to be tried."""
    return f"fork: the coming epoch is trained as decided, and as {configuration(fork.batch_size, fork.lr)}"


def fork_epoch(trial: Trial, policy: Forking, fork: Fork, after_step: Callable[[int, int], None]) -> ForkedEpoch:
    """Train the coming epoch under the decision in force and under a fork, and go on with what the policy takes.

    Both begin in the same state and see the data in the same order. The time of the one that is thrown away counts. Of
    several processes the first one's policy is asked, and memory that runs out on one ends the training of all.

    Args:
        trial: the training, between two epochs.
        policy: its policy, or who else chooses.
        fork: what to try.
        after_step: called after each step with the epoch's steps done and in all.

    Returns:
        The epoch that counts, what the fork came to, and both epochs. A fork that diverges or does not fit into memory
        costs no more than itself.
    """
    controller = trial.controller
    before, observation, began = trial.state(), controller.observation, controller.seconds
    examples, steps, samples, measuring = (
        controller.examples,
        controller.steps,
        controller.samples,
        controller.measuring_seconds,
    )
    stay = _branch(trial, after_step)
    if stay.stopped_because != FINISHED:
        return ForkedEpoch(stay)

    trial.restore(before)
    if trial.ranks.leads:
        policy.turn(fork)
    controller.redecide()
    other, failed = _tried(trial, after_step)
    lost_seconds = controller.seconds - began

    trial.restore(before)  # the policy's state with it
    difference = other.losses - stay.losses if failed is None and other is not None else stay.losses * math.nan
    outcome = ForkOutcome(
        loss=float(stay.losses.mean()),
        difference=float(difference.mean()),
        standard_error=float(difference.std()) / math.sqrt(len(difference)) if len(difference) > 1 else math.nan,
        failed=failed,
    )
    choice = ForkChoice(**trial.ranks.first_makes(lambda: asdict(policy.judge(fork, outcome, observation))))
    policy_state = policy.state_dict()
    kept, thrown = stay, other
    if choice.taken:
        assert other is not None
        kept, thrown, lost_seconds = other, stay, stay.seconds
    trial.restore(kept.state)
    controller.seconds += lost_seconds
    policy.load_state_dict(policy_state)
    if not controller.finished:
        controller.redecide()
    record = ForkRecord(
        epoch=observation.epoch,
        batch_size=stay.row.batch_size,
        lr=stay.row.lr,
        fork_batch_size=fork.batch_size,
        fork_lr=fork.lr,
        taken=choice.taken,
        reason=choice.reason,
        loss=outcome.loss,
        difference=outcome.difference,
        standard_error=outcome.standard_error,
        examples=thrown.row.examples - examples if thrown is not None else 0,
        optimizer_steps=thrown.row.steps - steps if thrown is not None else 0,
        samples=thrown.row.samples - samples if thrown is not None else 0,
        seconds=lost_seconds,
        measuring_seconds=thrown.row.measuring_seconds - measuring if thrown is not None else 0.0,
    )
    kept = replace(kept, row=replace(kept.row, seconds=controller.seconds))
    return ForkedEpoch(kept, record, (stay,) if other is None else (stay, other))


def _tried(trial: Trial, after_step: Callable[[int, int], None]) -> tuple[Branch | None, str | None]:
    """Return a fork's epoch, and what has failed where something has."""
    try:
        branch = _branch(trial, after_step)
    except RuntimeError as error:
        if not is_out_of_memory(error) or trial.ranks.size > 1:  # the others wait for its gradients
            raise
        return None, DID_NOT_FIT
    if branch.stopped_because != FINISHED:
        return branch, branch.stopped_because
    return branch, None


def _branch(trial: Trial, after_step: Callable[[int, int], None]) -> Branch:
    engine, controller = trial.engine, trial.controller
    decision, began = controller.decision, controller.seconds
    average = Average(engine.model)

    def stepped(step: int, steps: int) -> None:
        after_step(step, steps)
        average.after_step(step, steps)

    row = trial.period(stepped)
    state, measurements = trial.state(), controller.measurements
    losses = torch.empty(0)
    if trial.stopped_because == FINISHED:
        average.install()
        losses = engine.validation_losses()
    return Branch(row, decision, measurements, state, losses, controller.seconds - began, trial.stopped_because)


class Average:
    """The mean of a model's weights, and of the statistics that it keeps, over the second half of an epoch."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._mean: dict[str, Tensor] = {}
        self._count = 0

    def after_step(self, step: int, steps: int) -> None:
        """Take in the weights of now, in the second half."""
        if 2 * step <= steps:
            return
        self._count += 1
        for name, value in self._model.state_dict().items():
            if self._count == 1 or not value.is_floating_point():
                self._mean[name] = value.detach().clone()
            else:
                self._mean[name].lerp_(value.detach(), 1.0 / self._count)

    def install(self) -> None:
        """Put the mean into the model."""
        self._model.load_state_dict(self._mean)

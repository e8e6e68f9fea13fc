"""Scouts of a run: short trainings at fixed configurations before it, the best of which becomes the run."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autobatch._plain import Plain
from autobatch.beacons import BeaconKey, CostTable
from autobatch.beacons._columns import FINISHED
from autobatch.control._state import adopted_state
from autobatch.control.run import (
    CHECKPOINT,
    DECISIONS,
    EPOCHS,
    MEASUREMENTS,
    SCOUTING,
    SCOUTS,
    EpochRow,
)
from autobatch.control.run._files import load_json, read_lines, write_json, write_lines
from autobatch.policies import Policy, PolicySpec, TaskInfo, planned_epochs
from autobatch.policies._wording import configuration, count, duration, figure, percent
from autobatch.policies.steer import Scout, ScoutPlan, hopeless
from autobatch.training._checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from autobatch.training._run import RunConfig, kept_config
from autobatch.training._trial import Trial


@dataclass(frozen=True)
class ScoutRecord(Plain):
    """What one scout came to, and what it has cost.

    Attributes:
        batch_size: global batch size.
        lr: base learning rate.
        epochs: epochs that it has trained.
        train_loss: mean training loss of its last epoch.
        validation_loss: mean validation loss after it.
        validation_error: validation error after it, in [0, 1].
        ended: why it ended before its time; None where it did not.
        won: whether it has become the run; then it costs nothing.
        examples: training examples that it has seen.
        optimizer_steps: optimizer steps that it has taken.
        samples: steps that were measured.
        seconds: wall time.
        measuring_seconds: the part of it that measuring took.
    """

    batch_size: int
    lr: float
    epochs: int
    train_loss: float
    validation_loss: float
    validation_error: float
    ended: str | None
    won: bool
    examples: int
    optimizer_steps: int
    samples: int
    seconds: float
    measuring_seconds: float


@dataclass(frozen=True)
class Scouting(Plain):
    """What the scouts of a run came to, or have come to so far.

    Attributes:
        reason: why the winner has won; None while scouts are still to train.
        scouts: one record each, in the order in which they trained.
        waiting: (batch size, base learning rate) of those that are still to train, the one in training first, as far as
            that is settled.
        more: how many may follow them at most.
        epochs: epochs that each trains at most; 0 where that was not kept.
        planned: epochs after which the run is planned to end, once they have trained; 0 where that was not kept.
    """

    reason: str | None
    scouts: tuple[ScoutRecord, ...]
    waiting: tuple[tuple[int, float], ...] = ()
    epochs: int = 0
    planned: int = 0
    more: int = 0

    @property
    def losers(self) -> tuple[ScoutRecord, ...]:
        """Those that did not become the run: what scouting has cost."""
        return tuple(scout for scout in self.scouts if not scout.won)


def scout_config(config: RunConfig, batch_size: int, lr: float) -> RunConfig:
    """Return the configuration of a scout of a run: the same with a fixed policy."""
    policy = PolicySpec(name="scout", kind="fixed", parameters={"batch_size": batch_size, "lr": lr})
    return config.model_copy(update={"policy": policy})


def scout_directory(out: Path, batch_size: int, lr: float, seed: int) -> Path:
    """Return the run directory of a scout, in that of the run that it belongs to."""
    return out / SCOUTS / BeaconKey(batch_size, lr, seed).name


def train_scout(
    trial: Trial,
    epoch: Callable[[], object],
    rows: Sequence[EpochRow],
    *,
    plan: ScoutPlan,
    key: tuple[int, float],
    others: Sequence[Scout],
) -> Scout:
    """Train a scout as long as it may win against others.

    Args:
        trial: its training.
        epoch: trains the next epoch, and adds its figures to ``rows``.
        rows: the epochs so far, those of an earlier start among them.
        plan: what scouts are for.
        key: batch size and base learning rate.
        others: the scouts before.

    Returns:
        The scout, at its end.
    """
    while True:
        scout = Scout(
            *key,
            tuple(row.train_loss for row in rows),
            tuple(float(getattr(row, trial.config.task.score)) for row in rows),
            None if trial.stopped_because == FINISHED else trial.stopped_because,
        )
        if scout.ended is not None or len(rows) >= plan.epochs:
            return scout
        if rows and not plan.whole and (why := hopeless(scout, others)):
            return Scout(*key, scout.train_losses, scout.scores, why)
        epoch()


def told_plan(plan: ScoutPlan, task: TaskInfo) -> str:
    """Say in a line what will be tried, and what it costs at most."""
    if not plan.configurations:
        return plan.note
    tried = ", ".join(configuration(*one) for one in plan.configurations)
    note = f"; {plan.note}" if plan.note else ""
    line = f"{count(plan.most, 'scout')} of {count(plan.epochs, 'epoch')} each: {tried}"
    if plan.more:
        line = (
            f"{count(plan.most, 'scout')} of {count(plan.epochs, 'epoch')} each at most: {tried} first, then rates "
            "towards where the loss falls"
        )
    cost = expected_cost(plan, task.costs, task.train_size)
    if cost is None or task.costs is None:
        return line + note
    size = plan.configurations[0][0]
    whole = task.costs.whole_epochs(size, task.train_size, task.epochs)
    return (
        f"{line}; those that lose take about {duration(cost)}, {percent(cost / whole)} of a whole training at s{size}, "
        f"measuring not counted{note}"
    )


def told_schedule(policy: Policy, task: TaskInfo) -> str:
    """Say in a line who has the say over schedule and length of a run, and what comes of it."""
    if not task.steered:
        return (
            f"the task keeps its own schedule (schedule.keep): the rate follows it, and all "
            f"{count(task.epochs, 'epoch')} are trained"
        )
    end = planned_epochs(policy, task)
    if end == task.epochs:
        return ""
    return f"planned to end after {end} of {count(task.epochs, 'epoch')}, the rate falling to nothing until then"


def told_scout(record: ScoutRecord) -> str:
    """Say in a line what a scout came to."""
    figures = {"training loss": record.train_loss, "validation": record.validation_loss}
    known = ", ".join(f"{name} {figure(value)}" for name, value in figures.items() if not math.isnan(value))
    ended = f"; ended: {record.ended}" if record.ended else ""
    return (
        f"scout {configuration(record.batch_size, record.lr)}: after {count(record.epochs, 'epoch')} "
        f"{known or 'no loss is known'}{ended}"
    )


def expected_cost(plan: ScoutPlan, costs: CostTable | None, train_size: int) -> float | None:
    """Return seconds of all scouts but the one that goes on, measuring not counted; None without a cost table."""
    if costs is None:
        return None
    each = [costs.whole_epochs(size, train_size, plan.epochs) for size, _ in plan.configurations]
    return sum(each) + plan.more * each[-1] - min(each) if each else 0.0


def record_of(rows: Sequence[EpochRow], scout: Scout) -> ScoutRecord:
    """Return what a scout, with its epochs, at least one, came to and has cost; it has not won yet."""
    last = rows[-1]
    return ScoutRecord(
        batch_size=scout.batch_size,
        lr=scout.lr,
        epochs=last.epoch,
        train_loss=last.train_loss,
        validation_loss=last.validation_loss,
        validation_error=last.validation_error,
        ended=scout.ended,
        won=False,
        examples=last.examples,
        optimizer_steps=last.steps,
        samples=last.samples,
        seconds=last.seconds,
        measuring_seconds=last.measuring_seconds,
    )


def save_scouting(out: Path, scouting: Scouting) -> None:
    """Write ``scouts.json`` into a run directory."""
    write_json(out / SCOUTING, scouting.to_dict())


def load_scouting(out: Path) -> Scouting | None:
    """Read ``scouts.json`` of a run.

    Args:
        out: the run directory.

    Returns:
        What its scouts came to; None where it had none.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = out / SCOUTING
    if not path.exists():
        return None
    return load_json(path, "scouts", Scouting.from_dict)


def adopt(source: Path, out: Path, config: RunConfig, policy_state: dict[str, Any], scouting: Scouting) -> None:
    """Make a scout's training the beginning of the run; the checkpoint comes last, so that a kill repeats it.

    Args:
        source: the scout's directory.
        out: the run directory.
        config: the run's configuration.
        policy_state: state of the run's policy.
        scouting: what the scouts came to; the wall time of those that lost is charged to the run, and by the cost table
            their measuring counts against its budget.

    Raises:
        CheckpointError: the scout's directory is damaged.
        OutputError: ``out`` cannot be written.
    """
    checkpoint = read_checkpoint(source / CHECKPOINT)
    controller = adopted_state(checkpoint.record["controller"], policy_state)
    if config.costs is not None and "training" in controller["measuring"]:
        trained, measured = _modelled(scouting.losers, config.costs)
        account = controller["measuring"]
        account = {
            **account, "training": account["training"] + trained, "measuring": account["measuring"] + measured
        }  # fmt: skip
        controller["measuring"] = account
    record = {
        **checkpoint.record,
        "config": kept_config(config, out),
        "controller": controller,
        "seconds": float(checkpoint.record["seconds"]) + sum(scout.seconds for scout in scouting.losers),
        "adopted": True,
    }
    for name in (EPOCHS, MEASUREMENTS, DECISIONS):
        lines = read_lines(source / name)
        if name == DECISIONS:
            lines = [{**line, "reason": f"as a scout; {scouting.reason}"} for line in lines]
        write_lines(out / name, lines)
    write_checkpoint(out / CHECKPOINT, Checkpoint(checkpoint.tensors, record))


def _modelled(scouts: Sequence[ScoutRecord], costs: CostTable) -> tuple[float, float]:
    """Return what scouts took by the cost table: seconds of training without measuring, and of measuring."""
    trained = [costs.training_seconds(one.batch_size, one.optimizer_steps, one.epochs) for one in scouts]
    return sum(trained), sum(costs.measuring(one.batch_size) * one.samples for one in scouts)

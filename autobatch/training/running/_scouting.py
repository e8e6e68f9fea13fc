"""What the scouts of a run came to, and where that is kept."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autobatch._plain import Epochs, Plain
from autobatch.beacons import BeaconKey
from autobatch.control.run import SCOUTING, SCOUTS, EpochRow
from autobatch.control.run._files import load_json, write_json
from autobatch.policies.steer import Scout


@dataclass(frozen=True)
class ScoutRecord(Plain):
    """What one scout came to, and what it has cost.

    Attributes:
        batch_size: global batch size.
        lr: base learning rate.
        epochs: epochs that it has trained.
        train_loss: mean training loss of its last epoch, or of the part of one that was decided on last.
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
    epochs: Epochs
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
    epochs: Epochs = 0
    planned: int = 0
    more: int = 0

    @property
    def losers(self) -> tuple[ScoutRecord, ...]:
        """Those that did not become the run: what scouting has cost."""
        return tuple(scout for scout in self.scouts if not scout.won)


def scout_directory(out: Path, batch_size: int, lr: float, seed: int) -> Path:
    """Return the run directory of a scout, in that of the run that it belongs to."""
    return out / SCOUTS / BeaconKey(batch_size, lr, seed).name


def record_of(rows: Sequence[EpochRow], scout: Scout) -> ScoutRecord:
    """Return what a scout, with its epochs, came to and has cost; it has not won yet."""
    if not rows:
        nothing = (math.nan, math.nan, math.nan, scout.ended, False, 0, 0, 0, 0.0, 0.0)
        return ScoutRecord(scout.batch_size, scout.lr, 0, *nothing)
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

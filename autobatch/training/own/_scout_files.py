"""What a scout of somebody's own loop leaves on disk, so that a scouting that was cut goes on with those that miss."""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from autobatch._errors import CheckpointError, OutputError
from autobatch._files import naming_output, write_whole
from autobatch._plain import Plain
from autobatch.beacons import BeaconKey
from autobatch.control.run._files import load_json, read_whole, write_json
from autobatch.policies import Scout
from autobatch.policies.steer import TimedSizes, TrainedScout

_VERSION = 1
_TIMED = "timed.json"
_Kept = TypeVar("_Kept", bound=Plain)


@dataclass(frozen=True)
class KeptScout(Plain):
    """One scout, and what it was a scout of.

    Attributes:
        batch_size: global batch size.
        lr: base learning rate.
        seed: the seed.
        length: decision periods that it was to train.
        train_losses: mean training loss of each period; NaN where it is not known.
        validation_losses: mean validation loss after each.
        validation_errors: validation error after each, in [0, 1].
        ended: why it ended before its time; None where it did not.
        steps: optimizer steps that it took.
        examples: training examples that it saw.
        seconds: wall time of the whole call of the loop.
        training_seconds: the part of it from the attaching of the controller on.
        epochs: length of the whole training, in decision periods.
        train_size: examples in one such period.
        loop: what could be seen of the loop.
        options: further arguments of the controller, in words.
        code: fingerprint of the loop's code; empty where it was not kept.
        first_loss: loss of its first batch, before anything is learnt; NaN where it is not known.
        batch_sizes: the ladder; empty where it was not kept.
        learning_rates: the base learning rates to choose from; empty where they were not kept.
        applied: share of its rate that a schedule of the loop left it, in the mean over its batches.
        moves_each_batch: whether a schedule of the loop has moved its rate after most of its batches.
    """

    batch_size: int
    lr: float
    seed: int
    length: int
    train_losses: tuple[float, ...]
    validation_losses: tuple[float, ...]
    validation_errors: tuple[float, ...]
    ended: str | None
    steps: int
    examples: int
    seconds: float
    training_seconds: float
    epochs: int
    train_size: int
    loop: Mapping[str, Any]
    options: Mapping[str, str]
    code: str = ""
    first_loss: float = math.nan
    batch_sizes: tuple[int, ...] = ()
    learning_rates: tuple[float, ...] = ()
    applied: float = 1.0
    moves_each_batch: bool = False

    def scout(self, score: str) -> Scout:
        """Return it as policies see it, ranked by ``score``."""
        scores = self.validation_losses if score == "validation_loss" else self.validation_errors
        return Scout(self.batch_size, self.lr, self.train_losses, scores, self.ended, periods=self.periods, score=score)

    @property
    def periods(self) -> int:
        """Decision periods of an epoch."""
        return self.epochs // self.loop["epochs"] if self.loop else 1

    def trained(self, score: str) -> TrainedScout:
        """Return it as a report has it, with its cost."""
        return TrainedScout(self.scout(score), self.steps, self.examples, self.seconds, self.training_seconds)


class ScoutFolder:
    """The folder in which scouts are kept.

    Args:
        out: the folder; made where it is missing.

    Raises:
        OutputError: it cannot be made.
    """

    def __init__(self, out: Path) -> None:
        with naming_output(out):
            out.mkdir(parents=True, exist_ok=True)
        self._out = out

    def write(self, kept: KeptScout, state: Any) -> None:
        """Keep a scout.

        Args:
            kept: the scout.
            state: what its loop returned to go on from; None where it returned none. ``torch.load(weights_only=True)``
                must read it.
        """
        if state is None:
            self.drop_state(kept)
        else:
            write_whole(self._state(kept), _dumped(state))
        write_json(self._place(kept.batch_size, kept.lr, kept.seed), {"version": _VERSION, **kept.to_dict()})

    def read(self, batch_size: int, lr: float, seed: int) -> KeptScout | None:
        """Return a scout; None where there is none."""
        place = self._place(batch_size, lr, seed)
        return _read(place, KeptScout) if place.exists() else None

    def write_timed(self, timed: TimedSizes) -> None:
        """Keep what examples take."""
        write_json(self._out / _TIMED, {"version": _VERSION, **timed.to_dict()})

    def timed(self) -> TimedSizes | None:
        """Return what examples take; None where nobody has tried to find out."""
        path = self._out / _TIMED
        return _read(path, TimedSizes) if path.exists() else None

    def all(self) -> list[KeptScout]:
        """Return all scouts, by name."""
        return [_read(path, KeptScout) for path in sorted(self._out.glob("b*-lr*-s*.json"))]

    def state(self, kept: KeptScout) -> Any:
        """Return what a scout's loop returned to go on from, on the CPU; None where there is none."""
        path = self._state(kept)
        if not path.exists():
            return None
        try:
            return torch.load(io.BytesIO(read_whole(path, "state")), map_location="cpu", weights_only=True)
        except Exception as error:
            raise CheckpointError(f"{path}: damaged: {error}; delete the folder to scout anew") from None

    def drop_state(self, kept: KeptScout) -> None:
        """Delete what a scout's loop returned to go on from, where it has lost."""
        path = self._state(kept)
        with naming_output(path, "deleted"):
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete all scouts."""
        for path in [*sorted(self._out.glob("b*-lr*-s*")), self._out / _TIMED]:
            if path.suffix in {".json", ".pt"}:
                with naming_output(path, "deleted"):
                    path.unlink(missing_ok=True)

    def _place(self, batch_size: int, lr: float, seed: int) -> Path:
        return self._out / f"{BeaconKey(batch_size, lr, seed).name}.json"

    def _state(self, kept: KeptScout) -> Path:
        return self._place(kept.batch_size, kept.lr, kept.seed).with_suffix(".pt")


def _dumped(state: Any) -> bytes:
    buffer = io.BytesIO()
    try:
        torch.save(state, buffer)
        torch.load(io.BytesIO(buffer.getvalue()), map_location="cpu", weights_only=True)
    except Exception as error:
        raise OutputError(
            f"the 'state' that train returned cannot be kept: {error}; return state_dict()s of model, optimizer, "
            "scheduler and controller, and plain values"
        ) from None
    return buffer.getvalue()


def _read(path: Path, kind: type[_Kept]) -> _Kept:
    def kept(state: dict[str, Any]) -> _Kept:
        if state["version"] != _VERSION:
            raise ValueError("it is of another version")
        return kind.from_dict(state)

    what, again = "timing of a loop", "the folder to scout"
    if kind is KeptScout:
        what, again = "scout", "it to train this scout"
    return load_json(path, what, kept, f"; delete {again} anew")

"""What a scout of somebody's own loop leaves on disk, so that a scouting that was cut goes on with those that miss."""

import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from autobatch._errors import CheckpointError, OutputError
from autobatch._files import naming_output, write_whole
from autobatch.beacons import BeaconKey
from autobatch.policies import Scout
from autobatch.policies.steer import TrainedScout
from autobatch.training._files import read_whole, to_json

_VERSION = 1
_LOSSES = ("train_losses", "validation_losses", "validation_errors")


@dataclass(frozen=True)
class KeptScout:
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

    def scout(self, score: str) -> Scout:
        """Return it as policies see it.

        Args:
            score: the figure that ranks scouts.

        Returns:
            The scout.
        """
        scores = self.validation_losses if score == "validation_loss" else self.validation_errors
        return Scout(self.batch_size, self.lr, self.train_losses, scores, self.ended)

    def trained(self, score: str) -> TrainedScout:
        """Return it as a report has it.

        Args:
            score: the figure that ranks scouts.

        Returns:
            The scout with its cost.
        """
        return TrainedScout(self.scout(score), self.steps, self.examples, self.seconds, self.training_seconds)


def write_scout(out: Path, kept: KeptScout, state: Any) -> None:
    """Keep a scout.

    Args:
        out: the folder of the scouts; made where it is missing.
        kept: the scout.
        state: what its loop returned to go on from; None where it returned none.

    Raises:
        OutputError: it cannot be written, or the state holds what ``torch.load(weights_only=True)`` does not read.
    """
    with naming_output(out):
        out.mkdir(parents=True, exist_ok=True)
    place = _place(out, kept.batch_size, kept.lr, kept.seed)
    if state is None:
        drop_state(out, kept)
    else:
        write_whole(place.with_suffix(".pt"), _dumped(state))
    write_whole(place, (to_json({"version": _VERSION, **asdict(kept)}, indent=2) + "\n").encode())


def read_scout(out: Path, batch_size: int, lr: float, seed: int) -> KeptScout | None:
    """Read a scout.

    Args:
        out: the folder of the scouts.
        batch_size: its batch size.
        lr: its base learning rate.
        seed: its seed.

    Returns:
        The scout; None where there is none.
    """
    place = _place(out, batch_size, lr, seed)
    return _read(place) if place.exists() else None


def read_scouts(out: Path) -> list[KeptScout]:
    """Read all scouts of a folder.

    Args:
        out: the folder; it need not exist.

    Returns:
        The scouts, by name.
    """
    return [_read(path) for path in sorted(out.glob("b*-lr*-s*.json"))]


def read_state(out: Path, kept: KeptScout) -> Any:
    """Read what a scout's loop returned to go on from.

    Args:
        out: the folder of the scouts.
        kept: the scout.

    Returns:
        The state, on the CPU; None where there is none.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = _place(out, kept.batch_size, kept.lr, kept.seed).with_suffix(".pt")
    if not path.exists():
        return None
    try:
        return torch.load(io.BytesIO(read_whole(path, "state")), map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: damaged: {error}; delete the folder to scout anew") from None


def drop_state(out: Path, kept: KeptScout) -> None:
    """Delete what a scout's loop returned to go on from, where it has lost.

    Args:
        out: the folder of the scouts.
        kept: the scout.
    """
    path = _place(out, kept.batch_size, kept.lr, kept.seed).with_suffix(".pt")
    with naming_output(path, "deleted"):
        path.unlink(missing_ok=True)


def drop_scouts(out: Path) -> None:
    """Delete all scouts of a folder.

    Args:
        out: the folder; it need not exist.

    Raises:
        OutputError: one cannot be deleted.
    """
    for path in sorted(out.glob("b*-lr*-s*")):
        if path.suffix in {".json", ".pt"}:
            with naming_output(path, "deleted"):
                path.unlink(missing_ok=True)


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


def _place(out: Path, batch_size: int, lr: float, seed: int) -> Path:
    return out / f"{BeaconKey(batch_size, lr, seed).name}.json"


def _read(path: Path) -> KeptScout:
    try:
        state = json.loads(read_whole(path, "scout"))
        if state.pop("version") != _VERSION:
            raise ValueError("it is of another version")
        losses = {key: tuple(math.nan if value is None else float(value) for value in state[key]) for key in _LOSSES}
        return KeptScout(**{**state, **losses})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged: {error!r}; delete it to train this scout anew") from None

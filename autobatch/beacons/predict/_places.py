"""Where a run stood after each epoch, read from its ``epochs.jsonl``, whoever wrote it."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autobatch._errors import CheckpointError
from autobatch.beacons._columns import END_TOLERANCE

_COUNTS = ("batch_size", "steps")
_POSITION = ("c_bar", "l_cum")
_OUTCOMES = ("validation_loss", "validation_error")
REQUIRED = ("epoch", "progress", "batch_size", "lr", "c_bar", "l_cum", "steps")
"""Keys that every line of an ``epochs.jsonl`` must have to predict from it."""


@dataclass(frozen=True)
class RunPlace:
    """Where a run stood after an epoch.

    Attributes:
        epoch: finished epochs; the same in several places where decisions are taken within epochs.
        progress: examples seen / examples of the whole training, in (0, 1].
        batch_size: global batch size of the epoch.
        lr: base learning rate of the epoch.
        c_bar: C̄_K; NaN before the first measurement.
        l_cum: L_K; NaN or 0 before the first measurement.
        steps: optimizer steps so far, K.
        validation_loss: mean validation loss after the epoch; NaN where the line has none.
        validation_error: share of validation examples classified wrongly after the epoch; NaN where the line has none.
    """

    epoch: int
    progress: float
    batch_size: int
    lr: float
    c_bar: float
    l_cum: float
    steps: int
    validation_loss: float = math.nan
    validation_error: float = math.nan

    @property
    def measured(self) -> bool:
        """Whether the position is known."""
        return 0.0 < self.c_bar < math.inf and 0.0 < self.l_cum < math.inf and self.steps > 0

    @property
    def at_end(self) -> bool:
        """Whether the training was over."""
        return self.progress >= 1.0 - END_TOLERANCE


def read_places(path: str | Path) -> tuple[RunPlace, ...]:
    """Read where a run stood after each epoch; nothing in the file is executed.

    Args:
        path: an ``epochs.jsonl`` or the directory that holds it: a run directory of ``autobatch run``, or one of any
            loop that writes a JSON object a line with at least ``epoch progress batch_size lr c_bar l_cum steps``.
            Null stands for what is not known. Other keys are passed over, but for ``validation_loss`` and
            ``validation_error``, which may be there; so is a last line that was only half written.

    Returns:
        One place an epoch, in order.

    Raises:
        CheckpointError: the file is missing or has no whole line; or a line is damaged, lacks a key or holds what no
            run can; the message names the line and the key.
    """
    path = Path(path)
    file = path if path.suffix == ".jsonl" else path / "epochs.jsonl"
    try:
        lines = file.read_bytes().split(b"\n")[:-1]
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path}: holds no run (no {file.name} there)") from None
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from None
    places: list[RunPlace] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                if (place := _place(line)) is not None:
                    places.append(place)
                    _check_order(places)
            except ValueError as error:
                raise CheckpointError(f"{file}, line {number}: {error}") from None
    if not places:
        raise CheckpointError(f"{file}: no epoch is finished yet, so there is nothing to predict from")
    return tuple(places)


def _place(line: bytes) -> RunPlace | None:
    """Return the place that a line tells of; None for one from before the first step, as loggers have it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, got {line[:60]!r}")
    missing = [key for key in REQUIRED if key not in row]
    if missing:
        raise ValueError(f"no key {', '.join(map(repr, missing))}; every line needs {', '.join(REQUIRED)}")
    if row["progress"] == 0:
        return None
    found: dict[str, Any] = {key: _count(row, key) for key in _COUNTS} | {"epoch": math.floor(_number(row, "epoch"))}
    if found["epoch"] < 0:
        raise ValueError(f"key 'epoch' must be at least 0, got {row['epoch']!r}")
    found |= {key: _number(row, key) for key in ("progress", "lr")}
    found |= {key: _figure(row, key) for key in (*_POSITION, *_OUTCOMES)}
    if not 0.0 < found["progress"] <= 1.0 + END_TOLERANCE:
        raise ValueError(f"key 'progress' must lie in (0, 1], got {row['progress']!r}")
    if not found["lr"] > 0.0:
        raise ValueError(f"key 'lr' must be positive, got {row['lr']!r}")
    return RunPlace(**found)


def _check_order(places: list[RunPlace]) -> None:
    if len(places) > 1:
        before, now = places[-2:]
        if now.epoch < before.epoch:
            raise ValueError(f"key 'epoch' must not fall, got {now.epoch} after {before.epoch}")
        if now.progress <= before.progress:
            raise ValueError(f"key 'progress' must rise, got {now.progress} after {before.progress}")


def _count(row: dict[str, Any], key: str) -> int:
    value = _number(row, key)
    if value != int(value) or value < 1:
        raise ValueError(f"key {key!r} must be a whole number of at least 1, got {row[key]!r}")
    return int(value)


def _number(row: dict[str, Any], key: str) -> float:
    value = _figure(row, key)
    if not math.isfinite(value):
        raise ValueError(f"key {key!r} must be a number, got {row[key]!r}")
    return value


def _figure(row: dict[str, Any], key: str) -> float:
    value = row.get(key)
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"key {key!r} must be a number or null, got {str(value)[:60]!r}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"key {key!r} must be a number, got one too large") from None

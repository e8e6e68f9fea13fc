"""A run that goes on beside us: its files read again and again, and told a line at a time."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from autobatch._errors import CheckpointError
from autobatch._files import somebody_in
from autobatch._plain import Epochs
from autobatch.control import DecisionRecord
from autobatch.control.run import (
    CONFIG,
    DECISIONS,
    EPOCHS,
    FORKS,
    MEASUREMENTS,
    SUMMARY,
)
from autobatch.policies._wording import brief, count
from autobatch.report._record import RunRecord, checked, read_run, scout_files, with_scouts
from autobatch.report._words import (
    configuration_words,
    epoch_words,
    loss_words,
    percent_words,
    position_words,
    seconds_words,
)
from autobatch.training import EpochRow, load_decisions, load_epochs, load_summary
from autobatch.training.running import load_forks, told_scout

SHORTEST_SILENCE = 60.0
"""Seconds without a sign of life below which nothing is said about it."""

FIRST_EPOCH_SILENCE = 600.0
"""The same before the first epoch, whose length nobody knows yet."""

SOON = 5.0
"""Seconds without a sign of life after which it is looked at whether a process still trains the run."""

_SILENT_EPOCHS = 5


class RunWatch:
    """Reads a run's files again whenever they have changed. It only reads; the run does not notice.

    Args:
        path: the run directory.
        now: the clock that the files' times are read by.

    Raises:
        CheckpointError: the directory holds no run, or a file in it is damaged.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._now = now
        self._stamps = self._stat()
        self._looked, self._left = 0.0, False
        self._record = read_run(path)

    def look(self) -> RunRecord:
        """Return the run as it stands; a line that is only half written is not there yet."""
        stamps = self._stat()
        if CONFIG not in stamps:
            raise CheckpointError(f"{self._path}: the run was removed while it was watched")
        if stamps != self._stamps:
            # A decision is on disk before its epoch: in this order every epoch has its own.
            summary = load_summary(self._path) if SUMMARY in stamps else None
            epochs = load_epochs(self._path)
            self._record = with_scouts(
                checked(
                    replace(
                        self._record,
                        epochs=epochs,
                        decisions=load_decisions(self._path),
                        summary=summary,
                        forks=load_forks(self._path),
                    )
                )
            )
            self._stamps = stamps
        return self._record

    def silence(self) -> float:
        """Return the seconds since the run last wrote something; infinite where no process is seen to train it."""
        newest = max((stamp / 1e9 for stamp, _ in self._stamps.values()), default=self._now())
        silent = max(self._now() - newest, 0.0)
        if silent <= SOON:
            self._looked = 0.0
        elif not self._looked or silent > 2.0 * self._looked:  # seldom: looking keeps others out for a moment
            self._looked, self._left = silent, not somebody_in(self._path)
        return math.inf if self._looked and self._left else silent

    def _stat(self) -> dict[str, tuple[int, int]]:
        found = {}
        own = [self._path / name for name in (CONFIG, EPOCHS, MEASUREMENTS, DECISIONS, FORKS, SUMMARY)]
        for path in (*own, *scout_files(self._path)):
            try:
                state = path.stat()
            except OSError:
                continue
            found[str(path.relative_to(self._path))] = (state.st_mtime_ns, state.st_size)
        return found


class RunLines:
    """Tells a run a line at a time: every epoch once, those of its scouts too, and what begins with its reason."""

    def __init__(self) -> None:
        self._shown: Epochs = -1
        self._scouts: dict[tuple[int, float], int] = {}
        self._scouts_ended = 0
        self._warned = False

    def new(self, record: RunRecord, silence: float) -> list[str]:
        """Return the lines to be told since the last call; the run is silent for ``silence`` seconds."""
        lines = self._of_scouts(record)
        last = record.epochs[-1].epoch if record.epochs else 0
        if self._shown > last:
            lines.append(f"the run went back to epoch {epoch_words(last)}: it was resumed from its last checkpoint")
            self._shown = last
        if self._shown < 0 and record.decisions:
            lines += _changes(record, 0)
            self._shown = 0
        for row in record.epochs:
            if row.epoch > self._shown:
                lines.append(epoch_line(row, record.planned_epochs))
                lines += [f"  → {fork.reason}" for fork in record.forks if fork.epoch == row.epoch - 1]
                lines += _changes(record, row.epoch)
                self._shown, self._warned = row.epoch, False
        words = silence_words(record, silence)
        if words is not None and not self._warned:
            lines.append(words)
            self._warned = True
        return lines

    def _of_scouts(self, record: RunRecord) -> list[str]:
        """Return what is new of the scouts."""
        lines = []
        for place, scout in enumerate(record.scouts):
            key = (scout.batch_size, scout.lr)
            shown, most = self._scouts.get(key, 0), record.scouting.epochs if record.scouting is not None else 0
            name = configuration_words(*key)
            lines += [f"scout {name}  {epoch_line(row, most or row.epoch)}" for row in scout.epochs[shown:]]
            self._scouts[key] = len(scout.epochs)
            if scout.record is not None and place == self._scouts_ended:
                lines.append(f"  → {told_scout(scout.record)}")
                self._scouts_ended += 1
        return lines


def epoch_line(row: EpochRow, epochs: Epochs) -> str:
    """Return the line that a finished epoch is told by; ``epochs`` is the planned length of the training."""
    of = epoch_words(epochs)
    return (
        f"epoch {epoch_words(row.epoch):>{len(of)}}/{of}  batch {row.batch_size:4d}  "
        f"applied lr {row.lr_effective:<10.4g}C̄ {position_words(row.c_bar):>6}  L {position_words(row.l_cum):>6}  "
        f"train loss {loss_words(row.train_loss)}  validation loss {loss_words(row.validation_loss)}  "
        f"error {percent_words(row.validation_error):>7}  {row.seconds:6.1f} s"
    )


def decision_line(decision: DecisionRecord) -> str:
    """Return the line that what begins or ends is told by: it stands below one epoch and is of the next."""
    coming = f"from epoch {decision.epoch + 1}: "
    if not isinstance(decision.epoch, int):
        coming = f"after {count(decision.epoch, 'epoch')}: "
    coming = coming if decision.epoch and not decision.stop else ""
    return f"{coming}{brief(decision.reason)}"


def silence_words(record: RunRecord, silence: float) -> str | None:
    """Say that a run has been silent for ``silence`` seconds, or ended; None where its epochs explain that."""
    explained, rows = FIRST_EPOCH_SILENCE, record.epochs or [row for one in record.scouts for row in one.epochs]
    if rows:
        explained = max(SHORTEST_SILENCE, _SILENT_EPOCHS * max(durations(rows)))
    if record.summary is not None or silence <= explained:
        return None
    if math.isinf(silence):
        return f"No process on this machine is seen to train this run: {record.how_to_go_on}."
    return (
        f"Nothing new for {seconds_words(silence)}: a slow epoch, or the run was stopped, which cannot be seen from "
        f"here. If it was: {record.how_to_go_on}."
    )


def durations(rows: Sequence[EpochRow]) -> list[float]:
    """Return the seconds of each of a run's epochs, from the first."""
    ends = [row.seconds for row in rows]
    return [end - begin for begin, end in zip([0.0, *ends], ends, strict=False)]


def _changes(record: RunRecord, epoch: Epochs) -> list[str]:
    made = [one for one in record.decisions if one.epoch == epoch and (one.turn or one.stop)]
    return [f"  → {decision_line(one)}{f' ({one.limit})' if one.limit else ''}" for one in made]

"""What a person sees while a run trains: a line a decision, the reason of every change, and a bar on a terminal."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from autobatch._plain import Epochs
from autobatch.cli._bar import Bar
from autobatch.control import DecisionRecord
from autobatch.policies._wording import duration
from autobatch.report import count_words
from autobatch.report._follow import decision_line, epoch_line
from autobatch.report._words import epoch_words
from autobatch.training import EpochRow, RunInfo, RunObserver

_REFRESH_SECONDS = 0.2


class RunProgress(Bar, RunObserver):
    """Prints what happens; on a terminal a bar below shows how far the training is.

    Args:
        console: where to print.
        ignored: what to say where there are beacons, of an option that these leave without effect; empty for nothing.
    """

    def __init__(self, console: Console, *, ignored: str = "") -> None:
        super().__init__(
            console,
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[doing]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            doing="",
        )
        self._bar.reset(self._task, start=False)
        self._epochs, self._periods = 0, 1
        self._scouted = False
        self._ignored = ignored
        self._refreshed = 0.0

    def started(self, info: RunInfo) -> None:
        """Say what is trained on what, and where it is kept."""
        self._epochs, self._periods = info.epochs, info.periods
        self._bar.start_task(self._task)
        self._bar.update(self._task, total=info.epochs, completed=info.resumed_epoch)
        examples = (info.train_size, info.validation_size, info.test_size)
        self._say(
            "{} training, {} validation and {} test {}; {}; {} parameters; {}".format(
                *map(count_words, examples), info.examples, info.predicted, count_words(info.parameters), info.device
            )
        )
        if info.beacons is not None:
            self._say(f"{info.beacons} beacons to compare with")
            if self._ignored:
                self._say(self._ignored)
        if info.costs_source is not None:
            self._say(f"seconds by batch size: {info.costs_source}")
        if info.seconds is not None:
            what = "what is left takes" if info.resumed_epoch else "takes"
            self._say(f"{what} about {' to '.join(dict.fromkeys(map(duration, info.seconds)))} on a quiet machine")
        begun = "resumed" if not self._scouted else "the best scout goes on"
        again = f", {begun} after epoch {epoch_words(info.resumed_epoch)}" if info.resumed_epoch else ""
        self._say(f"kept in {info.out}{again}")
        self._say("")

    def scouting(self, plan: str) -> None:
        """Say what is tried first, and what it costs."""
        self._scouted = True
        self._say(plan)

    def scout_epoch(self, row: EpochRow, epochs: Epochs) -> None:
        """Print the line of a scout's decision period."""
        self._say(f"scout {epoch_line(row, epochs)}")

    def scouted(self, scout: str) -> None:
        """Print what a scout came to."""
        self._console.print(Text.assemble(("  → ", "bold cyan"), (scout, "cyan")), soft_wrap=True)

    def decided(self, record: DecisionRecord) -> None:
        """Print the reason of what begins or ends, and count up to the end that is planned now."""
        if record.planned is not None and record.planned // self._periods != self._epochs:
            self._epochs = record.planned // self._periods
            self._bar.update(self._task, total=self._epochs)
        if record.turn or record.stop:
            self._console.print(Text.assemble(("  → ", "bold cyan"), (decision_line(record), "cyan")), soft_wrap=True)
        if record.limit:
            self._console.print(Text(f"    {record.limit}", style="yellow"), soft_wrap=True)

    def step(self, step: int, steps: int) -> None:
        """Move the bar within an epoch, a few times a second at most."""
        now = time.monotonic()
        if now - self._refreshed > _REFRESH_SECONDS:
            self._refreshed = now
            self._bar.update(self._task, doing=f"step {step} of {steps}")

    def epoch_finished(self, row: EpochRow) -> None:
        """Print the line of an epoch, or of a part of one that was decided on."""
        self._bar.update(self._task, completed=row.epoch)
        self._say(epoch_line(row, self._epochs))

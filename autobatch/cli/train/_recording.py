"""What a person sees while beacons are recorded."""

import math
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from autobatch.report import seconds_words
from autobatch.training import RecordingObserver, RecordingProgress


class RecordingProgressBar(RecordingObserver):
    """Prints a line for each finished beacon; on a terminal a bar below shows what is running and the time left.

    Args:
        console: where to print.
        what: what is recorded, in the plural.
    """

    def __init__(self, console: Console, what: str = "beacons") -> None:
        self._console = console
        self._what = what
        self._started = time.monotonic()
        self._bar = Progress(
            TextColumn(what),
            MofNCompleteColumn(),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[running]}", style="dim"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, left="", running="")

    def __enter__(self) -> "RecordingProgressBar":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def started(self, progress: RecordingProgress) -> None:
        """Say how many beacons there are to train."""
        self._say(f"{progress.total} {self._what}, {progress.done} of them are there already")
        self.progressed(progress)

    def note(self, message: str) -> None:
        """Print a line."""
        self._say(message)

    def progressed(self, progress: RecordingProgress) -> None:
        """Move the bar."""
        left = f"{seconds_words(progress.seconds_left)} left" if math.isfinite(progress.seconds_left) else ""
        self._bar.update(
            self._task,
            total=progress.total,
            completed=progress.done,
            left=left,
            running=", ".join(progress.running),
        )

    def beacon_finished(self, name: str, stopped_because: str, progress: RecordingProgress) -> None:
        """Print a line for the beacon."""
        left = f", {seconds_words(progress.seconds_left)} left" if math.isfinite(progress.seconds_left) else ""
        self._say(f"{progress.done:4d}/{progress.total}  {name}: {stopped_because}{left}")
        self.progressed(progress)

    def beacon_failed(self, name: str, message: str) -> None:
        """Print what went wrong."""
        self._say(f"failed: {name}: {message}")

    def _say(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)

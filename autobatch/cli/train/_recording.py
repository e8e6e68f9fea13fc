"""What a person sees while beacons are recorded."""

import math

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from autobatch.cli._bar import Bar
from autobatch.report import seconds_words
from autobatch.training import RecordingObserver, RecordingProgress


class RecordingProgressBar(Bar, RecordingObserver):
    """Prints a line for each finished beacon; on a terminal a bar below shows what is running and the time left."""

    def __init__(self, console: Console, what: str = "beacons") -> None:
        super().__init__(
            console,
            TextColumn(what),
            MofNCompleteColumn(),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[running]}", style="dim"),
            left="",
            running="",
        )
        self._what = what

    def started(self, progress: RecordingProgress) -> None:
        """Say how many beacons there are to train."""
        self._say(f"{progress.total} {self._what}, {progress.done} of them are there already")
        self.progressed(progress)

    def progressed(self, progress: RecordingProgress) -> None:
        """Move the bar."""
        running = ", ".join(progress.running)
        self._bar.update(
            self._task, total=progress.total, completed=progress.done, left=_left(progress), running=running
        )

    def beacon_finished(self, name: str, stopped_because: str, progress: RecordingProgress) -> None:
        """Print a line for the beacon."""
        left = _left(progress)
        self._say(f"{progress.done:4d}/{progress.total}  {name}: {stopped_because}{', ' if left else ''}{left}")
        self.progressed(progress)

    def beacon_failed(self, name: str, message: str) -> None:
        """Print what went wrong."""
        self._say(f"failed: {name}: {message}")


def _left(progress: RecordingProgress) -> str:
    return f"{seconds_words(progress.seconds_left)} left" if math.isfinite(progress.seconds_left) else ""

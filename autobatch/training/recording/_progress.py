"""Where a recording stands, and what watches it."""

from dataclasses import dataclass

from autobatch.cells import Report
from autobatch.control.run import EpochRow
from autobatch.training._run import RunInfo, RunObserver


@dataclass(frozen=True)
class RecordingProgress:
    """Where a recording stands.

    Attributes:
        done: trainings that are finished, those found finished at the start included.
        total: trainings to record in all.
        running: names of those that are under way now.
        seconds_left: estimated wall time until all are done; NaN while unknown.
    """

    done: int
    total: int
    running: tuple[str, ...]
    seconds_left: float


class RecordingObserver:
    """What watches a recording. Every method does nothing by default; override those you need."""

    def started(self, progress: RecordingProgress) -> None:
        """Called once, before the first beacon starts."""

    def note(self, message: str) -> None:
        """Called with one line that the user should know."""

    def progressed(self, progress: RecordingProgress) -> None:
        """Called whenever some beacon got further; must be cheap."""

    def beacon_finished(self, name: str, stopped_because: str, progress: RecordingProgress) -> None:
        """Called when a beacon's file is on disk."""

    def beacon_failed(self, name: str, message: str) -> None:
        """Called when a beacon's process died or raised; the others go on."""


class EpochReporter(RunObserver):
    """Reports the share that is done of a run, where it begins and after every epoch."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._epochs = 1

    def started(self, info: RunInfo) -> None:
        """Tell what was done before."""
        self._epochs = info.epochs
        self._report(info.resumed_epoch / self._epochs)

    def epoch_finished(self, row: EpochRow) -> None:
        """Tell which share is done."""
        self._report(row.epoch / self._epochs)

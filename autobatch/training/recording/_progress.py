"""Where a recording stands, and what watches it."""

from dataclasses import dataclass


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

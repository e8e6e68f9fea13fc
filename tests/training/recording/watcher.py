"""An observer that remembers what it is told, and may interrupt."""

from autobatch.training import RecordingObserver, RecordingProgress


class Watcher(RecordingObserver):
    def __init__(self, interrupt_at: int | None = None) -> None:
        self.interrupt_at = interrupt_at
        self.progress: list[RecordingProgress] = []
        self.finished: dict[str, str] = {}
        self.failed: dict[str, str] = {}

    def started(self, progress: RecordingProgress) -> None:
        self.progress.append(progress)

    def progressed(self, progress: RecordingProgress) -> None:
        self.progress.append(progress)

    def beacon_finished(self, name: str, stopped_because: str, progress: RecordingProgress) -> None:
        self.progress.append(progress)
        self.finished[name] = stopped_because
        if len(self.finished) == self.interrupt_at:
            raise KeyboardInterrupt

    def beacon_failed(self, name: str, message: str) -> None:
        self.failed[name] = message

"""Where a recording of many trainings stands, and how long the rest should take."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from autobatch.training._crew import Event


class Named(Protocol):
    """What a training to record has: a name."""

    @property
    def name(self) -> str:
        """The name that people read."""


Job = TypeVar("Job", bound=Named)


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


@dataclass(frozen=True)
class Effort:
    """What a training should take.

    Attributes:
        epochs: epochs that are trained.
        an_epoch: mean seconds of one, or another unit.
    """

    epochs: int
    an_epoch: float


class Ledger(Generic[Job]):
    """What is waiting, running and done, and how long the rest should take.

    Args:
        jobs: the trainings to record, and what each should take.
        found: further ones, found finished.
    """

    def __init__(self, jobs: Sequence[tuple[Job, Effort]], found: int) -> None:
        self._efforts = {job.name: effort for job, effort in jobs}
        # Longest first, so that no process is left alone with a long one at the end.
        by_length = sorted(jobs, key=lambda pair: -pair[1].epochs * pair[1].an_epoch)
        self.waiting = [job for job, _ in by_length]
        self._running: dict[str, int] = {}
        self._done = found
        self._total = found + len(jobs)
        self._worked_off = 0.0
        self._clock: float | None = None

    def take(self, job: Job, event: Event) -> None:
        """Take down what happened to a training; ``progress`` is one more epoch of it."""
        if event == "started":
            self.waiting.remove(job)
            self._running[job.name] = 0
        elif event == "progress":
            self._running[job.name] += 1
            if self._clock is None:  # what came before is the start of processes, which does not scale
                self._clock = time.perf_counter()
            else:
                self._worked_off += self._efforts[job.name].an_epoch
        else:
            del self._running[job.name]
            self._done += event == "done"

    def progress(self) -> RecordingProgress:
        """Return where the recording stands; the modelled rest is scaled by how the model has done so far."""
        left = {job.name: 0 for job in self.waiting} | self._running
        rest = sum((self._efforts[name].epochs - done) * self._efforts[name].an_epoch for name, done in left.items())
        elapsed = 0.0 if self._clock is None else time.perf_counter() - self._clock
        return RecordingProgress(
            done=self._done,
            total=self._total,
            running=tuple(self._running),
            seconds_left=elapsed / self._worked_off * rest if self._worked_off else math.nan,
        )

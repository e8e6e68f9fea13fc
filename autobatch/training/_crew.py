"""A crew of processes that work jobs off side by side; one that dies takes only its own job with it."""

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar

from autobatch._errors import AutoBatchError

Job = TypeVar("Job")
Report = Callable[[float], None]
"""What a job calls to say which share of it is done."""

Event = Literal["started", "progress", "done", "failed"]

_SPAWN = multiprocessing.get_context("spawn")


@dataclass
class _Worker(Generic[Job]):
    process: BaseProcess
    connection: Connection
    job: Job


class Crew(Generic[Job]):
    """Works jobs off in order, each process taking the next one when it is free.

    Processes are spawned, since a forked PyTorch may hang. They ignore Ctrl-C: leaving the context ends them.

    Args:
        work: does one job, calling its second argument with the share that is done; must be picklable.
        jobs: the jobs, in order; each must be picklable.
        size: processes.
    """

    def __init__(self, work: Callable[[Job, Report], Any], jobs: Sequence[Job], size: int) -> None:
        self._work = work
        self._jobs = list(jobs)
        self._size = size
        self._workers: list[_Worker[Job]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()

    def events(self) -> Iterator[tuple[Job, Event, Any]]:
        """Work all jobs off.

        Yields:
            (job, event, value): ``started``; ``progress`` with the share reported; ``done`` with what the job
            returned; ``failed`` with a message.
        """
        while self._jobs and len(self._workers) < self._size:
            yield self._hire(self._jobs.pop(0)), "started", None
        while self._workers:
            ready = wait([worker.connection for worker in self._workers])
            for worker in [worker for worker in self._workers if worker.connection in ready]:
                yield from self._hear(worker)

    def _hear(self, worker: _Worker[Job]) -> Iterator[tuple[Job, Event, Any]]:
        try:
            event, value = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join()
            self._workers.remove(worker)
            worker.connection.close()
            yield worker.job, "failed", f"its process died with exit code {worker.process.exitcode}"
            if self._jobs:
                yield self._hire(self._jobs.pop(0)), "started", None
            return
        yield worker.job, event, value
        if event != "progress":
            yield from self._next(worker)

    def _next(self, worker: _Worker[Job]) -> Iterator[tuple[Job, Event, Any]]:
        if self._jobs:
            worker.job = self._jobs.pop(0)
            worker.connection.send(worker.job)
            yield worker.job, "started", None
        else:
            self._workers.remove(worker)
            worker.connection.send(None)
            worker.process.join()
            worker.connection.close()

    def _hire(self, job: Job) -> Job:
        mine, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(target=_labour, args=(theirs, self._work), daemon=True)
        process.start()
        theirs.close()
        self._workers.append(_Worker(process, mine, job))
        mine.send(job)
        return job


def _labour(connection: Connection, work: Callable[[Any, Report], Any]) -> None:
    """What a process does: job after job, until it is told None or nobody listens any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def report(share: float) -> None:
        connection.send(("progress", share))

    try:
        while (job := connection.recv()) is not None:
            connection.send(_outcome(work, job, report))
    except (EOFError, BrokenPipeError):
        pass


def _outcome(work: Callable[[Any, Report], Any], job: Any, report: Report) -> tuple[Event, Any]:
    try:
        return "done", work(job, report)
    except BrokenPipeError:
        raise
    except AutoBatchError as error:
        return "failed", str(error)
    except Exception:
        return "failed", traceback.format_exc()

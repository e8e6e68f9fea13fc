"""What an engine does, and what becomes of the cells while its workers are at them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, Self

from autobatch._errors import AutoBatchError
from autobatch.cells._plan import Cell, CellEnd, Plan
from autobatch.cells._store import Cells
from autobatch.cells._work import Event, Tell

_LEAVE = 5.0


class Gone(NamedTuple):
    """A worker that has ended.

    Attributes:
        death: how it died; empty where it came to its end.
        owner: its name among the cells; empty where the engine does not know it.
    """

    death: str = ""
    owner: str = ""


class Engine(Protocol):
    """Starts workers somewhere. All that they have to say to one another is in the folder of the cells."""

    look_every: float
    """Seconds between two looks at the cells."""

    def start(self, count: int) -> None:
        """Start workers, beside those that are there."""

    def poll(self) -> Sequence[Gone]:
        """Return the workers that have ended since the last call, which may wait a moment for one.

        Raises:
            AutoBatchError: a worker could not go on at all; the message says why.
        """

    def stop(self) -> None:
        """End what is left of the workers, which give back what they have in hand."""

    def owns(self, owner: str) -> bool:
        """Say whether a worker that has a cell in hand may be one of these."""


def oversee(engine: Engine, cells: Cells, names: frozenset[str], jobs: int, tell: Tell) -> None:
    """Work at some of a folder's cells with the workers of an engine; leaving ends them.

    Args:
        engine: starts them.
        cells: the folder.
        names: the cells.
        jobs: workers at a time, at most.
        tell: told of what happens.

    Raises:
        AutoBatchError: a worker could not go on at all; the message says why.
    """
    with Crew(engine, cells, jobs) as crew:
        crew.work(names, tell)


class Crew:
    """Workers of an engine, for as long as they are needed; leaving ends them.

    A worker that dies takes only its own attempt with it, and another takes its place.

    Args:
        engine: starts them.
        cells: the folder.
        jobs: workers at a time, at most.
    """

    def __init__(self, engine: Engine, cells: Cells, jobs: int) -> None:
        self._engine = engine
        self._cells = cells
        self._jobs = jobs
        self._there = 0

    def work(self, names: frozenset[str], tell: Tell) -> None:
        """Have some of the folder's cells worked at until each is done or given up, or no worker is left."""
        watch = _Watch(self._cells, names, self._engine.owns, tell)
        stillborn, looked = 0, time.monotonic()
        watch.look()
        if self._there < self._jobs:
            self._engine.start(self._jobs - self._there)
            self._there = self._jobs
        while self._there and not watch.over:
            gone = self._engine.poll()
            told = watch.told
            if gone or time.monotonic() - looked >= self._engine.look_every:
                looked = time.monotonic()
                watch.look()
            for one in gone:
                self._there -= 1
                if not one.death or watch.over:
                    continue
                stillborn = 0 if watch.bury(one) or watch.told > told else stillborn + 1
                if stillborn > self._jobs:
                    raise AutoBatchError(f"no worker comes to train anything: {one.death}")
                self._engine.start(1)
                self._there += 1
        watch.look()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            until = time.monotonic() + _LEAVE
            # They end by themselves where nothing is left, but for those that have not begun yet.
            while kind is None and self._there and time.monotonic() < until:
                self._there -= len(self._engine.poll())
        finally:
            self._engine.stop()


@dataclass
class _Watch:
    """Tells what has changed since the last look."""

    cells: Cells
    names: frozenset[str]
    owns: Callable[[str], bool]
    tell: Tell
    told: int = 0
    _told: dict[str, object] = field(default_factory=dict)
    _known: dict[str, tuple[Cell, Plan]] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether every cell is done or given up."""
        return sum(self._told.get(name) in {"done", "failed"} for name in self.names) == len(self.names)

    def look(self) -> None:
        """Look once; cells in the hands of other owners are only told of where they end."""
        self.cells.look()
        known = self.cells.cells()
        if known:
            self._known = known
        elif self.cells.folder.is_dir() and not self.cells.home.is_dir():
            self._cleared()
        for name in self.names:
            if name not in known or self._told.get(name) in {"done", "failed"}:
                continue
            cell = known[name][0]
            if name in self.cells.done:
                end = self.cells.end(name)
                self._end(cell, "done", CellEnd(str(end.get("stopped_because")), str(end.get("device", ""))))
                continue
            last = self.cells.latest(name)
            if last.get("event") == "failed" and last.get("final"):
                self._end(cell, "failed", str(last.get("message")))
            elif last.get("event") == "claimed" and self.owns(str(last.get("owner"))):
                self._start(cell)
                share = self.cells.watcher.share(str(last["owner"]))
                if share != self._told[name]:
                    self._told[name] = share
                    self.tell(cell, "progress", share)
            elif name in self._told:
                del self._told[name]
                self.tell(cell, "left", None)

    def bury(self, gone: Gone) -> bool:
        """Note the death of a worker; returns whether it is known to have had a cell in hand."""
        self.cells.look()
        for name in self.names if gone.owner else ():
            last = self.cells.latest(name)
            if last.get("event") == "claimed" and last.get("owner") == gone.owner:
                self.cells.bury(name, self.cells.numbers[name], gone.death)
                return True
        return False

    def _cleared(self) -> None:
        """A worker has cleared the cells away, which it does once all are done: how each ended went with them."""
        for name in self.names & self._known.keys():
            if self._told.get(name) not in {"done", "failed"}:
                self._end(self._known[name][0], "done", CellEnd("finished"))

    def _end(self, cell: Cell, event: Event, value: object) -> None:
        self._start(cell)
        self._told[cell.name] = event
        self.tell(cell, event, value)

    def _start(self, cell: Cell) -> None:
        if cell.name not in self._told:
            self.told += 1
            self._told[cell.name] = None
            self.tell(cell, "started", None)

"""Workers as processes of this machine, and what becomes of the cells meanwhile."""

import multiprocessing
import signal
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from autobatch._errors import AutoBatchError
from autobatch.cells._plan import Cell, CellEnd
from autobatch.cells._store import Cells
from autobatch.cells._work import Make, Tell, Worker
from autobatch.cells._workers import Identity

_SPAWN = multiprocessing.get_context("spawn")
_LOOK_EVERY = 0.2


@dataclass
class _Hand:
    identity: Identity
    process: BaseProcess
    connection: Connection


def work_locally(cells: Cells, make: Make, names: frozenset[str], jobs: int, tell: Tell) -> frozenset[str]:
    """Work at some of a folder's cells with processes side by side, each of which takes the next one when it is free.

    Processes are spawned, since a forked PyTorch may hang; they ignore Ctrl-C, and leaving ends them. One that dies
    takes only its own attempt with it, and another takes its place.

    Args:
        cells: the folder.
        make: returns what trains the cells; must be picklable.
        names: the cells.
        jobs: processes, at most.
        tell: told of what happens.

    Returns:
        The owners that worked here.

    Raises:
        AutoBatchError: a worker could not go on at all; the message says why.
    """
    watch = _Watch(cells, names, tell)
    hire = partial(_hire, cells, make, names)
    hands: list[_Hand] = []
    owners: set[str] = set()
    stillborn = 0
    try:
        for _ in range(jobs):
            hands.append(hire())
            owners.add(hands[-1].identity.owner)
        while hands:
            wait([hand.process.sentinel for hand in hands], timeout=_LOOK_EVERY)
            gone = [hand for hand in hands if not hand.process.is_alive()]
            for hand in gone:
                hands.remove(hand)
                if error := _last_words(hand):
                    raise error
                if hand.process.exitcode:
                    told = f"its process died with exit code {hand.process.exitcode}"
                    stillborn = 0 if watch.bury(hand.identity.owner, told) else stillborn + 1
                    if stillborn > jobs:
                        raise AutoBatchError(f"no worker comes to train anything: {told}")
                    hands.append(hire())
                    owners.add(hands[-1].identity.owner)
            watch.look(frozenset(owners))
    finally:
        for hand in hands:
            hand.process.terminate()
        for hand in hands:
            hand.process.join()
            hand.connection.close()
    return frozenset(owners)


def _hire(cells: Cells, make: Make, names: frozenset[str]) -> _Hand:
    mine, theirs = _SPAWN.Pipe()
    identity = Identity(cells.workers)
    worker = Worker(Cells(cells.folder, replace(cells.pace, grace=0.0)), make, identity, only=names)
    process = _SPAWN.Process(target=_labour, args=(theirs, worker), daemon=True)
    process.start()
    theirs.close()
    return _Hand(identity, process, mine)


def _last_words(hand: _Hand) -> AutoBatchError | None:
    """Return why a worker that is gone could not go on; None where it came to its end, or died without a word."""
    hand.process.join()
    try:
        said: AutoBatchError | None = hand.connection.recv() if hand.connection.poll() else None
    except EOFError:
        said = None
    hand.connection.close()
    return said


def _labour(connection: Connection, worker: Worker) -> None:
    """What a process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with worker.signals():
            worker.run()
    except AutoBatchError as error:
        connection.send(error)


@dataclass
class _Watch:
    """Tells what has changed since the last look."""

    cells: Cells
    names: frozenset[str]
    tell: Tell
    _told: dict[str, object] = field(default_factory=dict)

    def look(self, owners: frozenset[str]) -> None:
        """Look once; cells in the hands of other owners are only told of where they end."""
        self.cells.look()
        known = self.cells.cells()
        for name in self.names:
            if name not in known or self._told.get(name) in {"done", "failed"}:
                continue
            cell = known[name][0]
            if name in self.cells.done:
                end = self.cells.end(name)
                self._start(cell)
                self._told[name] = "done"
                self.tell(cell, "done", CellEnd(str(end.get("stopped_because")), str(end.get("device", ""))))
                continue
            last = self.cells.latest(name)
            if last.get("event") == "failed" and last.get("final"):
                self._start(cell)
                self._told[name] = "failed"
                self.tell(cell, "failed", str(last.get("message")))
            elif last.get("event") == "claimed" and last.get("owner") in owners:
                self._start(cell)
                share = self.cells.watcher.share(str(last["owner"]))
                if share != self._told[name]:
                    self._told[name] = share
                    self.tell(cell, "progress", share)
            elif name in self._told:
                del self._told[name]
                self.tell(cell, "left", None)

    def bury(self, owner: str, message: str) -> bool:
        """Note the death of a worker; returns whether it had a cell in hand."""
        self.cells.look()
        for name in self.names:
            last = self.cells.latest(name)
            if last.get("event") == "claimed" and last.get("owner") == owner:
                self.cells.bury(name, self.cells.numbers[name], message)
                return True
        return False

    def _start(self, cell: Cell) -> None:
        if cell.name not in self._told:
            self._told[cell.name] = None
            self.tell(cell, "started", None)

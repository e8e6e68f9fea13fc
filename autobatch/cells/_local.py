"""Workers as processes of this machine."""

import multiprocessing
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from autobatch._errors import AutoBatchError
from autobatch.cells._engine import Gone
from autobatch.cells._store import Cells
from autobatch.cells._work import Make, Worker
from autobatch.cells._workers import Identity

_SPAWN = multiprocessing.get_context("spawn")


@dataclass
class _Hand:
    identity: Identity
    process: BaseProcess
    connection: Connection


@dataclass
class LocalEngine:
    """Starts processes of this machine, which are spawned, since a forked PyTorch may hang, and ignore Ctrl-C.

    Attributes:
        cells: the folder.
        make: returns what trains the cells; must be picklable.
        names: the cells; None for all.
    """

    cells: Cells
    make: Make
    names: frozenset[str] | None = None
    look_every: float = 0.2
    _hands: list[_Hand] = field(default_factory=list, init=False)
    _owners: set[str] = field(default_factory=set, init=False)

    def start(self, count: int) -> None:
        """Start processes."""
        for _ in range(count):
            mine, theirs = _SPAWN.Pipe()
            identity = Identity(self.cells.workers)
            cells = Cells(self.cells.folder, replace(self.cells.pace, grace=0.0))
            worker = Worker(cells, self.make, identity, only=self.names)
            process = _SPAWN.Process(target=_labour, args=(theirs, worker), daemon=True)
            process.start()
            theirs.close()
            self._hands.append(_Hand(identity, process, mine))
            self._owners.add(identity.owner)

    def poll(self) -> Sequence[Gone]:
        """Return those that have ended."""
        wait([hand.process.sentinel for hand in self._hands], timeout=self.look_every)
        gone = []
        for hand in [hand for hand in self._hands if not hand.process.is_alive()]:
            self._hands.remove(hand)
            if error := _last_words(hand):
                raise error
            code = hand.process.exitcode
            gone.append(Gone(f"its process died with exit code {code}" if code else "", hand.identity.owner))
        return gone

    def stop(self) -> None:
        """End them."""
        for hand in self._hands:
            hand.process.terminate()
        for hand in self._hands:
            hand.process.join()
            hand.connection.close()

    def owns(self, owner: str) -> bool:
        """Say whether a worker is one of these."""
        return owner in self._owners


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

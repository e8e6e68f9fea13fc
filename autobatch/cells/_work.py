"""A worker: takes one cell after another, trains it, and leaves nothing that others could not go on with."""

import errno
import math
import os
import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from autobatch._errors import AutoBatchError, BusyError, OutputError, behind
from autobatch.cells._plan import Cell, CellEnd, Plan
from autobatch.cells._store import Cells, Claim
from autobatch.cells._workers import Identity

Report = Callable[[float], None]
"""What the training of a cell calls to say which share is done, once that is on disk; ``Worker`` says what it raises.
It is called with 1 once more before the part is written, which is when a worker that lost its cell must not go on."""

Work = Callable[[Cell, Report], CellEnd]
"""Trains a cell and writes its part. Where the part is there already it does nothing."""

Make = Callable[[Plan], Work]
"""Returns what trains the cells of a plan; raises where they are of another task, data or code than those here."""

Event = Literal["started", "progress", "done", "failed", "left"]
Tell = Callable[[Cell, Event, Any], None]
"""Told of a cell: it was started, the share that is done, how it ended, why it failed for good, or that it was left."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FURTHEST = 6
"""A worker that meets others skips fewer than two to the power of this many cells."""
_LOOK_AGAIN = 10.0
_ECHO = 1.0


class GivenBackError(BaseException):
    """Ends a training whose worker was asked to stop; no Exception, so that no loop takes it for its own."""


class LostError(BaseException):
    """Ends a training whose cell another worker has, this one having counted as dead."""


@dataclass(frozen=True)
class WorkEnd:
    """What a worker has done.

    Attributes:
        done: cells that it finished.
        failed: cells that it gave up for good.
        stopped: whether it was asked to stop, by a signal or its time limit.
    """

    done: int
    failed: int
    stopped: bool


def _silent(cell: Cell, event: Event, value: Any = None) -> None:
    pass


@dataclass
class Worker:
    """Works at the cells of a folder until there is none left that it could take.

    A cell that another worker has in hand is left to it once that one was seen to live; one whose worker is dead is
    taken over. ``Report`` raises ``GivenBackError`` where the worker was asked to stop, and ``LostError`` where the
    cell is no longer its own; the cell's checkpoint then stays for whoever goes on.

    Attributes:
        cells: the folder.
        make: returns what trains the cells of a plan.
        identity: who this worker is.
        tell: told of what happens.
        only: names of the cells to work at; None for all.
        seconds: wall time after which it ends, a cell in hand given back; None for no limit.
        pause: how it waits, in seconds.
    """

    cells: Cells
    make: Make
    identity: Identity
    tell: Tell = _silent
    only: frozenset[str] | None = None
    seconds: float | None = None
    pause: Callable[[float], None] = time.sleep
    _asked: bool = field(default=False, init=False)
    _asked_at: float = field(default=-math.inf, init=False)
    _training: bool = field(default=False, init=False)
    _share: float = field(default=0.0, init=False)
    _works: dict[str, Work] = field(default_factory=dict, init=False)
    _skipped: set[str] = field(default_factory=set, init=False)
    _waiting: Iterator[tuple[Cell, Plan]] = field(default_factory=lambda: iter(()), init=False)
    _looked: float = field(default=-math.inf, init=False)
    _chance: random.Random = field(default_factory=random.Random, init=False, repr=False)

    def run(self) -> WorkEnd:
        """Work until nothing is left, the time is over, or a stop is asked for.

        Returns:
            What was done.

        Raises:
            AutoBatchError: the cells are not for this worker, or nothing can be written any more.
        """
        begun = time.monotonic()
        done = failed = 0
        self._persistently(self.identity.appear)
        with self.identity.beating(self.cells.pace.beat, lambda: self._share):
            while not self._over(begun):
                claim = self._persistently(self._next)
                if claim is None:
                    if not self._persistently(self._unsure):
                        break
                    self.pause(min(self.cells.pace.beat, 1.0))
                    continue
                outcome = self._carry_out(claim)
                done, failed = done + (outcome == "done"), failed + (outcome == "failed")
        return WorkEnd(done, failed, self._over(begun))

    def stop(self) -> None:
        """Ask the worker to give back what it has in hand at the end of the epoch, and to end."""
        self._asked = True

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Stop at SIGTERM, SIGUSR2 and the time limit: at the end of the epoch, or after ``Pace.grace`` at once."""
        grace = self.cells.pace.grace

        def asked(number: int, _frame: object) -> None:
            # SLURM signals all of a job, and whoever started this worker in it passes the signal on.
            echo = time.monotonic() - self._asked_at < _ECHO and number != getattr(signal, "SIGALRM", None)
            again, self._asked = self._asked and not echo, True
            self._asked_at = time.monotonic()
            if self._training and (again or grace <= 0):
                raise GivenBackError
            _alarm(grace)

        names = ("SIGTERM", "SIGUSR2", "SIGALRM")
        numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]  # Windows has only the first
        before = {number: signal.signal(number, asked) for number in numbers}
        if self.seconds is not None:
            _alarm(max(self.seconds - grace, 0.01))
        try:
            yield
        finally:
            _alarm(0.0)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _over(self, begun: float) -> bool:
        return self._asked or (self.seconds is not None and time.monotonic() - begun >= self.seconds)

    def _next(self) -> Claim | None:
        """Return a claim on the next cell that can be had; None where there is none."""
        at_all = False
        while True:
            if fresh := time.monotonic() - self._looked > _LOOK_AGAIN:
                self._look(at_all=at_all)
            collisions = ahead = skipped = 0
            for cell, plan in self._waiting:
                if ahead:
                    ahead, skipped = ahead - 1, skipped + 1
                    continue
                # Before it is taken, so that what this worker cannot train stays untouched.
                work = self._work(plan)
                claim = self.cells.claim(cell, plan, self.identity)
                if claim is not None:
                    self._works[plan.file] = work
                    return claim
                # Others have come before, and reach for the next ones now: go out of their way.
                collisions += 1
                ahead = self._chance.randrange(2 ** min(collisions, _FURTHEST))
            if fresh and at_all and not skipped:
                return None
            self._looked, at_all = -math.inf, True

    def _look(self, *, at_all: bool) -> None:
        self.cells.look(at_all=at_all)
        self._looked = time.monotonic()
        # One by one, as there may be ten thousand.
        self._waiting = (entry for entry in self._left() if self.cells.is_free(entry[0].name))

    def _left(self) -> Iterator[tuple[Cell, Plan]]:
        """Yield the cells that were not done by the last look."""
        for name, entry in self.cells.cells().items():
            if name not in self.cells.done and name not in self._skipped and (self.only is None or name in self.only):
                yield entry

    def _work(self, plan: Plan) -> Work:
        if plan.file not in self._works:
            self._works[plan.file] = self.make(plan)
        return self._works[plan.file]

    def _unsure(self) -> bool:
        """Say whether some cell is in the hands of a worker that may be dead, or is, or whether more are to come."""
        self._look(at_all=True)
        if self.only is None and self.cells.expects_more():
            return True
        for cell, _ in self._left():
            last = self.cells.latest(cell.name)
            if last.get("event") == "claimed" and self.cells.watcher.life(str(last["owner"])) != "alive":
                return True
            if not last and cell.name in self.cells.numbers:
                return True
        if self.cells.home.is_dir() or self.cells.folder.is_dir():
            return False
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.cells.folder))

    def _persistently(self, call: Callable[[], Any]) -> Any:
        """Call again for as long as a dead worker is waited for: a shared folder may be gone for a minute."""
        since = time.monotonic()
        while True:
            try:
                return call()
            except OSError as error:
                if error.errno in _FULL or time.monotonic() - since > self.cells.pace.patience:
                    raise OutputError(f"{self.cells.home}: cannot be used: {error.strerror or error}") from None
                self.pause(min(self.cells.pace.beat, 1.0))

    def _carry_out(self, claim: Claim) -> Event:
        """Train a cell; returns what became of it."""
        cell, began = claim.cell, time.perf_counter()
        self._share = claim.share
        self.identity.beat(self._share)
        self.tell(cell, "started", None)

        def report(share: float) -> None:
            self._share = max(share, 0.0)
            self.identity.beat(self._share)
            if not self._persistently(lambda: self.cells.holds(claim)):
                raise LostError
            self.tell(cell, "progress", share)
            if self._asked and share < 1.0:
                raise GivenBackError

        try:
            self._training = True
            if self._asked:
                raise GivenBackError
            end = self._works[claim.plan.file](cell, report)
            self._training = False
            self._persistently(lambda: self.cells.finish(claim, self.identity, end, time.perf_counter() - began))
        except (LostError, GivenBackError, BusyError) as error:
            if isinstance(error, BusyError):
                self._skipped.add(cell.name)
            if not isinstance(error, LostError):
                self._give_back(claim, time.perf_counter() - began)
            return self._left_to_others(cell)
        except Exception as error:
            if any(isinstance(one, OSError) and one.errno in _FULL for one in behind(error)):
                self._give_back(claim, time.perf_counter() - began)
                raise OutputError(f"{cell.name}: {error}") from error
            if isinstance(error, AutoBatchError):
                final = not isinstance(error, OutputError)
                return self._failed(claim, str(error), time.perf_counter() - began, final=final)
            return self._failed(claim, traceback.format_exc(), time.perf_counter() - began, final=False)
        except BaseException:
            self._give_back(claim, time.perf_counter() - began)
            raise
        finally:
            self._training = False
        self.tell(cell, "done", end)
        return "done"

    def _failed(self, claim: Claim, message: str, seconds: float, *, final: bool) -> Event:
        if self._persistently(lambda: self.cells.fail(claim, message, self._share, seconds, final=final)):
            self.tell(claim.cell, "failed", message)
            return "failed"
        return self._left_to_others(claim.cell)

    def _left_to_others(self, cell: Cell) -> Event:
        self.tell(cell, "left", None)
        return "left"

    def _give_back(self, claim: Claim, seconds: float) -> None:
        with suppress(OSError):  # whoever finds this worker gone takes the cell
            self.cells.give_back(claim, self._share, seconds)


def _alarm(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)

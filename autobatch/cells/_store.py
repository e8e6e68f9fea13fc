"""Cells on disk: plans, claims and ends, safe on a shared file system without locks.

A folder of cells holds ``.cells`` and, where its work keeps checkpoints, whatever that writes. In ``.cells``:

- ``plans/NUMBER-HASH.json``: cells that were put in together; a cell that is in several is as the last has it.
- ``log/NAME~N``: the N-th thing that happened to a cell: claimed, given back, failed, or free to be tried again. A file
  is linked into place with its content and never changed, and of several workers that link the same N one succeeds. So
  a claim is taken by exactly one, a dead worker's among them, and a worker whose claim was taken sees N + 1.
- ``done/NAME``: how it ended; its log is then removed.
- ``workers/``: who works, see ``_workers.py``.
"""

import errno
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autobatch._errors import CheckpointError, ConfigError
from autobatch._files import naming_output
from autobatch.cells._plan import MORE_FROM, Cell, CellEnd, Plan
from autobatch.cells._workers import Identity, Pace, Watcher, read_record

HOME = ".cells"
_USUAL = ("beacons", "branches", "episodes")
_RATHER_LIST = 50
"""Cells found done one by one after which listing them all is the quicker way."""
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})


@dataclass(frozen=True)
class Claim:
    """A cell that a worker has in hand.

    Attributes:
        cell: the cell.
        plan: the plan that it is of.
        number: number of the claim in the cell's log.
        attempt: the how many-th attempt it is, from 1.
        share: share that was done where it was taken up.
        spent: seconds that earlier workers have told of.
    """

    cell: Cell
    plan: Plan
    number: int
    attempt: int
    share: float
    spent: float


class Cells:
    """The cells of a folder.

    Args:
        folder: the folder.
        pace: how often and how long.
    """

    def __init__(self, folder: Path, pace: Pace | None = None) -> None:
        self.folder = folder
        self.pace = pace or Pace()
        self.home = folder / HOME
        self.workers = self.home / "workers"
        self._plans, self._log, self._done = self.home / "plans", self.home / "log", self.home / "done"
        self._read: dict[str, Plan] = {}
        self._sorted: tuple[list[Plan], dict[str, tuple[Cell, Plan]]] = ([], {})
        self._records: dict[tuple[str, int], dict[str, Any]] = {}
        self.watcher = Watcher(self.workers, self.pace.patience)
        self.done: set[str] = set()
        self._found_done = 0
        self.numbers: dict[str, int] = {}
        self._alive: set[str] = set()

    def put(self, plan: Plan) -> None:
        """Put cells in, to be trained even where they were done or given up before; those in hand stay in hand.

        Args:
            plan: the cells.

        Raises:
            ConfigError: a name cannot be a file's, or cells of another fingerprint are there.
            OutputError: the folder cannot be written.
        """
        for cell in plan.cells:
            if not cell.name or cell.name[0] == "." or set(cell.name) & set("/\\~\0"):
                raise ConfigError(f"cell {cell.name!r}: expected a name that a file can have")
        for other in self.plans():
            other.check(plan.kind, plan.fingerprint, self.home)
        with naming_output(self.home):
            for place in (self._plans, self._log, self._done, self.workers):
                place.mkdir(parents=True, exist_ok=True)
            self.look()
            for cell in plan.cells:
                if cell.name in self.done:
                    (self._done / cell.name).unlink(missing_ok=True)
                number = self.numbers.get(cell.name, 0)
                if number and self.record(cell.name, number).get("event") == "failed":
                    self._append(cell.name, number + 1, {"event": "again"})
            there = self._plan_files()
            if not there or not there[-1].endswith(plan.file):
                number = int(there[-1].partition("-")[0]) + 1 if there else 1
                _write(self._plans / f"{number:06d}-{plan.file}", plan.encoded())

    def plans(self) -> list[Plan]:
        """Return the plans of the folder.

        Returns:
            The plans, those first that were put in first.

        Raises:
            CheckpointError: one is damaged.
        """
        found = []
        for name in self._plan_files():
            if name not in self._read:
                try:
                    self._read[name] = Plan.decoded((self._plans / name).read_bytes())
                except CheckpointError as error:
                    raise CheckpointError(f"{self._plans / name}: {error}") from None
            found.append(self._read[name])
        return found

    def cells(self) -> dict[str, tuple[Cell, Plan]]:
        """Return every cell and the last plan that has it by name, the longest first."""
        plans = self.plans()
        if plans != self._sorted[0]:
            found = {cell.name: (cell, plan) for plan in plans for cell in plan.cells}
            self._sorted = plans, dict(sorted(found.items(), key=lambda item: -item[1][0].effort))
        return self._sorted[1]

    def look(self, *, at_all: bool = True) -> None:
        """See what has happened to the cells, by one listing.

        Args:
            at_all: list those that are done too, which become many; else those known to be done still count as done,
                and ``is_free`` looks whether another one is.
        """
        numbers: dict[str, int] = {}
        for entry in _names(self._log):
            name, tilde, number = entry.rpartition("~")
            if tilde and number.isdecimal():
                numbers[name] = max(numbers.get(name, 0), int(number))
        self.numbers = numbers
        self._found_done = 0
        if at_all:
            self.done = set(_names(self._done))
        self._alive.clear()

    def record(self, name: str, number: int) -> dict[str, Any]:
        """Return what happened to a cell; empty where that is not to be read any more."""
        if (name, number) not in self._records and (record := read_record(self._entry(name, number))):
            self._records[name, number] = record
        return self._records.get((name, number), {})

    def latest(self, name: str) -> dict[str, Any]:
        """Return the latest that happened to a cell, by the last look; empty where nothing has."""
        number = self.numbers.get(name, 0)
        return self.record(name, number) if number else {}

    def end(self, name: str) -> dict[str, Any]:
        """Return how a cell that is done ended; empty where that cannot be read."""
        return read_record(self._done / name)

    def is_free(self, name: str) -> bool:
        """Say whether a cell that is not known to be done can be had, by the last look."""
        number = self.numbers.get(name, 0)
        if not number and (self._done / name).exists():
            self.done.add(name)
            self._found_done += 1
            if self._found_done == _RATHER_LIST:
                self.done.update(_names(self._done))
            return False
        return self._turn(name, number, self.latest(name)) is not None

    def claim(self, cell: Cell, plan: Plan, identity: Identity) -> Claim | None:
        """Take a cell that nobody has in hand, or that a dead worker has left.

        Args:
            cell: the cell.
            plan: its plan.
            identity: the worker that takes it.

        Returns:
            The claim; None where the cell cannot be had.
        """
        name, number = cell.name, self.numbers.get(cell.name, 0)
        last = self.latest(name)
        turn = self._turn(name, number, last)
        if turn is None:
            return None
        attempt, share = turn
        spent = float(last.get("spent", 0.0))
        record = {
            "event": "claimed",
            "owner": identity.owner,
            "attempt": attempt,
            "share": share,
            "spent": spent,
            "since": time.time(),
        }
        if not self._append(name, number + 1, record):
            return None
        if (self._done / name).exists():
            self._forget(name, number + 1)
            return None
        return Claim(cell, plan, number + 1, attempt, share, spent)

    def holds(self, claim: Claim) -> bool:
        """Say whether a claim still is the worker's own."""
        name = claim.cell.name
        return not self._entry(name, claim.number + 1).exists() and not (self._done / name).exists()

    def give_back(self, claim: Claim, share: float, seconds: float) -> None:
        """Leave a cell to others: which share is done, and the seconds that this took."""
        record = {"event": "given back", "attempt": claim.attempt, "share": share, "spent": claim.spent + seconds}
        self._append(claim.cell.name, claim.number + 1, record)

    def fail(self, claim: Claim, message: str, share: float, seconds: float, *, final: bool) -> bool:
        """Note that a cell has failed.

        Args:
            claim: the claim.
            message: why.
            share: share that was done.
            seconds: what it took since it was claimed.
            final: whether it is not to be tried again.

        Returns:
            Whether it is not.
        """
        attempt = 1 if share > claim.share else claim.attempt
        final = final or attempt >= self.pace.attempts
        record = {
            "event": "failed",
            "attempt": attempt,
            "message": message,
            "final": final,
            "share": max(share, claim.share),
            "spent": claim.spent + seconds,
        }
        self._append(claim.cell.name, claim.number + 1, record)
        return final

    def bury(self, name: str, number: int, message: str) -> bool:
        """Note that the worker which had a cell in hand has died.

        Args:
            name: the cell.
            number: the dead worker's claim.
            message: how it died.

        Returns:
            Whether the cell is given up.
        """
        last = self.record(name, number)
        attempt, share = self._after_death(last, int(last.get("attempt", 1)), float(last.get("share", 0.0)))
        final = attempt > self.pace.attempts
        record = {
            "event": "failed",
            "attempt": attempt - 1,
            "message": message,
            "final": final,
            "share": share,
            "spent": float(last.get("spent", 0.0)),
        }
        return self._append(name, number + 1, record) and final

    def finish(self, claim: Claim, identity: Identity, end: CellEnd, seconds: float) -> None:
        """Note how a cell ended, once what it was trained for is on disk.

        Args:
            claim: the claim.
            identity: the worker.
            end: how it ended.
            seconds: what it took since it was claimed.
        """
        facts = self.watcher.facts(identity.owner)
        record = {
            **end._asdict(),
            "device": end.device or identity.device,
            "owner": identity.owner,
            "host": facts.get("host", ""),
            "attempt": claim.attempt,
            "seconds": claim.spent + seconds,
        }
        _write(self._done / claim.cell.name, (json.dumps(record) + "\n").encode())
        self._forget(claim.cell.name, claim.number)

    def expects_more(self) -> bool:
        """Say whether somebody is there who will put further cells in."""
        owners = {plan.work.get(MORE_FROM) for plan in self.plans()} - {None}
        return any(self.watcher.stays(str(owner)) for owner in owners)

    def clear(self) -> bool:
        """Remove ``.cells`` where every cell is done and no more are to come; the parts they were trained for stay.

        Returns:
            Whether there is nothing left to do.
        """
        self.look()
        if any(name not in self.done for name in self.cells()) or self.expects_more():
            return False
        self._remove()
        return True

    def abandon(self) -> None:
        """Remove ``.cells`` unless another has one in hand: for work that keeps no checkpoint, and so loses nothing."""
        self.look()
        latest = map(self.latest, self.numbers)
        owners = {str(last["owner"]) for last in latest if last.get("event") == "claimed"}
        if all(self.watcher.life(owner) == "dead" for owner in owners):
            self._remove()

    def _remove(self) -> None:
        # At once, so that a worker which looks sees all or nothing; one that is killed at it leaves some of it.
        with suppress(OSError):
            self.home.rename(self.folder / f"{HOME}-{uuid.uuid4().hex[:8]}")
        for away in self.folder.glob(f"{HOME}-*"):
            shutil.rmtree(away, ignore_errors=True)

    def _plan_files(self) -> list[str]:
        return sorted(name for name in _names(self._plans) if name[:6].isdecimal() and name.endswith(".json"))

    def _turn(self, name: str, number: int, last: Mapping[str, Any]) -> tuple[int, float] | None:
        """Return which attempt at a cell is next and from which share it goes on; None where it is nobody's turn."""
        event, attempt, share = last.get("event"), int(last.get("attempt", 1)), float(last.get("share", 0.0))
        if event == "claimed":
            owner = str(last["owner"])
            life = "alive" if owner in self._alive else self.watcher.life(owner)
            if life == "alive":
                self._alive.add(owner)
            if life != "dead":
                return None
            attempt, share = self._after_death(last, attempt, share)
            if attempt <= self.pace.attempts:
                return attempt, share
            self.bury(name, number, f"its worker died, {self.pace.attempts} times over")
            return None
        if event == "failed":
            return None if last.get("final", True) else (attempt + 1, share)
        if not event and number and self._entry(name, number).exists():
            # Half written, where the file system has no links, by a worker that then died: nobody knows which.
            return (1, 0.0) if self.watcher.life(f"{name}~{number}") == "dead" else None
        return (1, 0.0) if event == "again" else (attempt, share)

    def _after_death(self, last: Mapping[str, Any], attempt: int, share: float) -> tuple[int, float]:
        # A cell whose workers are killed again and again goes on for as long as each of them brings it further.
        reached = self.watcher.share(str(last.get("owner", "")))
        return (1, reached) if reached > share else (attempt + 1, share)

    def _entry(self, name: str, number: int) -> Path:
        return self._log / f"{name}~{number}"

    def _forget(self, name: str, last: int) -> None:
        for number in range(last, 0, -1):
            with suppress(OSError):
                self._entry(name, number).unlink()

    def _append(self, name: str, number: int, record: Mapping[str, Any]) -> bool:
        """Add to a cell's log; returns whether this was the one that did, of all that would."""
        entry = self._entry(name, number)
        temporary = entry.with_name(f".{uuid.uuid4().hex}")
        content = (json.dumps(record) + "\n").encode()
        try:
            try:
                temporary.write_bytes(content)
                os.link(temporary, entry)
            except FileExistsError:
                # A network may lose the answer to a link that was made, and ask again.
                return temporary.stat().st_nlink > 1
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return _created(entry, content)
            return True
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def find_cells(folder: Path) -> Cells:
    """Return the cells of a folder, or of the one folder in it that recorders put cells in.

    Args:
        folder: the folder, or an env folder.

    Returns:
        The cells.

    Raises:
        ConfigError: there are none, or in several folders.
    """
    places = [place for place in (folder, *(folder / name for name in _USUAL)) if (place / HOME).is_dir()]
    if len(places) > 1:
        raise ConfigError(f"{folder}: cells are in {' and in '.join(map(str, places))}; name one of them")
    if not places:
        raise ConfigError(
            f"{folder}: holds no cells ({HOME} is missing): all are finished, or none were put in, such as by "
            "'autobatch beacons record --env ENV --jobs 0'"
        )
    return Cells(places[0])


def _write(path: Path, content: bytes) -> None:
    """Write a file at once or not at all, whoever else writes it, and beside its folder, which others list."""
    temporary = path.parents[1] / f".{uuid.uuid4().hex}"
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _created(entry: Path, content: bytes) -> bool:
    try:
        descriptor = os.open(entry, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    return True


def _names(folder: Path) -> Iterable[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return ()

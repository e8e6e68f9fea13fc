"""Who works: an identity and a beat for every worker, and whose beats have stopped.

A beat is a number that grows in a file of the worker's own. Whoever looks counts on his own clock for how long it has
stood still: no two machines' clocks are compared, and one that is set back or forth changes nothing.
"""

import json
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

_PROC = Path("/proc")
_WIDTH = 20
_LOOKS = 10


@dataclass(frozen=True)
class Pace:
    """How often and how long.

    Attributes:
        beat: seconds from one beat to the next.
        patience: seconds without a beat after which a worker counts as dead. A network file system may show a file's
            older content for a minute.
        grace: seconds that a worker which was asked to stop may use to come to the end of an epoch.
        attempts: how often a cell is tried that fails, or whose worker dies without having come further.
    """

    beat: float = 15.0
    patience: float = 120.0
    grace: float = 20.0
    attempts: int = 3


@dataclass
class Identity:
    """A worker, as others see it.

    Attributes:
        folder: where workers leave their files.
        owner: its name, which no other worker ever has.
        device: what it trains on, in words.
    """

    folder: Path
    owner: str = field(default_factory=lambda: uuid.uuid4().hex[:16])
    device: str = ""
    _beats: int = field(default=0, init=False)

    def appear(self) -> None:
        """Leave the files by which others know this worker."""
        facts = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "machine": _machine(),
            "started": _started(os.getpid()),
            "device": self.device,
            "since": time.time(),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file("beat").write_bytes(b" " * (2 * _WIDTH + 1) + b"\n")
        self.beat(0.0)
        temporary = self._file("tmp")
        temporary.write_text(json.dumps(facts))
        temporary.replace(self._file("json"))

    def beat(self, share: float) -> None:
        """Say that this worker lives, and which share of its cell is done; needs no free space on the disk."""
        self._beats += 1
        with suppress(OSError), self._file("beat").open("r+b") as file:
            file.write(f"{self._beats:{_WIDTH}d} {share:{_WIDTH}.6f}\n".encode())

    @contextmanager
    def beating(self, every: float, share: Callable[[], float] = float) -> Iterator[None]:
        """Beat every so many seconds for as long as this lasts, with the share that is done, and leave."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(every):
                self.beat(share())

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.leave()

    def leave(self) -> None:
        """Remove the files again."""
        for kind in ("json", "beat", "tmp"):
            with suppress(OSError):
                self._file(kind).unlink(missing_ok=True)

    def _file(self, kind: str) -> Path:
        return self.folder / f"{self.owner}.{kind}"


Life = Literal["alive", "dead", "unknown"]


class Watcher:
    """Says which workers live.

    Args:
        folder: where workers leave their files.
        patience: seconds without a beat after which one counts as dead.
        clock: seconds that never go back.
    """

    def __init__(self, folder: Path, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._patience = patience
        self._clock = clock
        self._machine = _machine()
        self._seen: dict[str, tuple[bytes, float]] = {}
        self._moved: dict[str, float] = {}
        self._facts: dict[str, dict[str, Any]] = {}

    def life(self, owner: str) -> Life:
        """Return what is known of a worker: one of this machine by its process, any other by its beats.

        Args:
            owner: the worker.

        Returns:
            ``"alive"`` where that was seen, ``"dead"``, or ``"unknown"`` before ``patience`` has passed.
        """
        facts = self.facts(owner)
        if self._machine and facts.get("machine") == self._machine:
            pid = int(facts.get("pid", 0))
            return "alive" if _started(pid) == facts.get("started") else "dead"
        now = self._clock()
        if now - self._moved.get(owner, -math.inf) < self._patience / _LOOKS:
            return "alive"
        beat = self._beat(owner)
        before, since = self._seen.setdefault(owner, (beat, now))
        if beat != before:
            self._seen[owner] = (beat, now)
            self._moved[owner] = now
            return "alive"
        if now - since > self._patience:
            return "dead"
        return "alive" if owner in self._moved else "unknown"

    def stays(self, owner: str) -> bool:
        """Say whether a worker has not left, and does not count as dead."""
        return (self._folder / f"{owner}.beat").exists() and self.life(owner) != "dead"

    def facts(self, owner: str) -> dict[str, Any]:
        """Return what a worker says of itself, which never changes; empty where it says nothing."""
        if owner not in self._facts and (facts := read_record(self._folder / f"{owner}.json")):
            self._facts[owner] = facts
        return self._facts.get(owner, {})

    def share(self, owner: str) -> float:
        """Return which share of its cell a worker says is done."""
        try:
            return float(self._beat(owner).split()[1])
        except (IndexError, ValueError):
            return 0.0

    def _beat(self, owner: str) -> bytes:
        try:
            return (self._folder / f"{owner}.beat").read_bytes()
        except OSError:
            return b""


def read_record(path: Path) -> dict[str, Any]:
    """Return what somebody has noted in a file; empty where that cannot be read."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _machine() -> str:
    """Return what processes that see one another's numbers have in common; empty where that cannot be told."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink(_PROC / 'self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return when a process of this machine started, by which a number that is used again is told apart."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]

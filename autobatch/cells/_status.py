"""Where the cells of a folder stand."""

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

from autobatch.cells._store import Cells


@dataclass(frozen=True)
class RunningCell:
    """A cell that a worker has in hand.

    Attributes:
        name: the cell.
        host: where it trains.
        device: what it trains on, in words; empty where that is not told.
        share: share that is done.
        seconds: since it was claimed, by the clocks of that host and this one.
        life: what is known of the worker: ``"alive"``, ``"dead"`` or ``"unknown"``.
    """

    name: str
    host: str
    device: str
    share: float
    seconds: float
    life: str


@dataclass(frozen=True)
class CellsStatus:
    """Where the cells of a folder stand.

    Attributes:
        total: all cells.
        done: those that are finished.
        waiting: those that nobody has in hand.
        running: those that somebody has.
        failed: message by name of those that were given up.
        seconds: what the finished and the running ones have taken so far, in seconds of one worker.
        work_left: what the rest should take one worker, in seconds, by the cost table and how it has done so far; NaN
            where nothing is known.
        seconds_left: the same by the workers that are there; NaN where there is none.
    """

    total: int
    done: int
    waiting: int
    running: tuple[RunningCell, ...]
    failed: dict[str, str]
    seconds: float
    work_left: float
    seconds_left: float

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as a dictionary of plain values."""
        return asdict(self)


def status_of(cells: Cells) -> CellsStatus:
    """Look at the cells of a folder; nothing is changed.

    Args:
        cells: the folder; one that was looked at before is known better, since a worker of another machine counts as
            alive only once its beat was seen to move.

    Returns:
        Where they stand.
    """
    known = cells.cells()
    cells.look()
    running: list[RunningCell] = []
    failed: dict[str, str] = {}
    spent = done_seconds = done_effort = effort_left = 0.0
    for name, (cell, _) in known.items():
        if name in cells.done:
            seconds = float(cells.end(name).get("seconds", 0.0))
            spent, done_seconds, done_effort = spent + seconds, done_seconds + seconds, done_effort + cell.effort
            continue
        last = cells.latest(name)
        spent += float(last.get("spent", 0.0))
        if last.get("event") == "failed" and last.get("final"):
            failed[name] = str(last.get("message"))
            continue
        share = 0.0
        if last.get("event") == "claimed":
            running.append(_running(cells, name, last))
            spent += running[-1].seconds
            share = running[-1].share
        effort_left += (1.0 - share) * cell.effort
    work_left = effort_left * (done_seconds / done_effort if done_effort else math.nan) if effort_left else 0.0
    hands = sum(one.life != "dead" for one in running)
    return CellsStatus(
        total=len(known),
        done=sum(name in cells.done for name in known),
        waiting=sum(name not in cells.done for name in known) - len(running) - len(failed),
        running=tuple(running),
        failed=failed,
        seconds=spent,
        work_left=work_left,
        seconds_left=work_left / hands if hands else (math.nan if effort_left else 0.0),
    )


def _running(cells: Cells, name: str, last: dict[str, Any]) -> RunningCell:
    owner = str(last.get("owner"))
    facts = cells.watcher.facts(owner)
    return RunningCell(
        name=name,
        host=str(facts.get("host", "")),
        device=str(facts.get("device", "")),
        share=cells.watcher.share(owner),
        seconds=max(0.0, time.time() - float(last.get("since", math.inf))),
        life=cells.watcher.life(owner),
    )

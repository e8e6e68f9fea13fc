"""Cells at scale: many workers on one folder, some of them killed at random.

    python benchmarks/speed/cells.py
    python benchmarks/speed/cells.py --cells 1000 --workers 40 --deaths 20
    python benchmarks/speed/cells.py --only two

Workers are processes, each known to the others by its beats alone, as one of another machine is; ``kill -9`` ends some
of them wherever they are, and new ones take their places. A cell trains three epochs of no time, with checkpoints.
Printed, and kept in ``benchmarks/results/cells.json``, are: cells lost, cells whose last epoch was trained more than
once (``simulate``); the time of a claim that begins with a look at a folder where half the cells are done (``claim``);
how long it takes to merge parts, which should grow as their number does (``merge``); and how much faster two workers
are than one at the same cells of one thread each, the best of several turns, one and two by turns (``two``): cells that
only keep a processor busy, and trainings of digits-mlp. Where two are less than twice as fast, ``dearer`` says how much
more processor time the same cells took (caches, memory and clock that both share), and ``idle`` which share of two
processors' time the workers had none: this machine's other work, or their own waiting. Nothing else should run then.
"""

import argparse
import json
import os
import random
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autobatch._artefacts import find_library
from autobatch.beacons import BeaconLibrary, compact, write_beacon
from autobatch.cells import Cell, CellEnd, Cells, Identity, Make, Pace, Plan, Report, Work, Worker, _workers

EPOCHS = 3
PACE = Pace(beat=1.0, patience=20.0)
CLAIMS = 200
PIECES = ("claim", "merge", "simulate", "two")
RESULT = Path(__file__).parents[1] / "results" / "cells.json"


@dataclass(frozen=True)
class Training:
    """Trains cells in no time, and takes down every epoch whose checkpoint is on disk.

    Attributes:
        folder: gets checkpoints and parts.
    """

    folder: Path

    def __call__(self, _plan: Plan) -> Work:
        """Return what trains a cell."""
        return self._train

    def _train(self, cell: Cell, report: Report) -> CellEnd:
        place, part = self.folder / f"{cell.name}.epoch", self.folder / f"{cell.name}.part"
        if part.exists():
            return CellEnd("was there")
        epoch = int(place.read_text()) if place.exists() else 0
        while epoch < EPOCHS:
            epoch += 1
            self._whole(place, str(epoch))
            with (self.folder / "epochs.txt").open("a") as file:
                file.write(f"{cell.name} {epoch}\n")
            report(epoch / EPOCHS)
        report(1.0)
        self._whole(part, "trained")
        return CellEnd("finished")

    def _whole(self, path: Path, text: str) -> None:
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(text)
        temporary.replace(path)


@dataclass(frozen=True)
class Result:
    """What came of a simulation.

    Attributes:
        cells: how many there were.
        workers: at a time.
        killed: workers killed.
        lost: cells without a part.
        twice: cells whose last epoch was trained more than once.
        again: epochs that were trained more than once.
        seconds: wall time.
    """

    cells: int
    workers: int
    killed: int
    lost: int
    twice: int
    again: int
    seconds: float


def simulate(folder: Path, count: int, workers: int, deaths: int, pace: Pace = PACE) -> Result:
    """Work cells off with processes of which some are killed.

    Args:
        folder: an empty folder.
        count: cells.
        workers: workers at a time; another takes the place of each that is killed.
        deaths: how many are killed, evenly over the epochs.
        pace: their pace.

    Returns:
        What came of it.
    """
    machine, _workers._machine = _workers._machine, str  # known by their beats alone
    began, chance = time.perf_counter(), random.Random(0)
    put(folder, count, pace)
    log = folder / "epochs.txt"
    log.touch()
    length = len(f"{_name(0)} 1\n")
    there = {_start(folder, pace) for _ in range(workers)}
    killed = 0
    while there:
        time.sleep(0.02)
        share = log.stat().st_size / (length * EPOCHS * count)
        while killed < deaths and share > (killed + 1) / (deaths + 1):
            victim = chance.choice(sorted(there))
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            there.remove(victim)
            there.add(_start(folder, pace))
            killed += 1
        there -= {pid for pid in there if os.waitpid(pid, os.WNOHANG)[0]}
    _workers._machine = machine
    trained = Counter(log.read_text().splitlines())
    return Result(
        cells=count,
        workers=workers,
        killed=killed,
        lost=count - len(list(folder.glob("*.part"))),
        twice=sum(trained[f"{_name(number)} {EPOCHS}"] > 1 for number in range(count)),
        again=sum(times - 1 for times in trained.values()),
        seconds=time.perf_counter() - began,
    )


def _start(folder: Path, pace: Pace) -> int:
    """Start a worker; returns its process."""
    return _forked(lambda: _work(Cells(folder, pace), Training(folder)))


def _work(cells: Cells, make: Make) -> None:
    Worker(cells, make, Identity(cells.workers)).run()


def _forked(labour: Callable[[], None]) -> int:
    """Start a process that does something and ends; returns it."""
    child = os.fork()
    if not child:
        code = 1
        try:
            labour()
            code = 0
        finally:
            os._exit(code)
    return child


def put(folder: Path, count: int, pace: Pace = PACE) -> Cells:
    """Put cells in."""
    cells = Cells(folder, pace)
    cells.put(Plan("simulated", {}, {}, tuple(Cell(_name(number), 1.0) for number in range(count))))
    return cells


def _name(number: int) -> str:
    return f"c{number:05d}"


def claim_seconds(folder: Path, count: int) -> tuple[list[float], float]:
    """Return the seconds of claims by one worker, and the processor time of one.

    Each begins with a look at the folder, half of whose cells are done.
    """
    cells = put(folder, count)
    worker = Worker(cells, lambda plan: lambda cell, report: CellEnd("finished"), Identity(cells.workers))
    worker.identity.appear()
    for number in range(0, count, 2):
        (cells.home / "done" / _name(number)).write_text("{}")
    taken, processor = [], time.process_time()
    for _ in range(CLAIMS):
        worker._looked = -1e9
        began = time.perf_counter()
        claim = worker._next()
        taken.append(time.perf_counter() - began)
        assert claim is not None
    return taken, (time.process_time() - processor) / CLAIMS


def merge_seconds(folder: Path, counts: Sequence[int]) -> list[float]:
    """Return the processor time that it takes to gather beacons, each in a part of its own."""
    library = BeaconLibrary.load(find_library("digits-mlp"))
    beacon, seconds = library.beacons[0], []
    for count in counts:
        env = folder / str(count)
        for seed in range(count):
            write_beacon(env, replace(beacon, seed=seed), library.info)
        began = time.process_time()
        compact(env)
        seconds.append(time.process_time() - began)
    return seconds


@dataclass(frozen=True)
class Busy:
    """Cells that take a stated time of a processor, and no more than one thread."""

    seconds: float

    def __call__(self, _plan: Plan) -> Work:
        """Return what trains a cell."""
        return self._train

    def _train(self, _cell: Cell, _report: Report) -> CellEnd:
        until = time.process_time() + self.seconds
        while time.process_time() < until:
            pass
        return CellEnd("finished")


@dataclass(frozen=True)
class Hired:
    """What workers took for the same cells.

    Attributes:
        seconds: wall time, from the first that is started to the last that has ended.
        processor: processor time of all of them.
    """

    seconds: float
    processor: float


def speed_up(folder: Path, work: Callable[[Path], Callable[[], None]], turns: int) -> dict[str, float]:
    """Return how much faster two workers are than one, and where the rest goes: the best of each, by turns.

    Args:
        folder: an empty folder.
        work: puts cells into a new folder, and returns what a worker does.
        turns: how often.
    """
    found: dict[int, list[Hired]] = {1: [], 2: []}
    for turn in range(turns):
        for workers, hired in found.items():
            hired.append(_hire(work(folder / f"{turn}-{workers}"), workers))
    one, two = (min(hired, key=lambda one: one.seconds) for hired in found.values())
    return {
        "faster": round(one.seconds / two.seconds, 2),
        "dearer": round(two.processor / one.processor, 3),
        "idle": round(1.0 - two.processor / (2.0 * two.seconds), 3),
        "seconds": round(one.seconds, 1),
    }


def _hire(labour: Callable[[], None], workers: int) -> Hired:
    began = time.perf_counter()
    ends = [os.wait4(hand, 0) for hand in [_forked(labour) for _ in range(workers)]]
    assert not any(code for _, code, _ in ends), "a worker has failed"
    return Hired(time.perf_counter() - began, sum(used.ru_utime + used.ru_stime for *_, used in ends))


def busy_cells(folder: Path) -> Callable[[], None]:
    """Put twenty cells in that keep a processor busy for half a second each."""
    put(folder, 20)
    return lambda: _work(Cells(folder, PACE), Busy(0.5))


def trainings(folder: Path) -> Callable[[], None]:
    """Put beacons of digits-mlp in, which train on one thread."""
    import torch  # not before the other pieces are measured, which fork many processes

    from autobatch.training import load_task, record_task_beacons
    from autobatch.training.recording import BeaconMaker

    torch.set_num_threads(1)
    task = load_task("digits-mlp").model_copy(update={"threads": 1})
    record_task_beacons(task, folder, batch_sizes=(32,), learning_rates=(0.1,), seeds=range(100, 112), jobs=0)
    return lambda: _work(Cells(folder / "beacons"), BeaconMaker(folder))


def main() -> None:
    """Print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--deaths", type=int, default=100)
    parser.add_argument("--turns", type=int, default=5, help="of one worker and of two")
    parser.add_argument("--only", choices=PIECES, nargs="+", default=PIECES, help="what to measure")
    parser.add_argument(
        "--out", type=Path, default=RESULT, help="gets the figures as JSON, beside those that are there"
    )
    given = parser.parse_args()
    figures = json.loads(given.out.read_text()) if given.out.exists() else {}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as place:
        for piece in sorted(given.only, key=PIECES.index):
            measure = {"claim": _claim, "merge": _merge, "two": _two, "simulate": _simulated}[piece]
            found = {"cores": os.cpu_count(), "load": round(load, 1), **measure(Path(place) / piece, given)}
            print(f"{piece}: {json.dumps(found)}", flush=True)
            figures[piece] = found
    given.out.write_text(json.dumps(figures, indent=1) + "\n")


def _claim(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    taken, processor = claim_seconds(folder, given.cells)
    seconds = {"best": min(taken), "median": statistics.median(taken), "processor": processor}
    return {"cells": given.cells, "ms": {name: round(1e3 * took, 2) for name, took in seconds.items()}}


def _merge(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    counts = [max(given.cells // share, 1) for share in (40, 20, 10)]
    seconds = [round(took, 2) for took in merge_seconds(folder, counts)]
    return {"processor_seconds": dict(zip(map(str, counts), seconds, strict=True))}


def _two(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    return {kind.__name__: speed_up(folder / kind.__name__, kind, given.turns) for kind in (busy_cells, trainings)}


def _simulated(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    result = simulate(folder, given.cells, given.workers, given.deaths)
    return {**asdict(result), "seconds": round(result.seconds)}


if __name__ == "__main__":
    main()

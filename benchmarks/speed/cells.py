"""Cells at scale: many workers on one folder, some of them killed at random.

    python benchmarks/speed/cells.py
    python benchmarks/speed/cells.py --cells 1000 --workers 40 --deaths 20

Workers are processes, each known to the others by its beats alone, as one of another machine is; ``kill -9`` ends some
of them wherever they are, and new ones take their places. A cell trains three epochs of no time, with checkpoints.
Printed, and kept in ``benchmarks/results/cells.json``, are: cells lost, cells whose last epoch was trained more than
once; the time of a claim that begins with a look at a folder where half the cells are done; how long it takes to merge
parts, which should grow as their number does; and how much faster two workers are than one at cells of one thread each,
the best of several turns.
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
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from autobatch._artefacts import find_library
from autobatch.beacons import BeaconLibrary, compact, write_beacon
from autobatch.cells import Cell, CellEnd, Cells, Identity, Pace, Plan, Report, Work, Worker, _workers

EPOCHS = 3
PACE = Pace(beat=1.0, patience=20.0)
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
    _workers._machine = str  # known by their beats alone
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
    child = os.fork()
    if not child:
        code = 1
        try:
            cells = Cells(folder, pace)
            Worker(cells, Training(folder), Identity(cells.workers)).run()
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


def claim_seconds(folder: Path, count: int, claims: int = 200) -> tuple[list[float], float]:
    """Return the seconds of claims by one worker, and the processor time of one.

    Each begins with a look at the folder, half of whose cells are done.
    """
    cells = put(folder, count)
    worker = Worker(cells, lambda plan: lambda cell, report: CellEnd("finished"), Identity(cells.workers))
    worker.identity.appear()
    for number in range(0, count, 2):
        (cells.home / "done" / _name(number)).write_text("{}")
    taken, processor = [], time.process_time()
    for _ in range(claims):
        worker._looked = -1e9
        began = time.perf_counter()
        claim = worker._next()
        taken.append(time.perf_counter() - began)
        assert claim is not None
    return taken, (time.process_time() - processor) / claims


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


def speed_up(folder: Path, count: int = 20, seconds: float = 0.5, turns: int = 3) -> float:
    """Return how much faster two workers are than one: the best time of each, in turns."""
    one, two = (
        min(times)
        for times in zip(
            *(
                [_busy_seconds(folder / f"{turn}-{workers}", workers, count, seconds) for workers in (1, 2)]
                for turn in range(turns)
            ),
            strict=True,
        )
    )
    return one / two


def _busy_seconds(folder: Path, workers: int, count: int, seconds: float) -> float:
    put(folder, count)
    began = time.perf_counter()
    for hand in [_hire(folder, seconds) for _ in range(workers)]:
        os.waitpid(hand, 0)
    return time.perf_counter() - began


def _hire(folder: Path, seconds: float) -> int:
    child = os.fork()
    if not child:
        cells = Cells(folder, PACE)
        Worker(cells, Busy(seconds), Identity(cells.workers)).run()
        os._exit(0)
    return child


def main() -> None:
    """Print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--deaths", type=int, default=100)
    parser.add_argument("--out", type=Path, default=RESULT, help="gets the figures as JSON")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as place:
        taken, processor = claim_seconds(Path(place) / "claims", given.cells)
        claim = {"best": min(taken), "median": statistics.median(taken), "processor": processor}
        claim = {name: round(1e3 * seconds, 2) for name, seconds in claim.items()}
        print(f"a claim with a look, {given.cells} cells, ms: {claim}", flush=True)
        counts = [max(given.cells // share, 1) for share in (40, 20, 10)]
        merged = merge_seconds(Path(place) / "merge", counts)
        told = ", ".join(f"{count} parts {took:.2f} s" for count, took in zip(counts, merged, strict=True))
        print(f"merging, processor time: {told}", flush=True)
        faster = speed_up(Path(place) / "speed")
        print(f"two workers do {faster:.2f} times what one does (load before: {load:.1f})", flush=True)
        result = simulate(Path(place) / "work", given.cells, given.workers, given.deaths)
        print(result)
    figures = {
        "cores": os.cpu_count(),
        "load": round(load, 1),
        "claim_ms": claim,
        "merge_processor_seconds": dict(zip(map(str, counts), [round(took, 2) for took in merged], strict=True)),
        "two_workers": round(faster, 2),
        "simulated": {**asdict(result), "seconds": round(result.seconds)},
    }
    given.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()

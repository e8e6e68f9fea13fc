"""Cells at scale: many workers on one folder, some of them killed at random.

    python benchmarks/speed/cells.py
    python benchmarks/speed/cells.py --cells 1000 --workers 40

Workers are threads, each known to the others by its beats alone, as one of another machine is; a killed one ends where
it is and gives nothing back. A cell trains three epochs of no time, each with a checkpoint. Printed are cells lost,
cells trained to their end more than once, the time of a claim with all cells waiting and with one left, and how long it
takes to merge parts, which should grow as their number does.
"""

import argparse
import random
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from autobatch._artefacts import find_library
from autobatch.beacons import BeaconLibrary, compact, write_beacon
from autobatch.cells import Cell, CellEnd, Cells, Identity, Pace, Plan, Report, Work, Worker, _workers

EPOCHS = 3
PACE = Pace(beat=0.5, patience=5.0)


class KilledError(BaseException):
    """The end of a worker."""


@dataclass
class Training:
    """Trains cells, and kills some of the workers that do.

    Attributes:
        folder: gets checkpoints and parts.
        deaths: workers still to be killed.
    """

    folder: Path
    deaths: int
    ends: Counter[str] = field(default_factory=Counter)
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, _plan: Plan) -> Work:
        """Return what trains a cell."""
        return self._train

    def _train(self, cell: Cell, report: Report) -> CellEnd:
        place, part = self.folder / f"{cell.name}.epoch", self.folder / f"{cell.name}.part"
        epoch = int(place.read_text()) if place.exists() else 0
        while epoch < EPOCHS:
            self._die_perhaps()
            epoch += 1
            temporary = place.with_suffix(f".{threading.get_ident()}")
            temporary.write_text(str(epoch))
            temporary.replace(place)
            report(epoch / EPOCHS)
        report(1.0)
        with self._lock:
            self.ends[cell.name] += 1
        part.write_bytes(b"trained")
        return CellEnd("finished")

    def _die_perhaps(self) -> None:
        with self._lock:
            if self.deaths and self.chance.random() < 0.01:
                self.deaths -= 1
                raise KilledError


class Mortal(Worker):
    """A worker that leaves everything as it is where it is killed."""

    def _give_back(self, claim: object, seconds: float) -> None:
        pass


@dataclass(frozen=True)
class Result:
    """What came of a simulation.

    Attributes:
        lost: cells without a part.
        twice: cells that were trained to their end more than once.
        killed: workers killed.
        seconds: wall time.
    """

    lost: int
    twice: int
    killed: int
    seconds: float


def simulate(folder: Path, count: int, workers: int, deaths: int, pace: Pace = PACE) -> Result:
    """Work cells off with workers of which some are killed.

    Args:
        folder: an empty folder.
        count: cells.
        workers: workers at a time; another takes the place of each that is killed.
        deaths: how many are killed.
        pace: their pace.

    Returns:
        What came of it.
    """
    _workers._machine = str  # known by their beats alone
    began = time.perf_counter()
    put(folder, count, pace)
    training = Training(folder, deaths)

    def work() -> None:
        while True:
            cells = Cells(folder, pace)
            with suppress(KilledError):
                Mortal(cells, training, Identity(cells.workers)).run()
                return

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    parts = len(list(folder.glob("*.part")))
    twice = sum(ends > 1 for ends in training.ends.values())
    return Result(count - parts, twice, deaths - training.deaths, time.perf_counter() - began)


def put(folder: Path, count: int, pace: Pace = PACE) -> Cells:
    """Put cells in."""
    cells = Cells(folder, pace)
    cells.put(Plan("simulated", {}, {}, tuple(Cell(f"c{number:05d}", 1.0) for number in range(count))))
    return cells


def claim_seconds(folder: Path, count: int, claims: int = 200) -> list[float]:
    """Return the seconds of claims by one worker, its listings among them, each given back."""
    cells = put(folder, count)
    worker = Worker(cells, lambda plan: lambda cell, report: CellEnd("finished"), Identity(cells.workers))
    worker.identity.appear()
    taken = []
    for _ in range(claims):
        began = time.perf_counter()
        claim = worker._next()
        taken.append(time.perf_counter() - began)
        assert claim is not None
    return taken


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


def main() -> None:
    """Print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--deaths", type=int, default=100)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        taken = sorted(claim_seconds(Path(place) / "claims", given.cells))
        median, most = 1e3 * statistics.median(taken), 1e3 * taken[-1]
        print(
            f"a claim with {given.cells} cells: {median:.2f} ms, {most:.1f} ms where it begins with a look", flush=True
        )
        counts = [given.cells // 20, given.cells // 10, given.cells // 5]
        merged = merge_seconds(Path(place) / "merge", counts)
        print(
            "merging: " + ", ".join(f"{count} parts {took:.2f} s" for count, took in zip(counts, merged, strict=True))
        )
        result = simulate(Path(place) / "work", given.cells, given.workers, given.deaths)
        print(
            f"{given.cells} cells, {given.workers} workers, {result.killed} of them killed, {result.seconds:.0f} s: ",
            end="",
        )
        print(f"{result.lost} cells lost, {result.twice} trained to their end twice")


if __name__ == "__main__":
    main()

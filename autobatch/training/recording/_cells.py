"""The cells of a recording as those who watch see them, and the grid that they make."""

import math
import time
from collections.abc import Iterable, Sequence
from functools import partial

from autobatch._errors import AutoBatchError, ConfigError, OutputError
from autobatch.beacons import BeaconKey
from autobatch.cells import Cell, CellEnd, Event, Work
from autobatch.control.rates import check_rate
from autobatch.training.recording._progress import RecordingObserver, RecordingProgress

ELSEWHERE = CellEnd("left to another process that records it")
"""What a cell returns that another process has finished in the meantime."""


class Ledger:
    """What is waiting, running and done, and how long the rest should take; tells an observer.

    Args:
        cells: the cells to record.
        found: further ones, found finished.
        observer: what watches.

    Attributes:
        waiting: the cells that have not started, the longest first, so that no process is left alone with a long one.
        ended: how each finished cell ended, by name.
        failed: message by name of each cell that raised, or whose process died.
    """

    def __init__(self, cells: Sequence[Cell], found: int, observer: RecordingObserver) -> None:
        self.waiting = sorted(cells, key=lambda cell: -cell.effort)
        self.ended: dict[str, CellEnd] = {}
        self.failed: dict[str, str] = {}
        self._efforts = {cell.name: cell.effort for cell in cells}
        self._found = found
        self._observer = observer
        self._shares: dict[str, float | None] = {}
        self._worked_off = 0.0
        self._clock: float | None = None
        observer.started(self.progress())

    def take(self, cell: Cell, event: Event, value: object = None) -> None:
        """Take down what happened to a cell: a share done, how it ended, or why it failed."""
        if event == "started":
            self.waiting = [other for other in self.waiting if other.name != cell.name]
            self._shares[cell.name] = None
        elif event == "progress":
            assert isinstance(value, float)
            before = self._shares[cell.name]
            if self._clock is None:  # what came before is the start of processes, which does not scale
                self._clock = time.perf_counter()
            if before is not None:
                self._worked_off += (value - before) * self._efforts[cell.name]
            self._shares[cell.name] = value
            self._observer.progressed(self.progress())
        elif event == "done":
            assert isinstance(value, CellEnd)
            del self._shares[cell.name]
            self.ended[cell.name] = value
            self._observer.beacon_finished(cell.name, value.stopped_because, self.progress())
        elif event == "left":
            del self._shares[cell.name]
            self.waiting.append(cell)
        else:
            del self._shares[cell.name]
            self.failed[cell.name] = str(value)
            self._observer.beacon_failed(cell.name, str(value))

    def progress(self) -> RecordingProgress:
        """Return where the recording stands; the modelled rest is scaled by how the model has done so far."""
        rest = sum(self._efforts[cell.name] for cell in self.waiting)
        rest += sum((1.0 - (share or 0.0)) * self._efforts[name] for name, share in self._shares.items())
        elapsed = 0.0 if self._clock is None else time.perf_counter() - self._clock
        return RecordingProgress(
            done=self._found + len(self.ended),
            total=self._found + len(self._efforts),
            running=tuple(self._shares),
            seconds_left=elapsed / self._worked_off * rest if self._worked_off else math.nan,
        )


def work_off(work: Work, ledger: Ledger) -> None:
    """Record the waiting cells in this process; one that fails is left out, and the others go on."""
    for cell in list(ledger.waiting):
        ledger.take(cell, "started")
        try:
            end = work(cell, partial(ledger.take, cell, "progress"))
        except OutputError:
            raise
        except AutoBatchError as error:
            ledger.take(cell, "failed", str(error))
        else:
            ledger.take(cell, "done", end)


def grid_of(
    batch_sizes: Iterable[int], rates: Iterable[float], seeds: Iterable[int], rates_name: str
) -> list[BeaconKey]:
    """Return the grid, seed by seed.

    So each batch size is timed at several times of the recording, and an interrupted one has a whole landscape early.
    Of one seed, the smallest batch sizes, which take longest, come first.

    Args:
        batch_sizes: batch sizes.
        rates: base learning rates.
        seeds: seeds.
        rates_name: what the rates are called where they are given.

    Returns:
        The keys, each once.

    Raises:
        ConfigError: a value is none that can be trained with, or there is none.
    """
    sizes, numbers = _whole(batch_sizes, "batch_sizes", 1), _whole(seeds, "seeds", 0)
    lrs = sorted({float(rate) for rate in rates})
    for lr in lrs:
        check_rate(lr, rates_name)
    for name, side in (("batch_sizes", sizes), ("seeds", numbers), (rates_name, lrs)):
        if not side:
            raise ConfigError(f"{name}: expected at least one value, got none")
    return [BeaconKey(size, lr, seed) for seed in numbers for size in sizes for lr in lrs]


def _whole(values: Iterable[int], name: str, least: int) -> Sequence[int]:
    found = set()
    for value in values:
        if isinstance(value, bool) or value != int(value) or value < least:
            raise ConfigError(f"{name}: expected whole numbers of at least {least}, got {value!r}")
        found.add(int(value))
    return sorted(found)

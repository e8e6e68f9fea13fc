"""What an epoch costs at each rung, as a learned policy sees it: by the cost table, relative to the best beacon."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autobatch.beacons import BeaconLibrary
from autobatch.policies._moves import Moves
from autobatch.policies._protocol import TaskInfo
from autobatch.policies.view._batch import ObservationBatch


class EpochCosts:
    """Modelled seconds of an epoch by rung; progress stands for them where no costs are known.

    Args:
        task: the task.
        library: its beacons, whose best fixed configuration is the reference; without them, the middle of the ladder.
    """

    def __init__(self, task: TaskInfo, library: BeaconLibrary | None) -> None:
        self._task = task
        self.known = task.costs is not None
        self._sizes = np.asarray(task.batch_sizes)
        costs, epoch = task.costs, 1.0 / task.epochs
        self._epoch = np.array([
            epoch if costs is None else costs.whole_epochs(size, task.train_size) for size in task.batch_sizes
        ])
        self._of_size: dict[int, float] = dict(zip(task.batch_sizes, self._epoch.tolist(), strict=True))
        self._reference = float(self._epoch[reference_rung(task, library)]) * task.epochs
        padded = np.concatenate([self._epoch[:1], self._epoch, self._epoch[-1:]])
        self._up = np.log2(padded[2:] / self._epoch)
        self._down = np.log2(padded[:-2] / self._epoch)

    @property
    def by_rung(self) -> NDArray[np.float64]:
        """Cost of an epoch at each rung."""
        return self._epoch.copy()

    def between(self, batch_size: int, epochs: int) -> float:
        """Return the modelled seconds of some epochs at one batch size, of the ladder or not."""
        return self._of_size.get(batch_size, self._nearest(batch_size)) * epochs

    def entries(self, batch: ObservationBatch, rungs: NDArray[np.intp]) -> Sequence[Any]:
        """Return the view's entries on cost: so far, to come, and the log ratios one rung up and down."""
        if not self.known:
            return (math.nan,) * 4
        to_come = batch.spent + self._epoch[rungs] * (self._task.epochs - batch.epoch)
        return (
            batch.spent / self._reference - 1.0,
            to_come / self._reference - 1.0,
            self._up[rungs],
            self._down[rungs],
        )

    def _nearest(self, batch_size: int) -> float:
        near: int = min(self._task.batch_sizes, key=lambda size: abs(math.log(size / max(batch_size, 1))))
        return self._of_size[near]


def reference_rung(task: TaskInfo, library: BeaconLibrary | None) -> int:
    """Return the rung of the best fixed beacon, whose whole training is the unit of cost; else the ladder's middle."""
    middle = Moves(task.batch_sizes, task.learning_rates).start[0]
    if library is None:
        return middle
    best = library.best_fixed().batch_size
    return task.batch_sizes.index(best) if best in task.batch_sizes else middle

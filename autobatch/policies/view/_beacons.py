"""Where the beacons stood at equal progress, as tables: what an observation is relative to."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autobatch._arrays import Floats
from autobatch._errors import LibraryError
from autobatch.beacons import BeaconLibrary
from autobatch.policies._protocol import TaskInfo
from autobatch.policies._quality import WORST, Quality

NEAREST = 3
"""Beacons whose place is told one by one."""

GOOD = 0.03
"""Beacons whose final quality is within this of the best are good: where they stood is where to be."""

_WEIGHING = 5
"""Beacons whose final qualities make the promised quality (the paper's five nearest, section 4.1)."""

_GRID = 100
"""Values of progress in (0, 1] for which the beacons' places are tabulated."""


class BeaconTracks:
    """The mean journey of every configuration, on a grid of progress.

    Distances are measured in spans: the extent of log10 C̄ and log10 L over the beacons that finished, at equal
    progress.

    Args:
        task: the task.
        library: its beacons.
    """

    def __init__(self, task: TaskInfo, library: BeaconLibrary) -> None:
        self.quality = Quality.of(library)
        grid = np.arange(1, _GRID + 1) / _GRID
        places, qualities, configurations, finished = [], [], [], []
        for (batch_size, lr), beacons in library.by_configuration.items():
            try:
                track = [library.at(batch_size, lr, float(progress)) for progress in grid]
            except LibraryError:  # all of them diverged before a position was measured
                continue
            places.append([(math.log10(place.c_bar), math.log10(place.l_cum)) for place in track])
            finals = [own.final(library.score) if own.finished else math.nan for own in beacons]
            qualities.append(float(np.mean(self.quality(finals))))
            configurations.append((batch_size, lr))
            finished.append(all(own.finished for own in beacons))
        place = np.array(places).transpose(1, 0, 2)  # (grid, configurations, 2)
        self._log_c, self._log_l = (np.ascontiguousarray(place[..., axis]) for axis in range(2))
        self._qualities = np.maximum(np.array(qualities), WORST)
        sound = np.array(finished) if any(finished) else np.ones(len(places), dtype=bool)
        extent = np.ptp(place[:, sound], axis=1)
        self._spans = np.maximum(extent, 1e-3)
        self._good = np.flatnonzero(self._qualities >= self._qualities[sound].max() - GOOD)
        sizes, rates = (np.array(values) for values in zip(*configurations, strict=True))
        self._last_rung = max(len(task.batch_sizes) - 1, 1)
        self._last_rate = max(len(task.learning_rates) - 1, 1)
        self._rungs = _fractional_rungs(np.log(task.batch_sizes), np.log(sizes))
        self._rates = _fractional_rungs(np.log(task.learning_rates), np.log(rates))
        self._best_track = _best_track(library, grid)

    def against_best(self, progress: Floats, score: Floats) -> Floats:
        """Return log10 of scores (n,) over the best fixed beacon's at equal progress (n,): (n,)."""
        ratio: Floats = np.log10(score / self._best_track[self._cell(progress)])
        return ratio

    def entries(
        self, progress: Floats, log_c: Floats, log_l: Floats, rungs: NDArray[Any], rates: NDArray[Any]
    ) -> Floats:
        """Return the view's entries on beacons.

        Args:
            progress: shape (n,).
            log_c: log10 C̄, shape (n,); not finite where unknown.
            log_l: log10 L, shape (n,).
            rungs: rungs on the ladder, shape (n,).
            rates: rungs of the learning rates, shape (n,).

        Returns:
            Way to the nearest good beacon (2), promised quality (1), and for each of the nearest beacons the way to
            it (2), its rungs from here (2) and its quality (1); shape (n, 3 + 5 NEAREST).
        """
        cells = self._cell(progress)
        spans = self._spans[cells]
        ways = [self._log_c[cells], self._log_l[cells]]  # a copy each, which becomes the way from it to here
        for axis, here in enumerate((log_c, log_l)):
            np.subtract(here[:, None], ways[axis], out=ways[axis])
            ways[axis] /= spans[:, axis, None]
            ways[axis][~np.isfinite(here)] = 1e3
        squares = ways[0] * ways[0] + ways[1] * ways[1]
        rows = np.arange(len(cells))
        good = self._good[squares[:, self._good].argmin(axis=1)]
        count = min(_WEIGHING, squares.shape[1])
        nearest = np.argpartition(squares, count - 1, axis=1)[:, :count]
        order = squares[rows[:, None], nearest].argsort(axis=1, kind="stable")
        nearest = nearest[rows[:, None], order]
        # The paper's weights (section 4.1), made to sum to 1: (1 / r + 1) over their total.
        weights = 1.0 / np.sqrt(np.maximum(squares[rows[:, None], nearest], 1e-12)) + 1.0
        told = np.zeros((len(cells), 3 + 5 * NEAREST))
        told[:, 0], told[:, 1] = (way[rows, good] for way in ways)
        told[:, 2] = (weights * self._qualities[nearest]).sum(axis=1) / weights.sum(axis=1)
        named = nearest[:, :NEAREST]
        by_beacon = told[:, 3:].reshape(len(told), NEAREST, 5)[:, : named.shape[1]]
        by_beacon[..., 0], by_beacon[..., 1] = (way[rows[:, None], named] for way in ways)
        by_beacon[..., 2] = self._rungs[named] - (rungs / self._last_rung)[:, None]
        by_beacon[..., 3] = self._rates[named] - (rates / self._last_rate)[:, None]
        by_beacon[..., 4] = self._qualities[named]
        return told

    def _cell(self, progress: Floats) -> NDArray[np.int64]:
        cells: NDArray[np.int64] = np.clip(np.rint(np.nan_to_num(progress) * _GRID) - 1, 0, _GRID - 1).astype(np.int64)
        return cells


def _fractional_rungs(ladder: Floats, values: Floats) -> Floats:
    """Return where values lie on a ladder, its ends at 0 and 1."""
    if len(ladder) == 1:
        return np.zeros(len(values))
    return np.interp(values, ladder, np.linspace(0.0, 1.0, len(ladder)))


def _best_track(library: BeaconLibrary, grid: Floats) -> Floats:
    """Return the seed-mean score of the best fixed configuration at each progress."""
    best = library.best_fixed()
    tracks = []
    for beacon in library.beacons_at(best.batch_size, best.lr):
        scores = beacon.rows[library.score]
        known = np.isfinite(scores)
        tracks.append(np.interp(grid, beacon.rows["progress"][known], scores[known]))
    mean: Floats = np.maximum(np.mean(tracks, axis=0), 1e-6)
    return mean

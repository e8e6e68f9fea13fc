"""Seconds by batch size, read off recorded beacons."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autobatch.beacons import Beacon, CostTable
from autobatch.training._calibrate import steadiest


def recorded_costs(beacons: Sequence[Beacon], device: str) -> CostTable:
    """Return what the steps of recorded beacons took.

    A beacon is timed in stretches from one validation to the next. Whatever a loop does besides its steps, such as
    validating, is spread over a stretch's steps, so a table says rightly what whole epochs at a batch size take. A
    beacon's first stretch, in which things warm up, is left out where there are others.

    Args:
        beacons: the beacons.
        device: the kind of device that all of them were recorded on.

    Returns:
        The table; batch sizes of which too little is known are not in it.
    """
    step_seconds: dict[int, float] = {}
    measuring_seconds: dict[int, float] = {}
    for batch_size in sorted({beacon.batch_size for beacon in beacons}):
        own = [beacon for beacon in beacons if beacon.batch_size == batch_size]
        finished = [beacon for beacon in own if beacon.finished]
        stretches = np.concatenate([_stretches(beacon) for beacon in finished or own])
        seconds, measuring, steps, samples = stretches.T
        step, sample = _low(seconds - measuring, steps), _low(measuring, samples)
        if step is not None and sample is not None:
            step_seconds[batch_size], measuring_seconds[batch_size] = step, sample
    return CostTable(device, step_seconds, measuring_seconds, epoch_seconds=0.0)


def _stretches(beacon: Beacon) -> NDArray[np.float64]:
    """Return seconds, seconds of measuring, steps and samples of a beacon's stretches, shape (n, 4)."""
    rows = beacon.rows
    ends = np.isfinite(rows["validation_loss"]) | np.isfinite(rows["validation_error"])
    ends[-1] = True
    names = ("seconds", "measuring_seconds", "steps", "samples")
    totals = np.stack([rows[name][ends].astype(np.float64) for name in names], axis=1)
    parts = np.diff(totals, axis=0, prepend=0.0)
    return parts[1:] if len(parts) > 1 else parts


def _low(seconds: NDArray[np.float64], count: NDArray[np.float64]) -> float | None:
    known = (count > 0.0) & (seconds > 0.0)
    return steadiest((seconds[known] / count[known]).tolist()) if known.any() else None

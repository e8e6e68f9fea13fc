"""What training at one fixed configuration came to, over seeds."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autobatch.beacons._beacon import Beacon

FIGURES = (
    "validation_loss",
    "validation_error",
    "test_error",
    "test_loss",
    "examples",
    "steps",
    "seconds",
    "measuring_seconds",
)
"""The figures of a ``FixedResult``, all at the end of training."""


@dataclass(frozen=True)
class FixedResult:
    """Final figures of one configuration, over its finished seeds.

    Attributes:
        batch_size: global batch size.
        lr: base learning rate.
        seeds: the seeds that finished, ascending; the figures are over these.
        diverged: the seeds that ended early, ascending.
        mean: mean over seeds of every figure of ``FIGURES``, in its column's unit; NaN where no seed finished, or a
            finished one has no such figure.
        std: standard deviation over seeds (n - 1 in the denominator); NaN for fewer than two seeds, and with the mean.
    """

    batch_size: int
    lr: float
    seeds: tuple[int, ...]
    diverged: tuple[int, ...]
    mean: Mapping[str, float]
    std: Mapping[str, float]

    @property
    def training_seconds(self) -> float:
        """Mean seconds of the training itself, without measuring."""
        return self.mean["seconds"] - self.mean["measuring_seconds"]


def fixed_result(beacons: Sequence[Beacon]) -> FixedResult:
    """Sum up the beacons, one a seed, of one configuration, over those that finished."""
    finished = [beacon for beacon in beacons if beacon.finished]
    values = {figure: [beacon.final(figure) for beacon in finished] for figure in FIGURES}
    return FixedResult(
        batch_size=beacons[0].batch_size,
        lr=beacons[0].lr,
        seeds=tuple(sorted(beacon.seed for beacon in finished)),
        diverged=tuple(sorted(beacon.seed for beacon in beacons if not beacon.finished)),
        mean={figure: statistics.fmean(own) if _known(own, 1) else math.nan for figure, own in values.items()},
        std={figure: statistics.stdev(own) if _known(own, 2) else math.nan for figure, own in values.items()},
    )


def _known(values: Sequence[float], least: int) -> bool:
    return len(values) >= least and all(math.isfinite(value) for value in values)

"""The samples of an epoch: held as Gram matrices while it trains, decomposed when it ends."""

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from autobatch.fisher import FisherProbe
from autobatch.fisher import Measurement as Measured

HELD_BYTES = 64 * 1024**2
"""Bytes of Gram matrices that wait for the end of an epoch; where there are more, they are decomposed at once."""

_GRAM_ELEMENT_BYTES = 8


@dataclass(frozen=True)
class Measurement:
    """One measured step.

    Attributes:
        epoch: the epoch it belongs to, from 1.
        step: the optimizer step, from 1, counted over the run.
        batch_size: examples in the step's batch.
        lr: learning rate of the step, the schedule's factor included.
        condition_number: c_k, sqrt(lambda_max / smallest non-zero lambda) of F.
        trace: trace of F.
        rank: eigenvalues of F that counted as non-zero.
        seconds: wall time that measuring added, the eigenvalues included.
    """

    epoch: int
    step: int
    batch_size: int
    lr: float
    condition_number: float
    trace: float
    rank: int
    seconds: float

    @property
    def usable(self) -> bool:
        """Whether the sample has a position: false where the step had no gradient or one that is not finite."""
        return math.isfinite(self.condition_number) and math.isfinite(self.trace)

    def to_dict(self) -> dict[str, Any]:
        """Return the measurement as a dictionary of plain values."""
        return asdict(self)


@dataclass(frozen=True)
class _Pending:
    measured: Measured
    epoch: int
    step: int
    batch_size: int
    lr: float
    seconds: float


class Samples:
    """Takes an epoch's measured steps without waiting for the device, and decomposes them in order when asked.

    Args:
        held_bytes: Gram matrices that are held; as soon as there are more, all are decomposed.
    """

    def __init__(self, held_bytes: int = HELD_BYTES) -> None:
        self._held_bytes = held_bytes
        self._pending: list[_Pending] = []
        self._done: list[Measurement] = []

    def clear(self) -> None:
        """Forget everything: a new epoch begins."""
        self._pending, self._done = [], []

    def add(self, probe: FisherProbe, *, epoch: int, step: int, batch_size: int, lr: float) -> None:
        """Keep the step that a probe has just measured.

        Args:
            probe: the probe, after its body.
            epoch: the epoch, from 1.
            step: the optimizer step, from 1, counted over the run.
            batch_size: examples in the step's batch.
            lr: learning rate of the step.

        Raises:
            MeasureError: the step held something that cannot be measured.
        """
        measured = probe.measurement()
        if measured.problem is not None:
            raise measured.problem
        self._pending.append(_Pending(measured, epoch, step, batch_size, lr, probe.seconds))
        if sum(_GRAM_ELEMENT_BYTES * pending.batch_size**2 for pending in self._pending) > self._held_bytes:
            self.settle()

    def settle(self) -> None:
        """Decompose what is held, in the order of the steps.

        Raises:
            MeasureError: the gradients that a step got are not those that were measured.
        """
        while self._pending:
            self._done.append(_decomposed(self._pending.pop(0)))

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """The samples that are decomposed."""
        return tuple(self._done)


def _decomposed(pending: _Pending) -> Measurement:
    start = time.perf_counter()
    finite = bool(torch.isfinite(pending.measured.gram()).all())
    spectrum = pending.measured.spectrum() if finite else None
    return Measurement(
        epoch=pending.epoch,
        step=pending.step,
        batch_size=pending.batch_size,
        lr=pending.lr,
        condition_number=spectrum.condition_number if spectrum else math.nan,
        trace=spectrum.trace if spectrum else math.nan,
        rank=spectrum.rank if spectrum else 0,
        seconds=pending.seconds + time.perf_counter() - start,
    )

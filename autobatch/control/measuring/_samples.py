"""The samples of an epoch: held as Gram matrices while it trains, decomposed when it ends."""

import logging
import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from autobatch._errors import AutoBatchError, MeasureError, behind
from autobatch._plain import Plain
from autobatch.control.measuring._memory import is_out_of_memory
from autobatch.fisher import FisherProbe, GradientMoments, Measurement, half_cosine, squared_rows

HELD_BYTES = 64 * 1024**2
"""Bytes of Gram matrices that wait for the end of an epoch; where there are more, they are decomposed at once."""

REFUSALS = 3
"""Measured steps after each other that cannot be measured, which end the measuring; fewer may be a coincidence."""

_GRAM_ELEMENT_BYTES = 8
_LOG = logging.getLogger("autobatch")


@dataclass(frozen=True)
class MeasuredStep(Plain):
    """One measured step.

    Attributes:
        epoch: the epoch it belongs to, from 1.
        step: the optimizer step, from 1, counted over the run.
        batch_size: examples in the step's batch.
        lr: learning rate of the step, the schedule's factor included.
        condition_number: c_k, sqrt(lambda_max / smallest non-zero lambda) of F.
        trace: trace of F.
        rank: eigenvalues of F that counted as non-zero.
        squared_sum: 1ᵀF1, the squared norm of the summed gradient.
        seconds: wall time that measuring added, the eigenvalues included.
        squared_rows: ‖F1‖², the sum over the samples of the squared inner product with the summed gradient; NaN in
            files of older versions.
        half_cosine: cosine of the angle between the mean gradients of the batch's two halves; NaN where one has none.
    """

    epoch: int
    step: int
    batch_size: int
    lr: float
    condition_number: float
    trace: float
    rank: int
    squared_sum: float
    seconds: float
    squared_rows: float = math.nan
    half_cosine: float = math.nan

    @property
    def usable(self) -> bool:
        """Whether the sample has a position: false where the step had no gradient or one that is not finite."""
        return math.isfinite(self.condition_number) and math.isfinite(self.trace)


def gradient_moments(measurements: Sequence[MeasuredStep]) -> GradientMoments | None:
    """Return what a period's samples tell of the gradients.

    Args:
        measurements: the samples. Batches that were fetched ahead may be of another size: those of the size that most
            have count, of the last one where two are as frequent.

    Returns:
        The means over the samples; None where no gradient is finite.
    """
    usable = [sample for sample in measurements if math.isfinite(sample.trace)]
    if not usable:
        return None
    batch_size = Counter(sample.batch_size for sample in reversed(usable)).most_common(1)[0][0]
    return GradientMoments.mean([
        GradientMoments.of_sums(
            sample.batch_size,
            sample.trace,
            sample.squared_sum,
            squared_rows=sample.squared_rows,
            half_cosine=sample.half_cosine,
        )
        for sample in usable
        if sample.batch_size == batch_size
    ])


@dataclass(frozen=True)
class _Pending:
    measured: Measurement
    epoch: int
    step: int
    batch_size: int
    exact: bool
    full: bool
    lr: float
    seconds: float


class Samples:
    """Takes an epoch's measured steps without waiting for the device, and decomposes them in order when asked.

    Args:
        held_bytes: Gram matrices that are held; as soon as there are more, all are decomposed.
        gives_up: whether steps that cannot be measured end the measuring, with a warning, instead of the training.

    Attributes:
        by_sample: whether a measured step took one backward pass for each sample, which is slow.
    """

    def __init__(self, held_bytes: int = HELD_BYTES, *, gives_up: bool = False) -> None:
        self.given_up = False
        self.by_sample = False
        self._gives_up = gives_up
        self._warned = False
        self._refused = 0  # since the last step that was measured
        self._held_bytes = held_bytes
        self._pending: list[_Pending] = []
        self._done: list[MeasuredStep] = []
        self._told = False

    def clear(self) -> None:
        """Forget everything: a new epoch begins."""
        self._pending, self._done = [], []

    def add(
        self,
        probe: FisherProbe,
        *,
        epoch: int,
        step: int,
        batch_size: int,
        lr: float,
        exact: bool = True,
        full: bool = True,
    ) -> None:
        """Keep the step that a probe has just measured; where memory ran out for that, the step stays unmeasured.

        Args:
            probe: the probe, after its body.
            epoch: the epoch, from 1.
            step: the optimizer step, from 1, counted over the run.
            batch_size: examples that the step's batch should have.
            lr: learning rate of the step.
            exact: whether another number of examples is an error, found when the sample is decomposed.
            full: whether another number is told where it is none; the last batch of an epoch may have fewer.

        Raises:
            MeasureError: the step held something that cannot be measured, and that does not end the measuring.
        """
        measured = probe.measurement()
        if measured.problem is not None:
            if not is_out_of_memory(measured.problem.__cause__):
                self.settle()  # in the order of the steps
                self._refuse(step, measured.problem)
                return
            _LOG.warning("step %d is not measured: %s", step, measured.problem)
            for cause in behind(measured.problem):  # a traceback holds the tensors that there was no room for
                cause.__traceback__ = None
            return
        self.by_sample = self.by_sample or measured.by_sample
        self._pending.append(_Pending(measured, epoch, step, batch_size, exact, full, lr, probe.seconds))
        if sum(_GRAM_ELEMENT_BYTES * pending.batch_size**2 for pending in self._pending) > self._held_bytes:
            self.settle()

    def settle(self) -> None:
        """Decompose what is held, in the order of the steps.

        Raises:
            MeasureError: the gradients that a step got are not those that were measured, and that does not end the
                measuring.
            AutoBatchError: a batch had more or fewer examples than it should have.
            RuntimeError: whatever else the decomposition raises.
            MemoryError: never; it leaves the sample out.
        """
        while self._pending:
            pending = self._pending.pop(0)
            try:
                sample = _decomposed(pending)
                self._tell(sample.batch_size, pending)
                self._done.append(sample)
                self._refused = 0
            except MeasureError as error:
                self._refuse(pending.step, error)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                _LOG.warning("step %d is not measured: out of memory in its eigenvalues: %s", pending.step, error)

    def _refuse(self, step: int, problem: MeasureError) -> None:
        """Leave a step unmeasured, and say why, once; after several measure nothing any more. Or raise the problem."""
        if not self._gives_up:
            raise problem
        self._refused += 1
        if not self._warned:
            _LOG.warning(
                "step %d cannot be measured: %s. The training goes on, and other steps are measured if they can be; "
                "measuring=NeverMeasure() measures nothing from the start",
                step,
                problem,
            )
        self._warned = True
        if self._refused >= REFUSALS and not self.given_up:
            _LOG.warning("nothing is measured from step %d on: %d in a row could not be", step, REFUSALS)
            self.given_up = True
            self._pending.clear()

    def _tell(self, batch_size: int, pending: _Pending) -> None:
        if self._told or not pending.full or batch_size == pending.batch_size:
            return
        self._told = True
        _LOG.warning(
            "advise=%d was declared, and the model was called with %d examples in step %d: say advise=%d, or progress "
            "and advice go by another loop than yours",
            pending.batch_size,
            batch_size,
            pending.step,
            batch_size,
        )

    def restore(self, measurements: Iterable[MeasuredStep]) -> None:
        """Put decomposed samples in place of what is held."""
        self._pending, self._done = [], list(measurements)

    @property
    def measurements(self) -> tuple[MeasuredStep, ...]:
        """The samples that are decomposed."""
        return tuple(self._done)


def _decomposed(pending: _Pending) -> MeasuredStep:
    start = time.perf_counter()
    gram = pending.measured.gram()
    if pending.exact and len(gram) != pending.batch_size:
        raise AutoBatchError(
            f"step {pending.step} was to train {pending.batch_size} examples, and the model was called with "
            f"{len(gram)}: the loader returned another batch than the controller's sampler asked for; or an example "
            "has several rows: say which are one example's with step(samples=...), or measure nothing with "
            "measuring=NeverMeasure()"
        )
    finite = bool(torch.isfinite(gram).all())
    spectrum = pending.measured.spectrum() if finite else None
    return MeasuredStep(
        epoch=pending.epoch,
        step=pending.step,
        batch_size=len(gram),
        lr=pending.lr,
        condition_number=spectrum.condition_number if spectrum else math.nan,
        trace=spectrum.trace if spectrum else math.nan,
        rank=spectrum.rank if spectrum else 0,
        squared_sum=float(gram.sum()) if finite else math.nan,
        squared_rows=squared_rows(gram) if finite else math.nan,
        half_cosine=half_cosine(gram) if finite else math.nan,
        seconds=pending.seconds + time.perf_counter() - start,
    )

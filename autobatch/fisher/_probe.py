"""The public entry to measuring: a context manager around one forward and backward pass."""

import contextlib
import inspect
import itertools
import sys
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Never, Self

import torch
from torch import Tensor, nn

from autobatch._errors import MeasureError, near_names
from autobatch.fisher._arithmetic import note_low_precision
from autobatch.fisher._measurement import Measurement, caused
from autobatch.fisher._spectrum import Spectrum
from autobatch.fisher._sums import SumCheck
from autobatch.fisher.capture import Capture, ExactCapture
from autobatch.fisher.capture._notes import Notes
from autobatch.fisher.following import Samples
from autobatch.fisher.gram import (
    MAX_MEMORY,
    ExchangedGram,
    GramSink,
    Jacobian,
    SketchedGram,
    SpilledGram,
    StreamingGram,
    Taker,
)
from autobatch.fisher.gram._native import loaded

LOSS_REDUCTIONS = ("mean", "sum")
_NOT_EXACT = 'samples and batch_dim do not go with bn="exact"'
BN_MEANINGS = ("rows", "exact", "eval")
GRADIENTS = ("library", "rows")
MEASURES = ("exact", "sketched")

SKETCH_ROWS = 4096
"""Rows of a sketch where nothing else is said: 16 for each sample of a batch of 256."""


class FisherProbe:
    """Measures the Gram matrix F = JᵀJ of one step's per-sample gradients, while the step runs as ever.

    Column i of J is sample i's row of the batch gradient of the summed loss (paper, eqs. 5 and 6):

        probe = FisherProbe(model)
        with probe:
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
        spectrum = probe.spectrum()

    B is the size of dimension 0 of the first tensor that ``model(...)`` is called with; every tensor argument of that
    leading size carries the batch. The body holds one call of the model and one backward pass. Weights, random numbers
    and (but see ``gradients``) gradients are exactly those of the same step without the probe. Entering starts afresh,
    so one probe serves many steps; not entering it costs nothing.

    A problem, such as a trainable parameter in a layer that cannot be measured, never disturbs the body: it is kept
    and raised as ``autobatch.MeasureError`` by ``gram`` and ``spectrum``. Frozen parameters are left out.
    The body does not wait for the device, but to read indices by which rows are picked: F is checked, scaled and
    decomposed when it is asked for.

    Args:
        model: the model, unmodified; its parameters with ``requires_grad`` are measured. A compiled model runs its
            original module inside the body. Under DistributedDataParallel and FSDP2 each process measures its own rows.
        loss_reduction: how the loss reduces over the batch, ``"mean"`` or ``"sum"``; undone in F.
        bn: meaning of a column of J under BatchNorm: ``"rows"`` (each layer's output-gradient row times its input row,
            with batch statistics in train mode: the paper's), ``"exact"`` (the derivative of the sample's loss through
            the batch statistics: B backward passes, by ``backward``), or ``"eval"`` (running statistics only: a
            BatchNorm layer in train mode is an error then).
        gradients: where weights' gradients come from: ``"library"``, bit for bit those of the step without the probe,
            or ``"rows"``: for linear, convolution and norm layers the sum of J over samples, which is formed anyway.
            That is faster, and differs from the library's in round-off. (Where J is kept until the end or shared
            between processes, and in checkpointed blocks, it is the library's all the same.)
        max_memory: bytes that blocks of J may take at a time; F itself, 8 B² bytes, comes on top.
        micro_batches: how many times the body calls the model, each followed by its backward pass, when gradients
            accumulate. F is that of the whole batch: J is kept until the end, in memory up to ``max_memory``, then in a
            temporary file of up to B times the parameters' bytes. The accumulated gradient is taken to be that of
            ``loss_reduction`` over the whole batch.
        process_group: of ``torch.distributed``, for the exact F of all its processes' rows; make one of its own with
            ``new_group()``. Without it, F is that of this process's rows.
        exchange_after: with a process group, keep J as ``micro_batches`` does and send it in ``exchange``, which
            all processes call after the body. Nothing is sent in the body then, so that one that raises on one process
            leaves no other waiting. ``micro_batches`` with a process group need it.
        grad_scaler: a ``torch.amp.GradScaler`` that scales the loss; undone in F.
        samples: what a sample is, where it is not one row of the inputs: how many consecutive rows it has (two views of
            each image that come one after the other: 2), or an index tensor (n,) of integers from 0 to B - 1 that says
            which sample each of n rows belongs to (the nodes of a batch of graphs; ``torch.arange(B).repeat(2)`` for
            two views, first all of one kind). Where no tensor has n rows, they may be those of a list's tensors, one
            tensor after the other. The index may change from step to step: set ``probe.samples``. Where it is said, 1
            for one row, the model may be called several times before the backward pass.
        batch_dim: the dimension of the inputs that ``samples`` and the batch are along, 1 for time-major data.
        params: the parameters whose gradients F is of, such as ``model.head.parameters()``; None for all that require
            gradients. The others train as ever.
        measure: ``"exact"``, or ``"sketched"``: F of a seeded random projection of J to ``sketch_rows`` rows, unbiased
            and with the errors that ``docs/concepts/measure.md`` states. It keeps, and each process of a group sends,
            ``sketch_rows`` numbers of a sample in place of its whole gradient; so it is for ``micro_batches`` and
            groups, and of one pass of one process the exact F is as cheap.
        sketch_rows: k, at least two for each sample of the whole batch. Relative errors are about sqrt(2 / k) of the
            trace and the largest eigenvalue; the condition number comes out larger, by the share B / (2 k) to
            sqrt(B / k).
        sketch_seed: of the projection; the same on all processes.
        by_module: whether each module's own part of F is kept, 8 B² bytes each, for ``Measurement.by_module``; not with
            ``micro_batches``, a process group, ``bn="exact"`` or ``measure="sketched"``.

    Attributes:
        exchanges_after: whether ``exchange`` is to be called after each body.
        taker: where set, gets the per-sample gradients of a step as well as F does, parameter by parameter, so that a
            measured step serves an optimizer too (``autobatch.optim``); not where processes share them.

    Raises:
        MeasureError: where an argument is not one of those, or does not go with another.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_reduction: str = "mean",
        bn: str = "rows",
        *,
        gradients: str = "library",
        max_memory: int = MAX_MEMORY,
        micro_batches: int = 1,
        process_group: Any = None,
        exchange_after: bool = False,
        grad_scaler: torch.amp.GradScaler | None = None,
        samples: int | Tensor | None = None,
        batch_dim: int = 0,
        params: Iterable[Tensor] | None = None,
        measure: str = "exact",
        sketch_rows: int = SKETCH_ROWS,
        sketch_seed: int = 0,
        by_module: bool = False,
        **moved: Never,
    ) -> None:
        _refuse_unknown(moved)
        for name, given, expected in (
            ("loss_reduction", loss_reduction, LOSS_REDUCTIONS),
            ("bn", bn, BN_MEANINGS),
            ("gradients", gradients, GRADIENTS),
            ("measure", measure, MEASURES),
        ):
            if given not in expected:
                raise MeasureError(f"{name}={given!r}: {near_names(given, expected)}")
        if micro_batches < 1 or max_memory < 1:
            raise MeasureError(
                f"micro_batches and max_memory must be at least 1, got {micro_batches!r} and {max_memory!r}"
            )
        if micro_batches > 1 and (bn == "exact" or (process_group is not None and not exchange_after)):
            raise MeasureError(
                'micro_batches goes neither with bn="exact" nor, without exchange_after=True, with process_group'
            )
        if exchange_after and process_group is None:
            raise MeasureError("exchange_after=True needs a process_group to exchange with")
        if bn == "exact" and process_group is not None:
            raise MeasureError('process_group does not go with bn="exact"')
        self._model = _original(model)
        if any(parameter.device.type == "cpu" for parameter in self._model.parameters()):
            loaded()  # compiled now, not within a measured step
        self._mean = loss_reduction == "mean"
        self._bn = bn
        self.gradients = gradients
        self._counted = None if params is None else _names(self._model, params)
        self._max_memory = max_memory
        self._micro_batches = micro_batches
        self._process_group = process_group
        self.exchanges_after = exchange_after
        self.samples = samples
        self.batch_dim = batch_dim
        self.taker: Taker | None = None
        if by_module and (bn == "exact" or micro_batches > 1 or process_group is not None):
            raise MeasureError('by_module goes neither with bn="exact" nor with micro_batches nor with process_group')
        self._by_module = by_module
        self._sketch = _checked_sketch(measure, sketch_rows, sketch_seed)
        if self._sketch is not None and (bn == "exact" or by_module):
            raise MeasureError('measure="sketched" goes neither with bn="exact" nor with by_module')
        if self._said().said and bn == "exact":
            raise MeasureError(_NOT_EXACT)
        self._kept: tuple[Notes, GramSink, Exception | None] | None = None
        self._grad_scaler = grad_scaler
        self._capture: Capture | ExactCapture | None = None
        self._sink: GramSink | None = None
        self._watching: contextlib.ExitStack | None = None
        self._measurement: Measurement | None = None
        self._seconds = 0.0

    def __enter__(self) -> Self:
        if self._capture is not None:
            raise MeasureError("this probe is already entered: leave its body first")
        start = time.perf_counter()
        self._measurement = self._kept = None
        self._sink = self._new_sink()
        if self._bn == "exact":
            self._capture = ExactCapture(self._model, self._sink, self._counted)
            if self._said().said:
                self._capture.notes.problem = MeasureError(_NOT_EXACT)
        else:
            self._capture = Capture(
                self._model,
                self._bn,
                self._sink,
                self._micro_batches,
                self._said,
                rows=self.gradients == "rows",
                counted=self._counted,
            )
        self.resume()
        self._seconds = time.perf_counter() - start
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.pause()
        capture, self._capture = self._capture, None
        assert capture is not None
        start = time.perf_counter()
        sink, self._sink = self._sink, None
        assert sink is not None
        if error is None:
            self._kept = (capture.notes, sink, _failure(capture.finish))
        capture.close()
        self._seconds += capture.notes.seconds + time.perf_counter() - start
        if self._kept is not None and not self.exchanges_after:
            self.exchange()

    def _said(self) -> Samples:
        return Samples(self.samples, self.batch_dim)

    @property
    def entered(self) -> bool:
        """Whether the body is running."""
        return self._capture is not None

    def pause(self) -> None:
        """Leave off watching torch's functions, for what lies between two micro-batches' passes; again does nothing."""
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.close()

    def resume(self) -> None:
        """Go on watching after ``pause``."""
        if self._watching is None and self._capture is not None:
            self._watching = contextlib.ExitStack()
            if "torch._dynamo" in sys.modules:
                self._watching.enter_context(torch.compiler.set_stance("force_eager"))
            self._watching.enter_context(self._capture)

    @property
    def seconds(self) -> float:
        """Wall-clock seconds that measuring the last step took: hooks, Gram products and eigenvalues."""
        return self._seconds

    def backward(self, loss: Tensor) -> None:
        """Run the step's backward pass; needed for ``bn="exact"``, and else ``loss.backward()``.

        Afterwards every parameter's ``grad`` is as ``loss.backward()`` would have left it.

        Args:
            loss: a scalar, already divided by the number of micro-batches, and scaled where there is a GradScaler.

        Raises:
            MeasureError: outside the body.
        """
        if self._capture is None:
            raise MeasureError("call probe.backward(loss) inside the body, `with probe:`")
        if isinstance(self._capture, ExactCapture):
            self._capture.backward(loss)
        else:
            loss.backward()  # type: ignore[no-untyped-call]

    def exchange(self) -> None:
        """With ``exchange_after``, bring J of all processes together; all of them call it after the body.

        Raises:
            MeasureError: the body was left by an error, or the probe has nothing to exchange.
        """
        if self._kept is None:
            raise MeasureError("nothing to exchange: run a forward and backward pass inside `with probe:` first")
        start = time.perf_counter()
        kept, self._kept = self._kept, None
        self._measurement = self._measured(*kept)
        self._seconds += time.perf_counter() - start

    def measurement(self) -> Measurement:
        """Return what the last step left, which stays valid when the probe is entered again.

        Returns:
            The measurement; a problem of the step is raised by its methods.

        Raises:
            MeasureError: where nothing was measured, or the body has not ended.
        """
        if self._capture is not None:
            raise MeasureError("the body has not ended yet: read the Gram matrix after it")
        if self._kept is not None:
            raise MeasureError("exchange_after=True: call exchange() on all processes first")
        if self._measurement is None:
            raise MeasureError("nothing was measured: run a forward and backward pass inside `with probe:`")
        return self._measurement

    def gram(self) -> Tensor:
        """Return F of the last measured step, see ``Measurement.gram``.

        Returns:
            (B, B) float64, symmetric, on the gradients' device.
        """
        return self.measurement().gram()

    def spectrum(self, rule: str = "precision") -> Spectrum:
        """Return the spectrum of F of the last measured step, see ``Measurement.spectrum``.

        Args:
            rule: ``"precision"`` or ``"paper"``.

        Returns:
            The spectrum.
        """
        start = time.perf_counter()
        spectrum = self.measurement().spectrum(rule)
        self._seconds += time.perf_counter() - start
        return spectrum

    def _new_sink(self) -> GramSink:
        device = next((p.device for p in self._model.parameters() if p.requires_grad), torch.device("cpu"))
        memory, shared = self._max_memory, {"group": self._process_group, "mean": self._mean}
        sink: GramSink
        if self._sketch is not None:
            rows, seed = self._sketch
            sink = SketchedGram(device, memory, rows=rows, seed=seed, **shared)
        elif self.exchanges_after:
            return SpilledGram(device, memory, **shared)
        elif self._bn == "exact" or self._micro_batches > 1:
            sink = SpilledGram(device, memory)
        elif self._process_group is not None:
            return ExchangedGram(device, memory, **shared)
        else:
            sink = StreamingGram(device, memory, apart=self._by_module)
        sink.taker = self._hand_on
        return sink

    def _hand_on(self, name: str, uses: list[Jacobian]) -> None:
        if self.taker is not None:
            self.taker(name, uses)

    def _measured(self, notes: Notes, sink: GramSink, problem: Exception | None) -> Measurement:
        try:
            sink.agree(problem)
            return self._put_together(notes, sink, sink.result())
        except Exception as error:
            found = error if isinstance(error, MeasureError) else caused("the Gram matrix", error)
            return Measurement(notes.bn, notes.gradient_eps, found)

    def _put_together(self, notes: Notes, sink: GramSink, gram: Tensor) -> Measurement:
        note_low_precision(notes.gradient_eps, gram.device.type)
        with torch.no_grad():
            local = sink.local()
            local = gram if local is None else local
            starts = itertools.accumulate(notes.batches, initial=0)
            passes = zip(starts, notes.batches, notes.checks, sink.passes or itertools.repeat(None), strict=False)
            checks = [
                SumCheck.of(batch, expected, sums, local[start : start + batch, start : start + batch])
                for start, batch, expected, sums in passes
            ]
            scaled = not self._mean or self._process_group is not None
            scale: Tensor | float = 1.0 if scaled else float(sum(notes.batches))
            if self._grad_scaler is not None:
                scale = scale / self._grad_scaler.scale(torch.ones((), dtype=torch.float64, device=gram.device))
        return Measurement(
            notes.bn,
            notes.gradient_eps,
            None,
            gram=gram,
            scale=scale,
            blocks=sink.by_module(),
            checks=checks,
            sketch_rows=0 if self._sketch is None else self._sketch[0],
            by_sample=notes.by_sample,
        )


def _checked_sketch(measure: str, rows: int, seed: int) -> tuple[int, int] | None:
    """Return rows and seed of a sketch; None where F is to be exact."""
    for name, number, least in (("sketch_rows", rows, 2), ("sketch_seed", seed, 0)):
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise MeasureError(f"{name}: expected a whole number of at least {least}, got {number!r}")
    return (rows, seed) if measure == "sketched" else None


def _refuse_unknown(given: Iterable[str]) -> None:
    """Refuse arguments that there are no more, or never were."""
    known = inspect.signature(FisherProbe).parameters.keys() - {"moved"}
    for name in given:
        if name == "reuse_weight_gradient":
            raise MeasureError(
                "FisherProbe: 'reuse_weight_gradient' is now gradients=\"rows\", with loss.backward() in place of"
                " probe.backward(loss)"
            )
        raise MeasureError(f"FisherProbe: no argument is called {name!r}; {near_names(name, known)}")


def _failure(call: Callable[[], None]) -> Exception | None:
    """Return what a call raises; its traceback then holds no frame that holds it."""
    try:
        call()
    except Exception as error:
        return error
    return None


def _names(model: nn.Module, parameters: Iterable[Tensor]) -> frozenset[str]:
    """Return the names of some parameters of a model."""
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    given = list(parameters)
    if not given:
        raise MeasureError("params: expected parameters of the model, got none")
    for parameter in given:
        if id(parameter) not in known:
            what = f"one of shape {tuple(parameter.shape)}" if isinstance(parameter, Tensor) else repr(parameter)
            raise MeasureError(f"params: {what} is no parameter of the model")
    return frozenset(known[id(parameter)] for parameter in given)


def _original(model: nn.Module) -> nn.Module:
    """Return the module inside the wrappers that training may put around it."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        elif isinstance(model, nn.DataParallel):
            raise MeasureError("DataParallel splits the batch over replicas: use DistributedDataParallel")
        else:
            return model

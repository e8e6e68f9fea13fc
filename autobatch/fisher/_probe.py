"""The public entry to measuring: a context manager around one forward and backward pass."""

import time
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

from autobatch._errors import MeasureError, near_names
from autobatch.fisher._capture import Capture
from autobatch.fisher._spectrum import Spectrum, spectrum_of

LOSS_REDUCTIONS = ("mean", "sum")
BN_MEANINGS = ("rows", "eval")


class FisherProbe:
    """Measures the Gram matrix F = JᵀJ of one step's per-sample gradients, while the step runs as ever.

    Column i of J is sample i's row of the batch gradient of the summed loss (paper, eqs. 5 and 6)::

        probe = FisherProbe(model)
        with probe:
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
        spectrum = probe.spectrum()

    B is the size of dimension 0 of the first tensor that ``model(...)`` is called with; every tensor argument of that
    leading size carries the batch. The body holds one call of the model and one backward pass. Weights, gradients and
    random numbers are exactly those of the same step without the probe. Entering starts afresh, so one probe serves
    many steps; not entering it costs nothing.

    A problem, such as a trainable parameter in a layer that cannot be measured, never disturbs the body: it is kept
    and raised as :class:`autobatch.MeasureError` by :meth:`gram` and :meth:`spectrum`. Frozen parameters are left out.

    Args:
        model: the model, unmodified; its parameters with ``requires_grad`` are measured.
        loss_reduction: how the loss reduces over the batch, ``"mean"`` or ``"sum"``; undone in F.
        bn: meaning of a column of J under BatchNorm: ``"rows"`` (each layer's output-gradient row times its input row,
            with batch statistics in train mode: the paper's), or ``"eval"`` (running statistics only: a BatchNorm layer
            in train mode is an error then).

    Raises:
        MeasureError: where an argument is not one of those.
    """

    def __init__(self, model: nn.Module, loss_reduction: str = "mean", bn: str = "rows") -> None:
        if loss_reduction not in LOSS_REDUCTIONS:
            raise MeasureError(f"loss_reduction={loss_reduction!r}: {near_names(loss_reduction, LOSS_REDUCTIONS)}")
        if bn == "exact":
            raise MeasureError(
                'bn="exact" (through the batch statistics, B backward passes) is not available: use "rows" or "eval"'
            )
        if bn not in BN_MEANINGS:
            raise MeasureError(f"bn={bn!r}: {near_names(bn, BN_MEANINGS)}")
        self._model = model
        self._loss_reduction = loss_reduction
        self._bn = bn
        self._capture: Capture | None = None
        self._active = False
        self._gram: Tensor | None = None
        self._seconds = 0.0

    def __enter__(self) -> Self:
        if self._active:
            raise MeasureError("this probe is already entered: leave its body first")
        start = time.perf_counter()
        self._gram = None
        self._seconds = 0.0
        self._capture = Capture(self._model, self._bn)
        self._active = True
        self._capture.__enter__()  # type: ignore[no-untyped-call]
        self._seconds += time.perf_counter() - start
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._capture is not None
        self._active = False
        self._capture.__exit__(kind, error, traceback)  # type: ignore[no-untyped-call]
        self._capture.close()
        if error is not None:
            self._capture = None

    @property
    def seconds(self) -> float:
        """Wall-clock seconds that measuring the last step took: hooks, Gram products and eigenvalues."""
        return self._seconds + (self._capture.seconds if self._capture is not None else 0.0)

    def gram(self) -> Tensor:
        """Return F of the last measured step.

        Returns:
            (B, B) float64, symmetric, on the gradients' device. Entry (i, j) is the inner product of the gradients of
            samples i and j, of the summed loss.

        Raises:
            MeasureError: where the body has not ended, or something in it could not be measured.
        """
        if self._active:
            raise MeasureError("the body has not ended yet: read the Gram matrix after it")
        if self._capture is None:
            raise MeasureError("nothing was measured: run a forward and backward pass inside `with probe:`")
        if self._gram is None:
            start = time.perf_counter()
            with torch.no_grad():
                gram = self._capture.finish()
                scale = self._capture.batch if self._loss_reduction == "mean" else 1
                self._gram = gram * float(scale) ** 2
            self._seconds += time.perf_counter() - start
        return self._gram

    def spectrum(self, rule: str = "precision") -> Spectrum:
        """Return the spectrum of F of the last measured step.

        Args:
            rule: what counts as a non-zero eigenvalue. ``"precision"``: sigma > B * eps * sigma_max, eps of the
                gradients' dtype; ``"paper"``: all but those <= 0.

        Returns:
            The spectrum. Fails as :meth:`gram` does, and where the rule is not known or the gradients are not finite.
        """
        gram = self.gram()
        assert self._capture is not None
        start = time.perf_counter()
        spectrum = spectrum_of(gram, self._capture.gradient_eps, rule, self._capture.bn)
        self._seconds += time.perf_counter() - start
        return spectrum

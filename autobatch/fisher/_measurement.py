"""What one measured step leaves behind: its Gram matrix, held until somebody wants the spectrum."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from autobatch._errors import MeasureError
from autobatch._show import Shown
from autobatch.fisher._spectrum import Spectrum, spectrum_of
from autobatch.fisher._sums import SumCheck


class Measurement(Shown):
    """One step's Gram matrix, not yet checked or decomposed, so that taking it never waits for the device.

    Args:
        bn: what a column of J means under BatchNorm.
        gradient_eps: machine epsilon of the gradients' arithmetic.
        problem: why the step could not be measured; raised by ``gram`` and ``spectrum``.
        gram: F, not yet scaled to the summed loss.
        scale: what a row of J must be multiplied by.
        blocks: each module's own F, like ``gram``, where that was asked for.
        checks: for each pass of the step, what its per-sample gradients must add up to.
        sketch_rows: rows of the sketch that F is made of; 0 where it is exact.
        by_sample: whether some of it took one backward pass for each sample, which is slow.

    Attributes:
        unchecked: after ``gram``, the parameters whose gradients are so much smaller than those of single samples that
            round-off hides whether they add up, as with most parameters in bfloat16.
    """

    def __init__(
        self,
        bn: str,
        gradient_eps: float,
        problem: MeasureError | None,
        *,
        gram: Tensor | None = None,
        scale: Tensor | float = 1.0,
        blocks: Mapping[str, Tensor] | None = None,
        checks: Sequence[SumCheck] = (),
        sketch_rows: int = 0,
        by_sample: bool = False,
    ) -> None:
        self.bn = bn
        self.gradient_eps = gradient_eps
        self.problem = problem
        self._gram = gram
        self._scale = scale
        self._blocks = blocks
        self._checks = checks
        self.sketch_rows = sketch_rows
        self.by_sample = by_sample
        self.unchecked: tuple[str, ...] = ()
        self._checked: Tensor | None = None

    def __repr__(self) -> str:
        gram = self._gram if self._checked is None else self._checked
        what = "not measured" if self.problem is not None or gram is None else f"{len(gram)} samples"
        return f"<Measurement: {what}>"

    def gram(self) -> Tensor:
        """Return F.

        Returns:
            (B, B) float64, symmetric, on the gradients' device. Entry (i, j) is the inner product of the gradients of
            samples i and j, of the summed loss.

        Raises:
            MeasureError: where something in the step could not be measured.
        """
        if self.problem is not None:
            raise self.problem
        if self._checked is None:
            assert self._gram is not None
            # Holds 1ᵀF1 = ||gradient||² against the gradients that the parameters really got: finds uses not captured.
            for check in self._checks:
                finite, void = check.run()
                if not finite:  # a GradScaler's overflow: the step is skipped, and says nothing
                    self._scale = math.nan
                    break
                self.unchecked += tuple(name for name in void if name not in self.unchecked)
            self._checked, self._gram = self._gram * self._scale**2, None
        return self._checked

    def norms(self) -> Tensor:
        """Return the norm of each sample's gradient, of the summed loss.

        Returns:
            (B,) float64, on the gradients' device. Fails as ``gram`` does.
        """
        return self.gram().diagonal().clamp(min=0.0).sqrt()

    def by_module(self) -> dict[str, Tensor]:
        """Return each module's own part of F, from the parameters that the module itself holds.

        Returns:
            (B, B) float64 by the module's dotted name, ``""`` for the model's own parameters; they add up to F. A
            parameter of several modules counts in the first. Fails as ``gram`` does.

        Raises:
            MeasureError: the probe was not made with ``by_module=True``.
        """
        self.gram()
        if self._blocks is None:
            raise MeasureError("by_module: make the probe with FisherProbe(..., by_module=True)")
        return {module: block * self._scale**2 for module, block in self._blocks.items()}

    def spectrum(self, rule: str = "precision") -> Spectrum:
        """Return the spectrum of F.

        Args:
            rule: what counts as a non-zero eigenvalue. ``"precision"``: sigma > B * eps * sigma_max, eps of the
                gradients' arithmetic; ``"paper"``: all but those <= 0.

        Returns:
            The spectrum. Fails as ``gram`` does, and where the rule is not known or the gradients are not finite.
        """
        return replace(spectrum_of(self.gram(), self.gradient_eps, rule, self.bn), sketch_rows=self.sketch_rows)


def caused(what: str, error: Exception) -> MeasureError:
    """Return the problem that an unforeseen error, such as running out of memory, makes of a step; training goes on."""
    problem = MeasureError(f"{what}: {type(error).__name__}: {error}")
    problem.__cause__ = error
    return problem

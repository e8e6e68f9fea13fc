"""Moments of the per-sample gradients, read off the Gram matrix of a measured step.

Entry (i, j) of F is the inner product of the gradients g_i and g_j of two samples, so that sums over F are all that
rules for the batch size ask of the gradients: their norms, the norm of their mean, what they have along that mean, and
how far two halves of the batch agree. No further pass is needed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from torch import Tensor

_FIGURES = ("sample_squared_norm", "mean_squared_norm", "along_squared_norm", "half_cosine")


@dataclass(frozen=True)
class GradientMoments:
    """What sampled steps of one batch size tell of the gradients: means over the steps; NaN where nothing is known.

    With B the batch size and g the mean gradient of a step's batch:

    Attributes:
        batch_size: examples in each of the steps' batches, B.
        samples: how many steps were sampled.
        sample_squared_norm: mean of ‖g_i‖² over the samples of the batch, tr F / B.
        mean_squared_norm: ‖g‖², 1ᵀF1 / B².
        along_squared_norm: mean over the samples of the squared length of g_i along g, (g_iᵀg)² / ‖g‖², that is
            ‖F1‖² / (B 1ᵀF1); 0 where g is 0.
        half_cosine: cosine of the angle between the mean gradients of the batch's two halves.
    """

    batch_size: int
    samples: int
    sample_squared_norm: float
    mean_squared_norm: float
    along_squared_norm: float
    half_cosine: float

    @classmethod
    def of_sums(
        cls,
        batch_size: int,
        trace: float,
        squared_sum: float,
        *,
        squared_rows: float = math.nan,
        half_cosine: float = math.nan,
    ) -> Self:
        """Return the moments of one step from sums over its Gram matrix.

        Args:
            batch_size: B.
            trace: tr F.
            squared_sum: 1ᵀF1, the squared norm of the summed gradient.
            squared_rows: ‖F1‖².
            half_cosine: what ``half_cosine`` returned.
        """
        norm, mean_norm = trace / batch_size, squared_sum / batch_size**2
        along = squared_rows / (batch_size * squared_sum) if squared_sum > 0.0 else 0.0 * squared_rows
        # Where the gradients cancel to round-off, so do both sums; the truth lies between these two.
        bounded = min(max(along, mean_norm), norm) if math.isfinite(along) else math.nan
        return cls(batch_size, 1, norm, mean_norm, bounded, half_cosine)

    @classmethod
    def of_gram(cls, gram: Tensor) -> Self:
        """Return the moments of one step from F, (B, B) float64, of the summed loss."""
        return cls.of_sums(
            len(gram),
            float(gram.diagonal().sum()),
            float(gram.sum()),
            squared_rows=squared_rows(gram),
            half_cosine=half_cosine(gram),
        )

    @classmethod
    def mean(cls, steps: Sequence[Self]) -> Self:
        """Return the means over steps of one batch size, at least one; a cosine that is not known is left out."""
        *norms, cosines = ([getattr(step, name) for step in steps] for name in _FIGURES)
        means = [_mean(figures) for figures in (*norms, [cosine for cosine in cosines if math.isfinite(cosine)])]
        return cls(steps[0].batch_size, sum(step.samples for step in steps), *means)

    @property
    def variance(self) -> float:
        """Trace of Σ, the covariance of a single sample's gradient, without bias; NaN for B = 1."""
        return self._unbiased(self.sample_squared_norm - self.mean_squared_norm)

    @property
    def variance_along(self) -> float:
        """The part of the variance that lies along the mean gradient; NaN for B = 1."""
        return self._unbiased(self.along_squared_norm - self.mean_squared_norm)

    @property
    def variance_across(self) -> float:
        """The part of the variance that lies across the mean gradient; NaN for B = 1."""
        return self._unbiased(self.sample_squared_norm - self.along_squared_norm)

    @property
    def squared_signal(self) -> float:
        """‖G‖², G the true gradient, without bias, and so negative at times; NaN for B = 1."""
        return self.mean_squared_norm - self.variance / self.batch_size

    @property
    def noise_scale(self) -> float:
        """The simple noise scale tr Σ / ‖G‖²; infinite where the noise hides the gradient, NaN for B = 1.

        McCandlish et al. 2018, arXiv 1812.06162, appendix A.1, with B_small = 1 and B_big = B.
        """
        variance, signal = self.variance, self.squared_signal
        if signal > 0.0:
            return variance / signal
        return math.inf if variance > 0.0 else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return the moments as a dictionary of plain values; ``from_dict`` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Return what ``to_dict`` wrote; a figure that JSON stored as null becomes NaN.

        Raises:
            ValueError: a count is not positive.
        """
        batch_size, samples = int(state["batch_size"]), int(state["samples"])
        if batch_size < 1 or samples < 1:
            raise ValueError(f"moments of {samples} samples at batch size {batch_size}")
        figures = (math.nan if state[name] is None else float(state[name]) for name in _FIGURES)
        return cls(batch_size, samples, *figures)

    def _unbiased(self, variance: float) -> float:
        if self.batch_size < 2:
            return math.nan
        # Not max(0.0, ...), which would hide a NaN.
        return variance * self.batch_size / (self.batch_size - 1) if not variance < 0.0 else 0.0


def squared_rows(gram: Tensor) -> float:
    """Return ‖F1‖² of F, (B, B) float64: the sum over the samples of (g_iᵀ Σ g_j)²."""
    return float(gram.sum(dim=1).square().sum())


def half_cosine(gram: Tensor) -> float:
    """Return the cosine of the angle between the mean gradients of a batch's two halves.

    Args:
        gram: F, (B, B) float64; of an odd number of samples the last is left out.

    Returns:
        The cosine, in [-1, 1]; NaN where a half has no gradient.
    """
    half = len(gram) // 2
    first, second = slice(0, half), slice(half, 2 * half)
    product = float(gram[first, first].sum()) * float(gram[second, second].sum())
    if not product > 0.0:
        return math.nan
    return max(-1.0, min(1.0, float(gram[first, second].sum()) / math.sqrt(product)))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan

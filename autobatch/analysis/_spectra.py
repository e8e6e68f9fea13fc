"""What is told of a spectrum: of a layer's block by the dual matrix of its samples, or by its Kronecker factors."""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from autobatch.optim._moments import Layer

_LEADING = 32
_ROUND_OFF = 1e-12
"""Of the largest eigenvalue, what counts as zero."""


@dataclass(frozen=True)
class BlockSpectrum:
    """A spectrum's figures.

    Attributes:
        largest: its largest eigenvalue.
        effective_rank: trace² / ‖matrix‖²; NaN of zero.
        leading: its largest eigenvalues, descending, without those that are zero.
    """

    largest: float
    effective_rank: float
    leading: tuple[float, ...]

    @classmethod
    def unknown(cls) -> Self:
        """Return the figures of what has no spectrum here."""
        return cls(math.nan, math.nan, ())

    @classmethod
    def of_samples(cls, gram: Tensor) -> Self:
        """Return the figures of a layer's block, whose non-zero eigenvalues are those of its samples' dual matrix.

        Args:
            gram: (N, N) inner products of N samples' gradients.

        Returns:
            The figures of F = J Jᵀ / N, exact.
        """
        eigenvalues = torch.linalg.eigvalsh(gram.double() / len(gram))
        return cls._of(eigenvalues, eigenvalues.sum(), eigenvalues.square().sum())

    @classmethod
    def of_factors(cls, layer: Layer) -> Self:
        """Return the figures of K-FAC's A ⊗ B, whose eigenvalues are the products of theirs.

        A is the mean of a aᵀ over positions and samples, B the mean over samples of the sum of g gᵀ over positions
        (Grosse and Martens 2016, arXiv 1602.01407).

        Args:
            layer: its moments, with gradients of each sample's own loss.

        Returns:
            The figures of A ⊗ B, which is not F.
        """
        inputs = torch.linalg.eigvalsh(layer.inputs.total().double() / layer.inputs.count).clamp(min=0)
        outputs = torch.linalg.eigvalsh(layer.gradients.total().double() / layer.samples).clamp(min=0)
        # The 32 largest products are among those of the 32 largest of each.
        products = torch.outer(inputs[-_LEADING:], outputs[-_LEADING:]).flatten().sort().values
        squares = inputs.square().sum() * outputs.square().sum()
        return cls._of(products, inputs.sum() * outputs.sum(), squares)

    @classmethod
    def _of(cls, ascending: Tensor, trace: Tensor, squares: Tensor) -> Self:
        """Return the figures of a spectrum with the given largest eigenvalues, sum, and sum of squares."""
        largest = float(ascending[-1])
        leading = [value for value in ascending[-_LEADING:].flip(0).tolist() if value > _ROUND_OFF * largest]
        return cls(largest, float(trace.square() / squares), tuple(leading))  # 0 / 0 is NaN

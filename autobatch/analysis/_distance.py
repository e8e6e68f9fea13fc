"""How far a layer's Kronecker product is from the block that it stands for."""

import math

import torch
from torch import Tensor

from autobatch.fisher import Jacobian, factors_of
from autobatch.optim._moments import Layer

_ELEMENTS = 1 << 22
"""Elements of J that are formed at a time."""


@torch.no_grad()
def distance(layer: Layer, uses: list[Jacobian], gram: Tensor) -> float:
    """Return ‖A ⊗ B - F‖ / ‖F‖, in Frobenius norms, of the samples that the layer has seen.

    ‖F‖ is that of the dual matrix, ‖A ⊗ B‖ = ‖A‖ ‖B‖, and ⟨A ⊗ B, F⟩ is the mean over samples of ⟨J, B J A⟩, where J
    is a sample's gradient as a matrix.

    Args:
        layer: its moments, with gradients of each sample's own loss.
        uses: what they are of.
        gram: (N, N) inner products of the samples' gradients.

    Returns:
        The distance; NaN where F is zero.
    """
    factors = [found for use in uses if (found := factors_of(use)) is not None]
    left = torch.cat([own for own, _ in factors], dim=1).double()
    right = torch.cat([own for _, own in factors], dim=1).double()
    if layer.bias is not None:
        right = torch.cat([right, right.new_ones(*right.shape[:2], 1)], dim=2)
    inputs = layer.inputs.total().double() / layer.inputs.count
    outputs = layer.gradients.total().double() / layer.samples
    inner = 0.0
    together = max(1, _ELEMENTS // (len(inputs) * len(outputs)))
    for own, others in zip(torch.split(left, together), torch.split(right, together), strict=True):
        jacobians = own.mT @ others
        inner += float((jacobians * (outputs @ jacobians @ inputs)).sum())
    size = float((gram / len(gram)).norm())
    product = float(inputs.norm() * outputs.norm())
    squared = size**2 - 2.0 * inner / len(gram) + product**2
    return math.sqrt(max(0.0, squared)) / size if size else math.nan

"""Per-sample gradients of one use of a parameter, produced block by block along the parameter's dimension 0."""

import torch
from torch import Tensor

from autobatch.fisher.gram._gram import SINGLE_SAMPLES, GramAccumulator, Jacobian, add_blocks
from autobatch.fisher.gram._native import native


def products_are_cheaper(batch: int, positions: int, rows: int, width: int, *, summed: bool = False) -> bool:
    """Return whether the pairwise route, T² (R + W) for each pair of samples, beats forming J and multiplying it.

    It is a question of time in float64, while large J are multiplied in float32. Of B samples, T positions, R rows and
    W columns; where the sum of J is wanted too, it costs as much as forming J where J is not formed.
    """
    pair = 0.5 if batch >= SINGLE_SAMPLES else 1.0
    formed = 0.0 if summed else positions / batch
    return positions * positions * (rows + width) < rows * width * (formed + pair)


class DenseJacobian(Jacobian):
    """Small per-sample gradients (B, rows, ...) that are simply held: biases, norm layers' scales."""

    def __init__(self, values: Tensor) -> None:
        self._values = values.reshape(values.shape[0], values.shape[1], -1)
        self.rows = values.shape[1]
        self.width = self._values.shape[2]

    def block(self, lo: int, hi: int) -> Tensor:
        return self._values[:, lo:hi].flatten(1)

    def _multiply(self, gram: GramAccumulator) -> None:
        gram.add(self._values.flatten(1))

    def total(self, gradient: Tensor) -> None:
        torch.sum(self._values.flatten(1), 0, out=gradient.view(-1))


class OuterJacobian(Jacobian):
    """A matrix product's weight: J_b = sum over positions t of left[b, t] ⊗ right[b, t].

    Args:
        left: (B, T, rows): the output gradient of a Linear layer, whose weight is (out, in).
        right: (B, T, width): its input.
        turned: whether they are the other way round, as of a weight (in, out).
    """

    def __init__(self, left: Tensor, right: Tensor, *, turned: bool = False) -> None:
        self.turned = turned
        self._left = left
        self._right = right
        self.rows = left.shape[2]
        self.width = right.shape[2]

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return (B, T, rows) and (B, T, width), whose outer products over T are J."""
        return self._left, self._right

    def block(self, lo: int, hi: int) -> Tensor:
        return _outer(self._left[:, :, lo:hi], self._right).flatten(1)

    def add_to(self, gram: GramAccumulator, gradient: Tensor | None = None) -> None:
        batch, positions = self._left.shape[:2]
        if products_are_cheaper(batch, positions, self.rows, self.width, summed=gradient is not None):
            gram.add_products(self._left, self._right)
            if gradient is not None:
                self.total(gradient)
            return
        # Products of the narrow factor by the wide one take a tenth less; F does not depend on the order of columns.
        one, other = (self._left, self._right) if self.rows <= self.width else (self._right, self._left)
        sums = None if gradient is None else torch.empty_like(gradient).view(1, -1)
        ones = one.new_ones(1, batch)
        width = other.shape[2]
        for part in gram.chunks(one.shape[2], width, one.element_size()):
            block = _outer(one[:, :, part], other)
            gram.add(block)
            if sums is not None:
                torch.mm(ones, block.flatten(1), out=sums[:, part.start * width : part.stop * width])
        if gradient is not None and sums is not None:
            total = sums.view(one.shape[2], width)
            gradient.view(self.rows, self.width).copy_(total if one is self._left else total.T)

    def total(self, gradient: Tensor) -> None:
        torch.mm(self._left.flatten(0, 1).T, self._right.flatten(0, 1), out=gradient.view(self.rows, self.width))


def joined(uses: list[Jacobian]) -> list[Jacobian]:
    """Return the uses of a parameter, matrix products among them as one with the positions of all.

    J of a cell's weight, which is used in every step, is then made in one product.
    """
    found = [use for use in uses if not isinstance(use, OuterJacobian)]
    for turned in (False, True):
        alike = [use.factors() for use in uses if isinstance(use, OuterJacobian) and use.turned is turned]
        if alike:
            left, right = (
                factors[0] if len(alike) == 1 else torch.cat(factors, 1) for factors in zip(*alike, strict=True)
            )
            found.append(OuterJacobian(left, right, turned=turned))
    return found


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """Return the sums over positions of outer products of (B, T, rows) and (B, T, width), (B, rows, width)."""
    kernels = native(left, right)
    product = None if kernels is None else kernels.outer(left, right)
    return torch.bmm(left.mT, right) if product is None else product


class EmbeddingJacobian(Jacobian):
    """An embedding table (rows, width): each sample's output gradients, added up by index.

    Args:
        indices: (B, T) int64.
        g: (B, T, width) output gradient, zero where an index is the padding index.
        rows: size of the vocabulary.
    """

    def __init__(self, indices: Tensor, g: Tensor, rows: int) -> None:
        self._indices = indices
        self._g = g
        self.rows = rows
        self.width = g.shape[2]

    def block(self, lo: int, hi: int) -> Tensor:
        batch = len(self._indices)
        inside = (self._indices >= lo) & (self._indices < hi)
        sample, position = inside.nonzero(as_tuple=True)
        slot = sample * (hi - lo) + self._indices[sample, position] - lo
        out = self._g.new_zeros(batch * (hi - lo), self.width)
        out.index_add_(0, slot, self._g[sample, position])
        return out.view(batch, -1)

    def _multiply(self, gram: GramAccumulator) -> None:
        used, compact = torch.unique(self._indices, return_inverse=True)
        add_blocks([EmbeddingJacobian(compact, self._g, len(used))], gram)

    def total(self, gradient: Tensor) -> None:
        gradient.zero_().view(self.rows, self.width).index_add_(0, self._indices.flatten(), self._g.flatten(0, 1))


class BagJacobian(EmbeddingJacobian):
    """An embedding table whose rows are added up to one vector for each sample: J_b = counts[b] ⊗ g[b].

    Args:
        indices: (B, T) int64.
        shares: (B, T), how often each counts: 1, its weight, or 1 / T of a mean.
        g: (B, width) output gradient.
        rows: size of the vocabulary.
    """

    def __init__(self, indices: Tensor, shares: Tensor, g: Tensor, rows: int) -> None:
        super().__init__(indices, shares.unsqueeze(2) * g.unsqueeze(1), rows)
        self._shares = shares
        self._sum = g

    def _multiply(self, gram: GramAccumulator) -> None:
        used, compact = torch.unique(self._indices, return_inverse=True)
        if len(used) * len(compact) * self._sum.element_size() > gram.max_memory // 4:
            super()._multiply(gram)
            return
        counts = self._sum.new_zeros(len(compact), len(used)).scatter_add_(1, compact, self._shares)
        gram.add_products(counts.unsqueeze(1), self._sum.unsqueeze(1))

"""Per-sample gradients of one use of a parameter, produced block by block along the parameter's dimension 0."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autobatch.fisher._gram import GramAccumulator, Jacobian, add_blocks

__all__ = ["DenseJacobian", "EmbeddingJacobian", "Jacobian", "OuterJacobian", "add_blocks", "products_are_cheaper"]

# Elements of unfolded input that are made at a time (4 MiB in float32: it stays in a core's cache, which makes
# unfolding twice as fast as in one piece), and that may be kept while the blocks of one parameter are made.
_UNFOLD_ELEMENTS = 1 << 20
_KEEP_ELEMENTS = 1 << 24


def products_are_cheaper(batch: int, positions: int, rows: int, width: int) -> bool:
    """Whether the pairwise route, T² (R + W) for each pair of samples, beats forming J and multiplying it.

    Args:
        batch: B.
        positions: T.
        rows: R.
        width: W.

    Returns:
        True where pairwise products need fewer multiplications.
    """
    return positions * positions * (rows + width) < rows * width * (positions / batch + 1)


class DenseJacobian:
    """Small per-sample gradients that are simply held: biases, norm layers' scales.

    Args:
        values: (B, rows, ...).
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values.reshape(values.shape[0], values.shape[1], -1)
        self.rows = values.shape[1]
        self.width = self._values.shape[2]

    def block(self, lo: int, hi: int) -> Tensor:
        """Return (B, (hi - lo) * width)."""
        return self._values[:, lo:hi].flatten(1)

    def add_to(self, gram: GramAccumulator, gradient: Tensor | None = None) -> None:
        """Add this use's Gram matrix; fill ``gradient`` with the sum of J over samples."""
        add_blocks([self], gram, gradient)


class OuterJacobian:
    """A matrix product's weight: J_b = sum over positions t of left[b, t] ⊗ right[b, t].

    Args:
        left: (B, T, rows): the output gradient of a Linear layer, whose weight is (out, in).
        right: (B, T, width): its input.
    """

    def __init__(self, left: Tensor, right: Tensor) -> None:
        self._left = left
        self._right = right
        self.rows = left.shape[2]
        self.width = right.shape[2]

    def block(self, lo: int, hi: int) -> Tensor:
        """Return (B, (hi - lo) * width)."""
        return torch.bmm(self._left[:, :, lo:hi].transpose(1, 2), self._right).flatten(1)

    def add_to(self, gram: GramAccumulator, gradient: Tensor | None = None) -> None:
        """Add this use's Gram matrix; fill ``gradient`` with the sum of J over samples."""
        batch, positions = self._left.shape[:2]
        if products_are_cheaper(batch, positions, self.rows, self.width):
            gram.add_products(self._left, self._right)
        else:
            add_blocks([self], gram, gradient)


class ConvolutionJacobian:
    """A convolution's weight (out, in / groups, kh, kw): unfold the input, then a matrix product for each sample.

    Args:
        x: (B * r, in, H, W) padded input, r consecutive rows of one sample each.
        g: (B * r, out, H', W') output gradient.
        batch: B.
        kernel: (kh, kw).
        stride: (sh, sw).
        dilation: (dh, dw).
        groups: number of groups.
    """

    def __init__(
        self,
        x: Tensor,
        g: Tensor,
        *,
        batch: int,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> None:
        self._x = x
        self._g = g.flatten(2)
        self._batch = batch
        self._kernel = kernel
        self._stride = stride
        self._dilation = dilation
        self._groups = groups
        self._kept: Tensor | None = None
        self.rows = g.shape[1]
        self.width = x.shape[1] // groups * kernel[0] * kernel[1]

    def block(self, lo: int, hi: int) -> Tensor:
        """Return (B, (hi - lo) * width)."""
        # Whole groups only, cut to size afterwards: a slice of channels may begin and end within a group.
        per_group = self.rows // self._groups
        first, last = lo // per_group, -(-hi // per_group)
        cut = slice(lo, hi) if self._groups == 1 else slice(first * per_group, last * per_group)
        repeats = len(self._x) // self._batch
        size = max(1, _UNFOLD_ELEMENTS // (repeats * self.width * self._groups * self._g.shape[2]))
        out = self._g.new_empty(self._batch, cut.stop - cut.start, self.width)
        for start in range(0, self._batch, size):
            stop = min(start + size, self._batch)
            samples = slice(start * repeats, stop * repeats)
            g = self._g[samples, cut]
            g = g.reshape(len(g) * (last - first), -1, g.shape[2])
            columns = self._columns(samples)[:, first:last].flatten(0, 1)
            product = torch.bmm(g, columns.transpose(1, 2))
            out[start:stop] = product.view(stop - start, repeats, -1, self.width).sum(1)
        offset = cut.start
        return out[:, lo - offset : hi - offset].flatten(1)

    def add_to(self, gram: GramAccumulator, gradient: Tensor | None = None) -> None:
        """Add this use's Gram matrix; fill ``gradient`` with the sum of J over samples."""
        positions = self._g.shape[2] * (len(self._x) // self._batch)
        if self._groups == 1 and products_are_cheaper(self._batch, positions, self.rows, self.width):
            columns = self._columns(slice(None))[:, 0]
            gram.add_products(
                self._g.transpose(1, 2).reshape(self._batch, positions, -1),
                columns.transpose(1, 2).reshape(self._batch, positions, -1),
            )
        else:
            if len(self._x) * self._groups * self.width * self._g.shape[2] <= _KEEP_ELEMENTS:
                self._keep_if_reused(gram)
            add_blocks([self], gram, gradient)
            self._kept = None

    def _keep_if_reused(self, gram: GramAccumulator) -> None:
        if self._batch * self.rows * self.width > gram.block_elements:
            self._kept = self._columns(slice(None))

    def _columns(self, samples: slice) -> Tensor:
        """Return (n, groups, width, T): the unfolded input of some samples."""
        if self._kept is not None:
            return self._kept[samples]
        x = self._x[samples]
        columns = F.unfold(x, self._kernel, dilation=self._dilation, stride=self._stride)
        return columns.view(len(x), self._groups, self.width, -1)


class EmbeddingJacobian:
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
        """Return (B, (hi - lo) * width)."""
        batch = len(self._indices)
        inside = (self._indices >= lo) & (self._indices < hi)
        sample, position = inside.nonzero(as_tuple=True)
        slot = sample * (hi - lo) + self._indices[sample, position] - lo
        out = self._g.new_zeros(batch * (hi - lo), self.width)
        out.index_add_(0, slot, self._g[sample, position])
        return out.view(batch, -1)

    def add_to(self, gram: GramAccumulator, gradient: Tensor | None = None) -> None:
        """Add this use's Gram matrix; fill ``gradient`` with the sum of J over samples."""
        if gradient is not None:
            add_blocks([self], gram, gradient)
            return
        used, compact = torch.unique(self._indices, return_inverse=True)
        add_blocks([EmbeddingJacobian(compact, self._g, len(used))], gram)

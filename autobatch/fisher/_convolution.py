"""Per-sample gradients of a convolution's weight."""

from math import prod

import torch
from torch import Tensor

from autobatch.fisher._gram import GramAccumulator, add_blocks
from autobatch.fisher._jacobians import products_are_cheaper

_UNFOLD_ELEMENTS = 1 << 20


class ConvolutionJacobian:
    """A convolution's weight (out, in / groups, *kernel), in one to three spatial dimensions.

    Args:
        x: (B * r, in, *spatial) unpadded input, r consecutive rows of one sample each; any memory format.
        g: (B * r, out, *positions) output gradient.
        batch: B.
        kernel: size of the kernel, one number for each spatial dimension.
        stride: the same for the stride.
        padding: (before, after) for each spatial dimension.
        dilation: as ``kernel``.
        groups: number of groups.
    """

    def __init__(
        self,
        x: Tensor,
        g: Tensor,
        *,
        batch: int,
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[tuple[int, int], ...],
        dilation: tuple[int, ...],
        groups: int,
    ) -> None:
        self._x = x
        self._g = g
        self._batch = batch
        self._kernel = kernel
        self._stride = stride
        self._padding = padding
        self._dilation = dilation
        self._groups = groups
        self.rows = g.shape[1]
        self.width = x.shape[1] // groups * prod(kernel)

    def block(self, lo: int, hi: int) -> Tensor:
        """Return (B, (hi - lo) * width)."""
        per_group = self.rows // self._groups
        first, last = lo // per_group, -(-hi // per_group)
        cut = slice(lo, hi) if self._groups == 1 else slice(first * per_group, last * per_group)
        repeats = len(self._x) // self._batch
        positions = prod(self._g.shape[2:])
        size = max(1, _UNFOLD_ELEMENTS // (repeats * self.width * self._groups * positions))
        out = self._g.new_empty(self._batch, cut.stop - cut.start, self.width)
        for start in range(0, self._batch, size):
            stop = min(start + size, self._batch)
            samples = slice(start * repeats, stop * repeats)
            g = self._g[samples, cut].flatten(2)
            g = g.reshape(len(g) * (last - first), -1, positions)
            columns = self._columns(samples)[:, first:last].flatten(0, 1)
            out[start:stop] = torch.bmm(g, columns.mT).view(stop - start, repeats, -1, self.width).sum(1)
        return out[:, lo - cut.start : hi - cut.start].flatten(1)

    def add_to(self, gram: GramAccumulator, gradient: Tensor | None = None) -> None:
        """Add this use's Gram matrix; fill ``gradient`` with the sum of J over samples."""
        repeats = len(self._x) // self._batch
        positions = prod(self._g.shape[2:])
        if self._groups == 1 and products_are_cheaper(self._batch, positions * repeats, self.rows, self.width):
            columns = self._columns(slice(None))[:, 0]
            gram.add_products(
                self._g.flatten(2).transpose(1, 2).reshape(self._batch, positions * repeats, -1),
                columns.transpose(1, 2).reshape(self._batch, positions * repeats, -1),
            )
        else:
            add_blocks([self], gram, gradient)

    def _columns(self, samples: slice) -> Tensor:
        """Return (n, groups, width, T): the unfolded input of some samples."""
        x = self._x[samples]
        padded = [size + sum(sides) for size, sides in zip(x.shape[2:], self._padding, strict=True)]
        whole = x.new_zeros(*x.shape[:2], *padded)
        inner = whole
        for dim, ((before, _), size) in enumerate(zip(self._padding, x.shape[2:], strict=True), start=2):
            inner = inner.narrow(dim, before, size)
        inner.copy_(x)
        steps = whole.stride()[2:]
        view = whole.as_strided(
            (*x.shape[:2], *self._kernel, *self._g.shape[2:]),
            (
                *whole.stride()[:2],
                *(step * d for step, d in zip(steps, self._dilation, strict=True)),
                *(step * s for step, s in zip(steps, self._stride, strict=True)),
            ),
        )
        return view.reshape(len(x), self._groups, self.width, -1)

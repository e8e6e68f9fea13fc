"""The streaming Gram matrix: one (B, B) float64 accumulator, fed block by block."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

# Bytes that blocks of J and whatever is needed to make them may take, F itself not counted.
MAX_MEMORY = 64 << 20
# Rows of F that one product fills. Only blocks on and above the diagonal are computed.
_TILE = 64
# Columns that are gathered before they are multiplied: narrow products are bound by memory traffic on F.
_BUFFER_COLUMNS = 1024


class GramAccumulator:
    """Sums J_blockᵀ J_block over blocks of parameters into F, in float64, upper triangle only.

    Args:
        batch_size: B.
        device: where the gradients live.
        max_memory: bytes for blocks of J and for what is needed to make them, F itself not counted.
    """

    def __init__(self, batch_size: int, device: torch.device, max_memory: int = MAX_MEMORY) -> None:
        self.batch_size = batch_size
        self.max_memory = max_memory
        self.block_elements = block_elements = max(1, max_memory // 16)
        self._upper = torch.zeros(batch_size, batch_size, dtype=torch.float64, device=device)
        columns = max(1, min(_BUFFER_COLUMNS, block_elements // batch_size))
        self._buffer = torch.empty(batch_size, columns, dtype=torch.float64, device=device)
        self._filled = 0

    def chunks(self, rows: int, width: int) -> Iterator[tuple[int, int]]:
        """Split a parameter's dimension 0 so that each block of J keeps within ``block_elements``.

        Args:
            rows: size of dimension 0 of the parameter.
            width: elements of one of its rows.

        Yields:
            (lo, hi) bounds.
        """
        size = max(1, self.block_elements // max(1, self.batch_size * width))
        for lo in range(0, rows, size):
            yield lo, min(lo + size, rows)

    def add(self, block: Tensor) -> None:
        """Add the Gram matrix of one block.

        Args:
            block: (B, ...) per-sample gradients of some parameter elements.
        """
        columns = block.reshape(self.batch_size, -1)
        done = 0
        while done < columns.shape[1]:
            taken = min(columns.shape[1] - done, self._buffer.shape[1] - self._filled)
            self._buffer[:, self._filled : self._filled + taken].copy_(columns[:, done : done + taken])
            self._filled += taken
            done += taken
            if self._filled == self._buffer.shape[1]:
                self._multiply()

    def add_products(self, left: Tensor, right: Tensor) -> None:
        """Add the Gram matrix of J = leftᵀ right without forming J: sum over positions of (L Lᵀ) * (R Rᵀ).

        Args:
            left: (B, T, R), one factor at each of T positions.
            right: (B, T, W), the other factor.
        """
        batch, positions = left.shape[:2]
        left = left.reshape(batch * positions, -1).to(torch.float64)
        right = right.reshape(batch * positions, -1).to(torch.float64)
        tile = max(1, min(self.block_elements // (positions * positions * batch), 256 // positions, batch))
        for lo in range(0, batch, tile):
            hi = min(lo + tile, batch)
            here = slice(lo * positions, hi * positions)
            products = left[here] @ left[lo * positions :].T
            products *= right[here] @ right[lo * positions :].T
            if positions > 1:
                # In two steps: a sum over two separate dimensions at once is six times slower.
                products = products.view(hi - lo, positions, -1).sum(1).view(hi - lo, batch - lo, positions).sum(2)
            self._upper[lo:hi, lo:] += products

    def _multiply(self) -> None:
        columns = self._buffer[:, : self._filled]
        for lo in range(0, self.batch_size, _TILE):
            hi = min(lo + _TILE, self.batch_size)
            self._upper[lo:hi, lo:].addmm_(columns[lo:hi], columns[lo:].T)
        self._filled = 0

    def result(self) -> Tensor:
        """Return F so far, (B, B) float64, exactly symmetric."""
        self._multiply()
        return self._upper.triu() + self._upper.triu(1).T


class Jacobian(Protocol):
    """Per-sample gradients of one use of a parameter of shape (rows, ...), with ``width`` elements in each row."""

    @property
    def rows(self) -> int:
        """Size of the parameter's dimension 0."""
        ...

    @property
    def width(self) -> int:
        """Elements of the parameter in one row of dimension 0."""
        ...

    def block(self, lo: int, hi: int) -> Tensor:
        """Return (B, (hi - lo) * width): the per-sample gradients of rows lo to hi, in the parameter's own order."""
        ...

    def add_to(self, gram: GramAccumulator, gradient: Tensor | None = None) -> None:
        """Add this use's Gram matrix, by whatever exact route is cheapest. Valid if no other use shares J.

        Args:
            gram: where to add.
            gradient: where given, contiguous and of the parameter's number of elements, it is filled with the sum of J
                over samples.
        """
        ...


def add_blocks(uses: list[Jacobian], gram: GramAccumulator, gradient: Tensor | None = None) -> None:
    """Add the Gram matrix of a parameter whose J is the sum over several uses.

    Args:
        uses: all uses of one parameter.
        gram: where to add.
        gradient: where given, contiguous and of the parameter's number of elements, it is filled with the sum of J
            over samples.
    """
    width = uses[0].width
    for lo, hi in gram.chunks(uses[0].rows, width):
        block = uses[0].block(lo, hi)
        for use in uses[1:]:
            block = block + use.block(lo, hi)
        gram.add(block)
        if gradient is not None:
            gradient.view(-1)[lo * width : hi * width] = block.sum(0)


class StreamingGram:
    """Adds each parameter's Gram matrix as soon as its uses are complete.

    Args:
        gram: where to add.
    """

    def __init__(self, gram: GramAccumulator) -> None:
        self._gram = gram

    def add(self, name: str, uses: list[Jacobian], gradient: Tensor | None = None) -> None:
        """Add one parameter, all uses of it; fill ``gradient`` with its gradient, the sum of J over samples."""
        if len(uses) == 1:
            uses[0].add_to(self._gram, gradient)
        else:
            add_blocks(uses, self._gram, gradient)

    def result(self) -> Tensor:
        """Return F, (B, B) float64."""
        return self._gram.result()

"""The streaming Gram matrix: one (B, B) float64 accumulator, fed block by block."""

from collections.abc import Iterator

import torch
from torch import Tensor

# Elements of one block of J. It caps the memory of measuring (32 MiB in float64, and about as much again while the
# block is made); the result does not depend on it beyond round-off.
BLOCK_ELEMENTS = 1 << 22
# Rows of F that one product fills. Only blocks on and above the diagonal are computed.
_TILE = 64
# Columns that are gathered before they are multiplied: narrow products are bound by memory traffic on F.
_BUFFER_COLUMNS = 1024


class GramAccumulator:
    """Sums J_blockᵀ J_block over blocks of parameters into F, in float64, upper triangle only.

    Args:
        batch_size: B.
        device: where the gradients live.
        block_elements: largest number of elements of one block of J.
    """

    def __init__(self, batch_size: int, device: torch.device, block_elements: int = BLOCK_ELEMENTS) -> None:
        self.batch_size = batch_size
        self.block_elements = block_elements
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

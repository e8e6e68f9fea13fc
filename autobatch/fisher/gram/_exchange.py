"""Exact Gram matrix of the batch that the processes of a group share: J is exchanged in slices of its columns."""

import zlib
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor

from autobatch._errors import MeasureError
from autobatch.fisher.gram._gram import GramAccumulator, Jacobian, summed_blocks
from autobatch.fisher.gram._group import gathered
from autobatch.fisher.gram._jacobians import OuterJacobian, products_are_cheaper
from autobatch.fisher.gram._sink import GramSink


@dataclass(eq=False)
class ExchangedGram(GramSink):
    """F of the batches of all processes of a group, rank r's samples after those of rank r - 1.

    Each rank sends slices of the columns of its rows of J and multiplies one slice, all samples of it; the products of
    all ranks add up to F. Of a matrix product at one position the two factors are sent instead, where that is cheaper,
    and each rank multiplies its own samples' by everyone's. What is sent has the gradients' dtype; products are made in
    float64. Whether a layer is used at one position must not differ between ranks.

    ``begin``, each ``add`` and ``result`` communicate: every rank of the group must make these calls in the same order,
    for the same parameters. They run in the backward pass beside the collectives of data-parallel wrappers: pass a
    group of its own, ``torch.distributed.new_group()``. A rank that stops leaves the others waiting until the group's
    timeout.
    """

    def begin(self, batch_size: int) -> None:
        """Begin the pass, on all ranks, with so many samples of this one; waits for the device to learn the others'."""
        group, device = self.group, self.device
        scale = float(batch_size) if self.mean else 1.0
        about = torch.tensor([[batch_size, scale]], dtype=torch.float64, device=device)
        about = gathered(about, [1] * dist.get_world_size(group), group)
        self._sizes = [int(size) for size in about[:, 0].tolist()]
        first = sum(self._sizes[: dist.get_rank(group)])
        self._own = slice(first, first + batch_size)
        self._scales = about[:, 1].repeat_interleave(about[:, 0].to(torch.int64))
        batch = sum(self._sizes)
        self._gram = GramAccumulator(batch, device, self.max_memory // 4)
        # This rank's rows of F, as far as they were made from factors.
        self._rows = torch.zeros(batch_size, batch, dtype=torch.float64, device=device)
        # Of a block of J, four copies at a time: made, waiting, sent and received. Of factors, as many of all ranks'.
        longest = max(self._sizes)
        self.block_columns = max(1, self.max_memory // 2 // (4 * 8 * longest))
        self._factor_columns = max(1, self.max_memory // 2 // (4 * 8 * longest * len(self._sizes)))
        self._waiting: list[Tensor] = []
        self._seen = 0
        self._local: Tensor | None = None

    def add(self, name: str, uses: list[Jacobian]) -> None:
        use = uses[0]
        self._seen = zlib.crc32(f"{name} {use.rows} {use.width}".encode(), self._seen)
        if len(uses) == 1 and isinstance(use, OuterJacobian):
            left, right = use.factors()
            if left.shape[1] == 1 and products_are_cheaper(sum(self._sizes), 1, use.rows, use.width):
                self._rows += self._products(left[:, 0]) * self._products(right[:, 0])
                return
        for block in summed_blocks(uses, self.block_columns):
            self.add_block(block)

    def add_block(self, block: Tensor) -> None:
        """Add some columns of J: this rank's rows of them, (b, n); the others' must be as wide."""
        if sum(other.shape[1] for other in self._waiting) + block.shape[1] > self.block_columns:
            self._exchange()
        self._waiting.append(block)

    def result(self) -> Tensor:
        """Return F of the scaled rows, (B, B) float64 on every rank, where B counts the samples of all ranks.

        Raises:
            MeasureError: where the ranks did not add the same parameters in the same order.
        """
        self._exchange()
        seen = torch.tensor([[self._seen]], device=self._rows.device)
        seen = gathered(seen, [1] * len(self._sizes), self.group)
        if len(set(seen.flatten().tolist())) > 1:
            raise MeasureError(
                "the processes did not use the same parameters in the same order in this step, so their per-sample"
                " gradients could not be brought together: measure each process by itself (process_group=None)"
            )
        gram = self._gram.result()
        gram[self._own] += self._rows
        dist.all_reduce(gram, group=self.group)
        gram = gram.triu() + gram.triu(1).T
        self._local = gram[self._own, self._own].clone()
        return gram * torch.outer(self._scales, self._scales)

    def local(self) -> Tensor:
        """Return the block of this rank's own samples, not scaled, (b, b) float64, after ``result``.

        The sum of its entries is the squared norm of this rank's own gradient, before any reduction over ranks.
        """
        assert self._local is not None, "call result() first"
        return self._local

    def _products(self, factor: Tensor) -> Tensor:
        """Return inner products of this rank's rows (b, n) and those of all ranks, (b, B) float64."""
        products = torch.zeros_like(self._rows)
        for lo in range(0, factor.shape[1], self._factor_columns):
            columns = factor[:, lo : lo + self._factor_columns]
            everyone = gathered(columns, self._sizes, self.group)
            products.addmm_(columns.to(torch.float64), everyone.to(torch.float64).T)
        return products

    def _exchange(self) -> None:
        """Send the waiting columns, one slice to each rank, and multiply the slice that is received."""
        if not self._waiting:
            return
        block = torch.cat(self._waiting, 1)
        self._waiting = []
        ranks = len(self._sizes)
        bounds = [block.shape[1] * rank // ranks for rank in range(ranks + 1)]
        widths = [hi - lo for lo, hi in pairwise(bounds)]
        width = widths[dist.get_rank(self.group)]
        sent = torch.cat([part.flatten() for part in block.tensor_split(bounds[1:-1], 1)])
        received = block.new_empty(sum(self._sizes) * width)
        dist.all_to_all_single(
            received,
            sent,
            [size * width for size in self._sizes],
            [block.shape[0] * width for width in widths],
            group=self.group,
        )
        self._gram.add(received.view(sum(self._sizes), width))

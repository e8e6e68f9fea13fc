"""What a sample is in the tensors that a model is called with: a row, several rows, a dimension, or an index."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autobatch._errors import MeasureError
from autobatch.fisher.following._grouping import Grouping
from autobatch.fisher.following._layout import IN_FRONT, BatchLayout, layout_along


@dataclass(frozen=True, eq=False)
class Samples:
    """How the samples lie in a model's inputs.

    Raises:
        MeasureError: where that is none of these.
    """

    # How many consecutive rows a sample has; or for each row which sample it belongs to, (n,) integers from 0.
    rows: int | Tensor | None = None
    dim: int = 0  # the dimension that the rows are along

    def __post_init__(self) -> None:
        if isinstance(self.dim, bool) or not isinstance(self.dim, int) or self.dim < 0:
            raise MeasureError(f"batch_dim={self.dim!r}: expected the dimension of the batch, from 0")
        rows = self.rows
        if isinstance(rows, Tensor):
            whole = not (rows.is_floating_point() or rows.is_complex() or rows.dtype is torch.bool)
            if rows.ndim != 1 or not whole or not len(rows):
                raise MeasureError(
                    "samples: expected (n,) integers that say which sample each row belongs to, got"
                    f" {rows.dtype} of shape {tuple(rows.shape)}"
                )
        elif rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 1):
            raise MeasureError(
                f"samples={rows!r}: expected how many rows a sample has, or an index tensor that says which sample each"
                " row belongs to"
            )

    @property
    def said(self) -> bool:
        """Whether anything but dimension 0 of the first tensor was asked for."""
        return self.rows is not None or self.dim != 0

    def of(
        self, tensors: Sequence[Tensor], lists: Sequence[Sequence[Tensor]] = ()
    ) -> tuple[int, dict[int, BatchLayout], Grouping]:
        """Find the samples in the tensors that a model is called with, in order, and in lists of tensors among them.

        Returns:
            B; the layout of each tensor that carries the batch, by id; the sample of each row.

        Raises:
            MeasureError: where no tensor has the rows.
        """
        if any(tensor.is_nested for tensor in tensors):
            raise MeasureError(
                "nested tensors cannot be followed: pad them, or join their rows and say samples=index, the sample of"
                " each row"
            )
        if isinstance(self.rows, Tensor):
            return self._by_index(self.rows, tensors, lists)
        if not tensors:
            raise MeasureError("no tensor was found in what the model is called with, so there are no samples in it")
        first = tensors[0]
        if first.ndim <= self.dim:
            raise MeasureError(
                f"the model's first tensor argument must have the batch as dimension {self.dim}, its shape is"
                f" {tuple(first.shape)}"
            )
        length, each = first.shape[self.dim], self.rows or 1
        if not length:
            raise MeasureError(f"the batch is empty: the model's first tensor has shape {tuple(first.shape)}")
        if length % each:
            raise MeasureError(
                f"samples={each}: the model's first tensor has {length} rows, which is no multiple of that"
            )
        batch = length // each
        grouping = Grouping.regular(batch, 1, each, first.device)
        return batch, self._like(tensors, length, BatchLayout(self.dim), batch), grouping

    def _by_index(
        self, index: Tensor, tensors: Sequence[Tensor], lists: Sequence[Sequence[Tensor]]
    ) -> tuple[int, dict[int, BatchLayout], Grouping]:
        if int(index.min()) < 0:
            raise MeasureError(
                "samples: the index of a sample is negative; leave rows that are no sample's out of the model"
            )
        batch, length = int(index.max()) + 1, len(index)
        joined: Sequence[Sequence[Tensor]] = ()
        if not any(tensor.ndim > self.dim and tensor.shape[self.dim] == length for tensor in tensors):
            joined = [some for some in lists if self._rows_together(some) == length]
            if not joined:
                raise MeasureError(
                    f"samples: the index has {length} rows, but no tensor that the model is called with, and no list of"
                    f" tensors together, has as many in dimension {self.dim}:"
                    f" {[tuple(tensor.shape) for tensor in tensors]}"
                )
        device = next(tensor.device for tensor in tensors)
        index = index.detach().to(device, torch.int64)
        found = self._like(tensors, length, layout_along(self.dim, index, batch), batch)
        for some in joined:
            parts = index.split_with_sizes([tensor.shape[self.dim] for tensor in some])
            found |= {
                id(tensor): BatchLayout(self.dim, grouping=Grouping(part, batch))
                for tensor, part in zip(some, parts, strict=True)
            }
        return batch, found, Grouping(index, batch)

    def _rows_together(self, some: Sequence[Tensor]) -> int:
        """Return how many rows the tensors of a list have together; 0 where one has none."""
        return sum(tensor.shape[self.dim] for tensor in some) if all(each.ndim > self.dim for each in some) else 0

    def _like(self, tensors: Sequence[Tensor], length: int, layout: BatchLayout, batch: int) -> dict[int, BatchLayout]:
        found = {}
        for tensor in tensors:
            if tensor.ndim > self.dim and tensor.shape[self.dim] == length:
                found[id(tensor)] = IN_FRONT if layout == IN_FRONT else layout
            elif self.said and tensor.ndim and tensor.shape[0] == batch:  # one row of each sample, such as its length
                found[id(tensor)] = IN_FRONT
        return found

"""What a sample is in the tensors that a model is called with: a row, several rows, a dimension, or an index."""

import itertools
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
            if rows.ndim != 1 or not _is_whole(rows) or not len(rows):
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

    def elsewhere(
        self, tensors: Sequence[Tensor], outputs: Sequence[Tensor], batch: int, *, failed: bool
    ) -> str | None:
        """Say what is wrong where the batch is in another than the first of the tensors that a model is called with.

        Then the outputs have that one's rows. Where samples are said to be rows, that tells nothing of several samples
        unless the step has ``failed`` anyway, for outputs may have other rows; but of one sample nothing is followed.

        Returns:
            What is wrong, or None.
        """
        if isinstance(self.rows, Tensor) or not tensors or (self.said and batch > 1 and not failed):
            return None
        first, *others = tensors
        length = batch * (self.rows or 1)
        sizes = self._sizes(outputs, first) if outputs else set()
        if not sizes and length == 1:  # no output tells, but arguments that all have as many rows do
            sizes = {tensor.shape[0] for tensor in others if tensor.ndim}
            sizes = sizes if len(sizes) == 1 else set()
        if not sizes or sizes & {batch, length}:
            return None
        rows = next((n for tensor in others for n in self._sizes([tensor], first) & sizes), None)
        if rows is None:
            return None
        return (
            f"the model's first tensor has {length} rows, but another argument and the output have {rows}, so what a"
            f" sample is cannot be told: give the batch as the first argument, or say samples=torch.arange({rows}), the"
            " sample of each row"
        )

    def _sizes(self, tensors: Sequence[Tensor], first: Tensor) -> set[int]:
        """Return how many rows the first tensor with any dimension may have."""
        tensor = next((tensor for tensor in tensors if tensor.ndim), None)
        if tensor is None:
            return set()
        alike = tensor.ndim > self.dim > 0 and tensor.shape[: self.dim] == first.shape[: self.dim]
        return {tensor.shape[self.dim if alike else 0], *([tensor.shape[self.dim]] if tensor.ndim > self.dim else [])}

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
            whole = (some for some in lists if all(each.ndim > self.dim for each in some))
            joined = [some for some in whole if sum(each.shape[self.dim] for each in some) == length]
            if not joined:
                raise MeasureError(
                    f"samples: the index has {length} rows, but no tensor that the model is called with, and no list of"
                    f" tensors together, has as many in dimension {self.dim}:"
                    f" {[tuple(tensor.shape) for tensor in tensors]}"
                )
        device = next(tensor.device for tensor in tensors)
        index = index.detach().to(device, torch.int64)
        if not self.dim:
            _refuse_edges(index, tensors)
        found = self._like(tensors, length, layout_along(self.dim, index, batch), batch)
        for some in joined:
            parts = index.split_with_sizes([tensor.shape[self.dim] for tensor in some])
            found |= {
                id(tensor): BatchLayout(self.dim, grouping=Grouping(part, batch))
                for tensor, part in zip(some, parts, strict=True)
            }
        return batch, found, Grouping(index, batch)

    def _like(self, tensors: Sequence[Tensor], length: int, layout: BatchLayout, batch: int) -> dict[int, BatchLayout]:
        found = {}
        for tensor in tensors:
            if tensor.ndim > self.dim and tensor.shape[self.dim] == length:
                found[id(tensor)] = IN_FRONT if layout == IN_FRONT else layout
            elif self.said and tensor.ndim and tensor.shape[0] == batch:  # one row of each sample, such as its length
                found[id(tensor)] = IN_FRONT
        return found


def _refuse_edges(index: Tensor, tensors: Sequence[Tensor]) -> None:
    """Refuse rows that may be those of edges, of which there happen to be as many as nodes.

    Whose an edge is, its two ends tell. Where they lie as the nodes do it makes no difference.

    Raises:
        MeasureError: where they do not.
    """
    length = len(index)
    whole = [each for each in tensors if length in each.shape and _is_whole(each)]
    flat = [each for each in whole if each.ndim == 1 and not torch.equal(each.to(index), index)]
    pairs = [pair for each in whole if each.ndim == 2 for pair in (each, each.T) if pair.shape == (2, length)]
    rows = [each for each in tensors if each.ndim and len(each) == length]
    rows = [each for each in rows if not any(each is one for one in whole)]
    ends = [(*pair.long(), len(rows) + len(flat)) for pair in pairs]
    ends += [(one.long(), other.long(), len(rows) + len(flat) - 2) for one, other in itertools.combinations(flat, 2)]
    for start, end, others in ends:
        if others < 2 or min(int(start.min()), int(end.min())) < 0 or max(int(start.max()), int(end.max())) >= length:
            continue
        owners = index[start]
        if not torch.equal(owners, index[end]) or torch.equal(owners, index):
            continue
        # Of each graph some: they are no numbers of something else.
        if len(torch.unique(owners)) == len(torch.unique(index)):
            raise MeasureError(
                f"samples: the index has {length} rows, and there are as many edges, which belong to samples in another"
                " order, so whether a tensor has a row for each node or for each edge cannot be told: leave this batch"
                " unmeasured, or give it another number of edges, such as one more within a node"
            )


def _is_whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype is torch.bool)

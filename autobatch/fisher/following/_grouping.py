"""Rows that belong to samples by an index, such as the nodes of a batch of graphs."""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor


class Grouping:
    """The sample of each row.

    Args:
        index: (n,) int64, from 0 to B - 1; or what makes that once it is asked for.
        batch: B.
    """

    def __init__(self, index: Tensor | Callable[[], Tensor], batch: int) -> None:
        self._index = index
        self.batch = batch

    @cached_property
    def index(self) -> Tensor:
        """(n,) int64, the sample of each row."""
        return self._index if isinstance(self._index, Tensor) else self._index()

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Grouping) and torch.equal(self.index, other.index))

    def __hash__(self) -> int:
        return hash((len(self.index), self.batch))

    @classmethod
    def regular(cls, batch: int, outer: int, inner: int, device: torch.device) -> "Grouping":
        """Return the grouping of (outer, B, inner) rows."""
        return cls(lambda: torch.arange(batch, device=device).repeat_interleave(inner).repeat(outer), batch)

    def likely(self, size: int) -> list[Tensor]:
        """Return samples that rows may have of which nothing is known: as these, sample by sample, or in turn."""
        found = [self.index] if len(self.index) == size else []
        inner, rest = divmod(size, max(1, self.batch))
        if inner and not rest:
            for pair in ((1, inner), (inner, 1)):
                found.append(Grouping.regular(self.batch, *pair, self.index.device).index)
        return found

    @cached_property
    def sole(self) -> int | None:
        """The sample whose all rows are; None where they are several samples', or there are none."""
        alike = len(self.index) > 0 and bool((self.index == self.index[0]).all())
        return int(self.index[0]) if alike else None

    @cached_property
    def _padded(self) -> tuple[Tensor, Tensor]:
        """For each sample the places of its rows, (B, m), and (B, m) whether there is one."""
        counts = torch.bincount(self.index, minlength=self.batch)
        order = torch.argsort(self.index, stable=True)
        most = max(1, int(counts.max())) if len(self.index) else 1
        slots = torch.arange(most, device=self.index.device)
        there = slots < counts[:, None]
        places = torch.zeros(self.batch, most, dtype=torch.int64, device=self.index.device)
        places[there] = order
        return places, there

    def samples_first(self, tensor: Tensor, dim: int) -> Tensor:
        """Return (B, the dimensions before ``dim``, 1, rows, those after it), zero where a sample has fewer rows."""
        places, there = self._padded
        if not len(self.index):
            shape = (*places.shape, *tensor.shape[:dim], *tensor.shape[dim + 1 :])
            return tensor.new_zeros(shape).movedim(1, 1 + dim).unsqueeze(1 + dim)
        rows = tensor.movedim(dim, 0).index_select(0, places.view(-1))
        rows = rows.masked_fill(~there.view(-1, *[1] * (tensor.ndim - 1)), 0)
        return rows.view(*places.shape, *rows.shape[1:]).movedim(1, 1 + dim).unsqueeze(1 + dim)

    def only(self, tensor: Tensor, dim: int, sample: int) -> Tensor:
        """Return a tensor with the rows of all other samples zero."""
        own = (self.index == sample).view(*[1] * dim, -1, *[1] * (tensor.ndim - dim - 1))
        return torch.where(own, tensor, torch.zeros((), dtype=tensor.dtype, device=tensor.device))

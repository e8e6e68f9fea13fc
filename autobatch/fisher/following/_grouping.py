"""Rows that belong to samples by an index, such as the nodes of a batch of graphs."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

# Functions that only pick, move or repeat elements of their first argument, whose samples go with them.
PICKING = frozenset({
    *("__getitem__", "index_select", "gather", "take_along_dim", "take", "masked_select", "flip", "roll", "cat"),
    *("concat", "concatenate", "stack", "hstack", "vstack", "chunk", "split", "tensor_split", "unbind", "select"),
    *("narrow", "reshape", "view", "view_as", "reshape_as", "flatten", "unflatten", "ravel", "permute", "transpose"),
    *("swapaxes", "swapdims", "movedim", "moveaxis", "T", "t", "mT", "H", "mH", "adjoint", "unsqueeze", "squeeze"),
    *("expand", "expand_as", "broadcast_to", "repeat", "tile", "repeat_interleave", "diagonal", "rot90", "flipud"),
    *("fliplr", "_pack_padded_sequence"),
})
# Functions of packed sequences (data, batch sizes, ...): rows go by steps, and in each step by samples.
PACKED = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu", "_pad_packed_sequence"})
# Functions that put rows of a source where an index says: (base, dim, index, source).
SCATTERING = frozenset({
    *("index_add", "index_add_", "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_", "index_reduce"),
    *("index_reduce_", "index_copy", "index_copy_", "scatter", "scatter_"),
})


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

    def labels(self, shape: Sequence[int], dim: int) -> Tensor:
        """Return the sample of each element of a tensor."""
        return self.index.view(*[1] * dim, -1, *[1] * (len(shape) - dim - 1)).expand(*shape)


def picked(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    labels: Callable[[Tensor], Tensor | None],
    index: int,
) -> tuple[int, Tensor] | None:
    """Follow samples through a function of ``PICKING`` by running it on the elements' samples.

    Args:
        function: the function.
        args: its positional arguments.
        kwargs: its keyword arguments.
        labels: gives the sample of each element of a tensor; None for one that carries none.
        index: which of the returned tensors is looked at.

    Returns:
        The dimension along which the sample changes, and (n,) the sample at each place; None where there is no such
        dimension, or an element is no sample's.
    """
    if not args or any(isinstance(item, torch.dtype) for item in args) or kwargs.get("out") is not None:
        return None

    def replaced(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return type(value)(replaced(item) for item in value)
        if not isinstance(value, Tensor):
            return value
        found = labels(value)
        return torch.full(value.shape, -1, device=value.device) if found is None else found

    try:
        with torch.no_grad():
            result = function(replaced(args[0]), *args[1:], **kwargs)
    except (RuntimeError, TypeError):  # not for whole numbers
        return None
    found = (list(result) if isinstance(result, (tuple, list)) else [result])[index]
    if not found.numel():  # no rows, such as the tokens of an expert that got none
        empty = [d for d, size in enumerate(found.shape) if not size]
        return (empty[0], found.flatten()) if len(empty) == 1 else None
    if not found.ndim or bool((found < 0).any()):
        return None
    changing = [d for d in range(found.ndim) if not bool((found == found.narrow(d, 0, 1)).all())]
    if len(changing) > 1:
        return None
    dim = changing[0] if changing else 0
    return dim, found.movedim(dim, 0).reshape(found.shape[dim], -1)[:, 0].contiguous()


def unpacked(name: str, args: Sequence[Any], samples: Tensor, index: int) -> tuple[int, Tensor] | None:
    """Follow samples through a function of ``PACKED``.

    Args:
        name: the function's name.
        args: its positional arguments.
        samples: (n,) the sample of each row of the data.
        index: which of the returned tensors is looked at.

    Returns:
        The dimension that carries the batch, and the sample at each place; None where the sequences are not packed.
    """
    sizes = args[1] if len(args) > 1 else None
    if (
        not isinstance(sizes, Tensor)
        or sizes.ndim != 1
        or sizes.is_floating_point()
        or int(sizes.sum()) != len(samples)
    ):
        return None
    first = samples[: int(sizes[0])]
    if name == "_pad_packed_sequence":
        return (0 if args[2] else 1, first) if index == 0 else None
    return (0, samples) if index == 0 else (1, first)


def scattered(
    base: Tensor, dim: int, index: Tensor, *, samples: Tensor, known: Sequence[Tensor], batch: int
) -> Tensor | None:
    """Follow samples through a function of ``SCATTERING``: rows go where the index says.

    Args:
        base: what they are added to.
        dim: the dimension.
        index: (n,), or of the source's shape.
        samples: (n,) the sample of each row of the source.
        known: samples that rows of the result may have where nothing is put: one is taken that agrees with all others.
        batch: B.

    Returns:
        The sample of each row of the result along ``dim``; None where rows of several samples meet.
    """
    index = index.movedim(dim, 0).flatten(1) if index.ndim > 1 else index.reshape(-1, 1)
    if not bool((index == index[:, :1]).all()) or len(index) > len(samples):
        return None
    rows, samples = index[:, 0], samples[: len(index)]
    size = base.shape[dim]
    last = torch.full((size,), -1, device=samples.device).scatter_reduce(0, rows, samples, "amax")
    first = torch.full((size,), batch, device=samples.device).scatter_reduce(0, rows, samples, "amin")
    there = last >= 0
    if not torch.equal(last[there], first[there]):
        return None
    if bool(there.all()):
        return last
    for other in known:
        if len(other) == size and torch.equal(other[there], last[there]):
            return other
    return None

"""Where samples that lie by an index go: followed through functions that pick, move, repeat or put rows.

A rule sees the whole call. It says along which dimension of an output the sample changes, and (n,) the sample at each
place there; None where there is no such dimension, or it cannot tell.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from autobatch.fisher.following._grouping import Grouping
from autobatch.fisher.following._layout import BatchLayout
from autobatch.fisher.following._memory import Memory
from autobatch.fisher.following._move import Move

Found = tuple[int, Tensor] | None


class Rows:
    """One call, seen from the samples of single rows: of arguments that carry the batch, on their way into an output.

    ``layouts`` are theirs, by id, and ``slots`` their positions; ``samples`` is the sample of each row of the input.
    """

    def __init__(self, moves: Sequence[Move], samples: Grouping) -> None:
        self.one = one = moves[0]
        self.call, self.args, self.kwargs, self.index = one.call, one.args, one.kwargs, one.index
        self.layouts = {id(move.source): move.layout for move in moves}
        self.slots = [move.slot for move in moves]
        self.samples = samples

    def along(self, tensor: Any, dim: int) -> Tensor | None:
        """Return the sample of each place along a dimension of an argument; None where that does not carry them."""
        layout = self.layouts.get(id(tensor))
        here = isinstance(layout, BatchLayout) and layout.dim == dim
        return layout.grouped(tensor, self.samples.batch).index if here else None  # type: ignore[union-attr]

    def of_elements(self, tensor: Tensor) -> Tensor | None:
        """Return the sample of each element of an argument; None for one that carries none."""
        layout = self.layouts.get(id(tensor))
        return layout.labels(tensor, self.samples.batch) if isinstance(layout, BatchLayout) else None


def picked(rows: Rows) -> Found:
    """Follow samples through a function that only picks, moves or repeats elements, by running it on their samples."""
    args, kwargs = rows.args, rows.kwargs
    to_dtype = any(isinstance(item, torch.dtype) for item in args)
    if 0 not in rows.slots or not args or to_dtype or kwargs.get("out") is not None:
        return None

    def replaced(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return type(value)(replaced(item) for item in value)
        if not isinstance(value, Tensor):
            return value
        found = rows.of_elements(value)
        return torch.full(value.shape, -1, device=value.device) if found is None else found

    try:
        with torch.no_grad():
            result = rows.call.function(replaced(args[0]), *args[1:], **kwargs)
    except (RuntimeError, TypeError):  # not for whole numbers
        return None
    found = (list(result) if isinstance(result, (tuple, list)) else [result])[rows.index]
    return _along_one(found)


def ordered(rows: Rows) -> Found:
    """Follow samples through a sort, or the choice of the largest, along their own dimension."""
    source, dim = rows.args[0], sorted_along(rows.one)
    labels = rows.of_elements(source)
    if labels is None or not source.ndim or isinstance(dim, bool):
        return None
    return _along_one(labels.gather(dim, rows.call.outputs[-1]))


def sorted_along(move: Move) -> Any:
    """Return the dimension along which a function sorts, or takes the largest."""
    return move.argument(2 if move.call.name == "topk" else 1, "dim", -1)


def filled(rows: Rows) -> Found:
    """Follow samples through ``masked_scatter(base, mask, source)``, by running it on their samples."""
    base, mask, source = (*rows.args, *(rows.kwargs[name] for name in ("mask", "source") if name in rows.kwargs))
    below, above = rows.of_elements(base), rows.of_elements(source)
    if below is None:
        below = torch.full(base.shape, -1, device=base.device)
    return _along_one(below if above is None else below.masked_scatter(mask, above))


def strided(rows: Rows) -> Found:
    """Follow samples through ``as_strided``, by the places of their elements in memory."""
    source = rows.args[0]
    layout = rows.layouts.get(id(source))
    if not isinstance(layout, BatchLayout) or source.layout is not torch.strided:
        return None
    memory = Memory(source.untyped_storage())
    memory.write(source, layout, rows.samples.batch)
    return _along_one(rows.call.function(memory.samples(source), *rows.args[1:], **rows.kwargs))


def _along_one(found: Tensor) -> Found:
    """Return the only dimension along which samples of elements change, with the sample of each place there."""
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


def where_true(rows: Rows) -> Found:
    """Follow samples through the places where a mask is true: ``where(mask)``, ``nonzero(mask)``."""
    return _of_mask(rows, 1)


def indexed(rows: Rows) -> Found:
    """Follow samples through ``x[index]``, also through a mask over a tensor that is nobody's."""
    return picked(rows) if 0 in rows.slots else _of_mask(rows, 2)


def _of_mask(rows: Rows, arguments: int) -> Found:
    mask = rows.args[-1]
    if (
        len(rows.args) != arguments
        or len(rows.slots) != 1
        or not isinstance(mask, Tensor)
        or (found := rows.of_elements(mask)) is None
    ):
        return None
    return (0, found[mask != 0]) if mask.dtype is torch.bool or rows.call.name in {"nonzero", "argwhere"} else None


def unpacked(rows: Rows) -> Found:
    """Follow samples through a function of packed (data, batch sizes, ...): rows go by steps, then by samples."""
    args = rows.args
    samples, sizes = rows.along(args[0], 0), args[1] if len(args) > 1 else None
    if samples is None or not isinstance(sizes, Tensor):
        return None
    if sizes.ndim != 1 or sizes.is_floating_point() or int(sizes.sum()) != len(samples):
        return None  # not packed
    first = samples[: int(sizes[0])]
    if rows.call.name == "_pad_packed_sequence":
        return (0 if args[2] else 1, first) if rows.index == 0 else None
    if any(slot not in {0, 2} for slot in rows.slots):
        return None
    for state in [args[2]] if isinstance(args[2], Tensor) else args[2]:
        own = rows.along(state, 1)
        if (id(state) in rows.layouts) and (own is None or not torch.equal(own, first)):
            return None
    return (0, samples) if rows.index == 0 else (1, first)


def padded(rows: Rows) -> Found:
    """Follow samples through ``pad_sequence(sequences, batch_first)``, each sequence being one sample's."""
    sequences, batch_first = rows.args[0], len(rows.args) > 1 and rows.args[1]
    owners = []
    for sequence in sequences:
        labels = rows.of_elements(sequence)
        if labels is None or not labels.numel() or bool((labels != labels.min()).any()):
            return None
        owners.append(labels.flatten()[:1])
    return 0 if batch_first else 1, torch.cat(owners)


def scattered(rows: Rows) -> Found:
    """Follow samples through a function that puts rows where an index says: (base, dim, index, source)."""
    if len(rows.args) < 4:
        return None
    base, dim, index, source = rows.args[:4]
    dim %= max(1, base.ndim)
    of_source = rows.along(source, dim)
    if of_source is None and id(source) not in rows.layouts:  # constants, such as ones that are counted
        of_source = rows.along(index, dim)
    if of_source is None:
        return None
    known = None
    if id(base) in rows.layouts:
        before = rows.along(base, dim)
        known = [] if before is None else [before]
    index = index.movedim(dim, 0) if index.ndim > 1 else index
    found = _put(rows, dim, index, of_source, known)
    stays = known is None or (known and found is not None and torch.equal(found[1], known[0]))
    return found if stays else None


def counted(rows: Rows) -> Found:
    """Follow samples through ``bincount(index)`` of rows that count for a sample, such as the nodes of graphs."""
    index = rows.args[0]
    of_rows = rows.along(index, 0)
    if of_rows is None or len(index) <= rows.samples.batch:
        return None
    return _put(rows, 0, index, of_rows)


def bagged(rows: Rows) -> Found:
    """Follow samples through ``embedding_bag(table, indices, offsets)``, whose bags are of one sample each."""
    if len(rows.args) < 3 or rows.index:
        return None
    table, words, offsets, *rest = rows.args
    weights, bags = rest[3] if len(rest) > 3 else rows.kwargs.get("per_sample_weights"), len(rows.call.outputs[0])
    of_words = rows.along(words, 0) if words.ndim == 1 else None
    if of_words is None or id(table) in rows.layouts:
        return None
    if id(weights) in rows.layouts:
        of_weights = rows.along(weights, 0)
        if of_weights is None or not torch.equal(of_weights, of_words):
            return None
    places = torch.arange(len(words), device=offsets.device)
    places = torch.searchsorted(offsets[:bags].contiguous(), places, right=True) - 1
    return _put(rows, 0, places, of_words)


def _put(rows: Rows, dim: int, index: Tensor, samples: Tensor, known: Sequence[Tensor] | None = None) -> Found:
    """Follow rows that are put, or added, to places along a dimension; None where those of several samples meet."""
    # Row i, of the sample samples[i], goes to index[i], one number or several alike. Where nothing is put, samples may
    # be those known that agree with all others; None: any likely.
    size = rows.call.outputs[0].shape[dim]
    index = index.flatten(1) if index.ndim > 1 else index.reshape(-1, 1)
    if not bool((index == index[:, :1]).all()) or len(index) > len(samples):
        return None
    places, samples = index[:, 0], samples[: len(index)]
    last = torch.full((size,), -1, device=samples.device).scatter_reduce(0, places, samples, "amax")
    first = torch.full((size,), rows.samples.batch, device=samples.device).scatter_reduce(0, places, samples, "amin")
    there = last >= 0
    if not torch.equal(last[there], first[there]):
        return None
    likely = [last] if bool(there.all()) else rows.samples.likely(size) if known is None else known
    agreeing = (other for other in likely if len(other) == size and torch.equal(other[there], last[there]))
    return next(((dim, other) for other in agreeing), None)

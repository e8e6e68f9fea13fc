"""Where ``x[index]`` and look-ups put samples, and what writing to ``x[index]`` does to those of x."""

import itertools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from autobatch.fisher.following._grouping import Grouping
from autobatch.fisher.following._layout import BatchLayout, Layout, LostBatch, layout_along
from autobatch.fisher.following._move import Move, Place, untouched


def indexed(move: Move) -> int | None:
    """Return where the batch lies in ``x[index]``, for x (``move.slot`` 0) or for a tensor in the index."""
    source = move.source if move.slot else None
    return _indexed(move.args[0], move.argument(1, "index"), move.dim, source, max(0, move.inner))


def _indexed(base: Tensor, index: Any, dim: int, source: Tensor | None = None, position: int = 0) -> int | None:
    """Return where a dimension of the base, or of the index tensor at some position, lies in ``base[index]``."""
    items = list(index) if isinstance(index, tuple) else [index]
    items = [_as_index(item) for item in items]
    if any(item is None for item in items):
        return None
    taken = sum(_dimensions_of(item) for item in items)
    at = next((i for i, item in enumerate(items) if item is Ellipsis), len(items))
    items[at : at + 1] = [slice(None)] * (base.ndim - taken)
    advanced = [item for item in items if isinstance(item, Tensor)]
    block = max((1 if item.dtype is torch.bool else item.ndim for item in advanced), default=0)
    # Where each item's dimension comes to lie, were all advanced ones one block at the place of the first.
    places: list[int] = []
    seen_at: list[int] = []
    out = 0
    for item in items:
        places.append(out)
        if isinstance(item, Tensor):
            seen_at.append(out)
        elif not isinstance(item, int):
            out += 1
    apart = bool(seen_at) and seen_at[0] != seen_at[-1]
    start = 0 if apart else (seen_at[0] if seen_at else 0)

    def of_slice(place: int) -> int:
        return place + block if apart or (seen_at and place >= start) else place

    if source is not None:
        position += base.ndim - taken - 1 if position > at else 0
        item = items[position] if position < len(items) else None
        return start + block - item.ndim + dim if item is source and item.dtype is not torch.bool else None
    source_dim = 0
    for item, place in zip(items, places, strict=True):
        wide = _dimensions_of(item)
        if source_dim <= dim < source_dim + wide:
            size = base.shape[dim]
            if isinstance(item, slice):
                return of_slice(place) if item.indices(size) == (0, size, 1) else None
            return _in_order(item, size, start + block) if isinstance(item, Tensor) else None
        source_dim += wide
    return None


class _New:
    """``None`` in an index: a new dimension."""


def _as_index(item: Any) -> Any:
    """Return an item of an index in a plain form: int, slice, Ellipsis, ``_New``, or a tensor; None where unknown."""
    if item is None:
        return _New
    if isinstance(item, bool):
        return None
    if isinstance(item, (int, slice)) or item is Ellipsis:
        return item
    if not isinstance(item, Tensor):
        try:
            item = torch.as_tensor(item)
        except (TypeError, ValueError, RuntimeError):
            return None
    if item.dtype is torch.bool:
        return item if item.ndim else None
    return item if item.ndim else 0


def _dimensions_of(item: Any) -> int:
    """Return how many dimensions of the base an item of an index takes up."""
    if item is Ellipsis or item is _New:
        return 0
    return item.ndim if isinstance(item, Tensor) and item.dtype is torch.bool else 1


def _in_order(item: Tensor, size: int, end: int) -> int | None:
    """Return where the samples lie if an index tensor takes each of them once, in order."""
    if item.dtype is torch.bool or item.numel() != size or max(item.shape) != size:
        return None
    rows = torch.arange(size, device=item.device, dtype=item.dtype)
    return end - item.ndim + item.shape.index(size) if torch.equal(item.flatten(), rows) else None


def assigned(
    base: Tensor, index: Any, value: Tensor, *, before: BatchLayout | None, layout: Layout | None, samples: Grouping
) -> BatchLayout | None:
    """Return the layout of a tensor after ``base[index] = value``, or None where its samples cannot be told.

    Before, the tensor had the layout ``before``, None where it carried no samples, such as zeros; ``layout`` is the
    value's, ``samples`` the sample of each row of the model's input.
    """
    if before is not None and (layout is None or (isinstance(layout, LostBatch) and layout.whole)):
        return before  # the value is the same for all samples
    if not isinstance(layout, BatchLayout):
        return None
    target = base.detach()[index]
    expected = layout.dim + target.ndim - value.ndim
    if before is not None:
        alike = (layout.outer, layout.grouping) == (before.outer, before.grouping)
        if alike and _indexed(base, index, before.dim) == expected:
            return before
    elif target.ndim >= value.ndim:
        for dim, size in enumerate(base.shape):
            if size == value.shape[layout.dim] and _indexed(base, index, dim) == expected:
                return replace(layout, dim=dim)
    if layout.claims:
        return None
    # The samples of the value's elements are written, as with a mask of rows.
    batch = samples.batch
    present = torch.full(base.shape, -1, device=base.device) if before is None else before.labels(base, batch)
    after = present.clone()
    after[index] = layout.labels(value, batch)
    return fitting(after, samples) if before is None else (before if torch.equal(after, present) else None)


def fitting(labels: Tensor, samples: Grouping) -> BatchLayout | None:
    """Return the only layout with these samples of elements; negative ones may be as in the model's input."""
    found = []
    for dim, size in enumerate(labels.shape):
        each = (layout_along(dim, rows, samples.batch) for rows in samples.likely(size))
        agreeing = (one for one in each if bool(((labels < 0) | (labels == one.labels(labels, samples.batch))).all()))
        found += list(itertools.islice(agreeing, 1))
    return found[0] if len(found) == 1 else None


def looked_up(move: Move) -> int | None:
    # F.embedding(indices, table, padding, max_norm), torch.embedding(table, indices)
    table = 0 if move.args[0].is_floating_point() else 1
    if move.slot == 1 - table:
        return move.dim
    scaled = table == 1 and move.argument(3, "max_norm") is not None
    return move.output.ndim - 1 if move.slot == table and move.dim == 1 and not scaled else None


def gathered(move: Move) -> Place:
    # gather(table, dim, index): of a table that is nobody's the result lies as the index does.
    if move.slot == 2 and all(move.args[0] is not tensor for tensor in move.followed):
        return move.dim
    return untouched(1, slots=(0, 2))(move)


def bagged(move: Move) -> Place:
    if not move.args[0].is_floating_point():  # F.embedding_bag(indices, table, ...)
        weights = move.source.shape == move.args[0].shape and move.slot == -1
        return move.dim if (move.slot == 0 or weights) and move.source.ndim == 2 and move.dim == 0 else None
    # torch.embedding_bag(table, indices, offsets, ...): bags of equal length are rows.
    offsets = move.argument(2, "offsets")
    if move.slot in {0, 2} or move.source.ndim != 1 or not isinstance(offsets, Tensor) or move.index:
        return None
    bags, items = len(offsets), len(move.source)
    if not bags or items % bags or bags % (move.outer * move.call.batch):
        return None
    even = torch.arange(0, items, items // bags, device=offsets.device)
    return (0, move.outer) if items and torch.equal(offsets.to(even.dtype), even) else None


def index_selected(move: Move) -> int | None:
    if move.slot == 2:
        return int(move.argument(1, "dim")) % move.output.ndim  # table.index_select(dim, indices)
    dims = move.dims(1, "dim")
    return None if move.slot or dims is None or move.dim in dims else move.dim

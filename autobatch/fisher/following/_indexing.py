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
    return _indexed(move.args[0], move.argument(1, "index"), move.dim, move.source if move.slot else None)


def _indexed(base: Tensor, index: Any, dim: int, source: Tensor | None = None) -> int | None:
    """Return where a dimension of the base, or of a source among the index tensors, lies in ``base[index]``."""
    items = [_as_index(item) for item in (index if isinstance(index, tuple) else (index,))]
    if any(item is NotImplemented for item in items):
        return None
    missing = base.ndim - sum(_dimensions_of(item) for item in items)
    at = next((i for i, item in enumerate(items) if item is Ellipsis), len(items))
    items[at : at + 1] = [slice(None)] * missing
    # The dimensions of the base that lie whole in the result, in its order, and where among them tensors stand.
    kept: list[int | None] = []
    stand: list[int] = []
    here, block, taking = 0, 0, None
    for item in items:
        wide = _dimensions_of(item)
        if isinstance(item, Tensor):
            stand.append(len(kept))
            block = max(block, 1 if item.dtype is torch.bool else item.ndim)
            taking = item if here <= dim < here + wide else taking
        elif not isinstance(item, int):
            whole = isinstance(item, slice) and item.indices(base.shape[here]) == (0, base.shape[here], 1)
            kept.append(here if whole else None)
        here += wide
    # All tensors together make one block, at their place, or in front where they stand apart.
    start = stand[0] if len(set(stand)) == 1 else 0
    kept[start:start] = [None] * block
    if source is not None:
        indexes = source.dtype is not torch.bool and any(item is source for item in items)
        return start + block - source.ndim + dim if indexes else None
    if taking is not None:
        return _in_order(taking, base.shape[dim], start + block)
    return kept.index(dim) if dim in kept else None


def _as_index(item: Any) -> Any:
    """Return an item of an index as None, an int, a slice, Ellipsis or a tensor; NotImplemented where it is unknown."""
    if item is None or item is Ellipsis or (isinstance(item, (int, slice)) and not isinstance(item, bool)):
        return item
    try:
        item = torch.as_tensor(item)
    except (TypeError, ValueError, RuntimeError):
        return NotImplemented
    if item.ndim:
        return item
    return NotImplemented if item.dtype is torch.bool else 0


def _dimensions_of(item: Any) -> int:
    """Return how many dimensions of the base an item of an index takes up."""
    if item is Ellipsis or item is None:
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
        found += list(itertools.islice((one for one in each if one.agrees(labels, labels, samples.batch)), 1))
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
    # F.embedding_bag(indices, table, ...) with a bag in each row
    weights = move.source.shape == move.args[0].shape and move.slot == -1
    rows = not move.args[0].is_floating_point() and (move.slot == 0 or weights) and move.source.ndim == 2
    return move.dim if rows and move.dim == 0 else None


def index_selected(move: Move) -> int | None:
    if move.slot == 2:
        return int(move.argument(1, "dim")) % move.output.ndim  # table.index_select(dim, indices)
    dims = move.dims(1, "dim")
    return None if move.slot or dims is None or move.dim in dims else move.dim

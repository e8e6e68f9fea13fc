"""Where functions that only change a tensor's shape, or repeat it, put the samples."""

import torch

from autobatch.fisher.following._move import Move, Place, Rule

_BLANK = torch.empty(1, device="meta")


def viewed(move: Move) -> int | None:
    # Any view of the first argument: it is taken of one that has a stride in the batch's dimension alone.
    if move.slot:
        return None
    strides = [int(dim == move.dim) for dim in range(move.source.ndim)]
    view = move.call.function(_BLANK.as_strided(move.source.shape, strides), *move.args[1:], **move.kwargs)
    size = move.source.shape[move.dim]
    there = (dim for dim in range(view.ndim) if view.stride(dim) and view.shape[dim] == size)
    return next(there, None)


def inserted(move: Move) -> Place:
    # unsqueeze_: the source has the new dimension already.
    return move.dim + (int(move.argument(1, "dim")) % move.output.ndim <= move.dim), move.outer


def swapped(move: Move) -> Place:
    # transpose_, t_: the source is turned already.
    first, second = (int(move.argument(at, f"dim{at - 1}", at - 1)) % move.output.ndim for at in (1, 2))
    return {first: second, second: first}.get(move.dim, move.dim), move.outer


def reshaped(move: Move) -> Place:
    # A reshape keeps the order of elements: as many blocks lie before the batch as did.
    if move.output.numel() != move.source.numel():
        return None
    before = move.source.shape[: move.dim].numel() * move.outer
    seen = 1
    for dim, size in enumerate(move.output.shape):
        if size and seen and before % seen == 0 and size % (before // seen * move.call.batch) == 0:
            return dim, before // seen
        seen *= size
    return None


def stacked(move: Move) -> int:
    new = int(move.argument(1, "dim", 0)) % (move.source.ndim + 1)
    return move.dim + (new <= move.dim)


def concatenated(move: Move) -> Place:
    dims = move.dims(1, "dim", 0)
    if dims is None or move.dim not in dims:
        return None if dims is None else move.dim
    # Whole batches one after the other: the batch is repeated.
    joined = move.args[0] if move.args else move.kwargs["tensors"]
    if any(all(tensor is not other for other in move.followed) for tensor in joined):
        return None
    whole = all(tensor.shape[move.dim] == move.outer * move.call.batch for tensor in joined)
    return (move.dim, move.output.shape[move.dim] // move.call.batch) if whole else None


def across(axis: int) -> Rule:
    # hstack, flips: along a dimension of their own.
    def rule(move: Move) -> int | None:
        return move.dim if move.source.ndim > axis and move.dim != axis else None

    return rule


def beside(axis: int) -> Rule:
    # column_stack, dstack: along a dimension of their own, which those that lack it get; vectors are columns.
    def rule(move: Move) -> int | None:
        if move.source.ndim == 1:
            return axis - 1
        return None if move.dim == axis else move.dim

    return rule


def repeated(move: Move) -> Place:
    dim = move.dim + move.output.ndim - move.source.ndim
    times, rest = divmod(move.output.shape[dim], move.source.shape[move.dim])
    if times == 1:
        return dim
    alone = move.source.shape[move.dim] == move.outer * move.call.batch
    return (dim, times * move.outer) if alone and not rest else None


def repeated_each(move: Move) -> Place:
    dims = move.dims(2, "dim")
    if move.slot or dims is None:
        return None
    if move.dim not in dims:
        return move.dim
    return (move.dim, move.outer) if isinstance(move.argument(1, "repeats"), int) else None


def selected(move: Move) -> int | None:
    dims = move.dims(1, "dim", 0)
    if move.slot or dims is None or dims[0] == move.dim:
        return None
    return move.dim - (dims[0] < move.dim)

"""Where each function puts the samples of each of its arguments: the list of what is known to keep them in place.

A rule sees one argument that carries the batch at a dimension, and says at which dimension of an output it then lies.
Where several arguments carry it, all must come to lie at the same place (``_layout.propagate``). A function that is not
in ``PLACES`` loses the batch, and so does an argument for which its rule returns None.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autobatch.fisher.following._keeping import (
    BATCH_IN_FRONT,
    BATCH_IN_FRONT_OF_SECOND,
    ELEMENT_BY_ELEMENT,
    FIRST_ONLY,
    ITEM_LOSSES,
    ROW_LOSSES,
    VECTOR_LOSSES,
)

WHOLE = "whole"
"""Place of a result into which all samples went together, such as a mean over the batch."""


@dataclass(frozen=True)
class Move:
    """One argument that carries the batch, in one call.

    Attributes:
        name: of the function.
        args: its positional arguments.
        kwargs: its keyword arguments, without numpy's names.
        source: the argument.
        slot: its position; -1 for a keyword argument that has none here.
        inner: its position in a list or tuple of tensors at ``slot``; else -1.
        dim: the dimension of ``source`` that carries the batch.
        outer: how many times the batch is repeated in it.
        output: what was returned.
        index: which of the returned tensors that is.
        batch: B.
        followed: all arguments that carry the batch.
        tensors: all tensor arguments.
    """

    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    source: Tensor
    slot: int
    inner: int
    dim: int
    outer: int
    output: Tensor
    index: int
    batch: int
    followed: Sequence[Tensor] = ()
    tensors: Sequence[Tensor] = ()

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument by position or name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def dims(self, position: int, name: str, default: Any = None, *, many: bool = False) -> list[int] | None:
        """Return dimensions given as an int, a sequence or (``many``) several arguments, from the left, or None."""
        value = self.argument(position, name, default)
        if isinstance(value, bool):
            return None
        if isinstance(value, int):
            rest = [item for item in self.args[position + 1 :] if many and isinstance(item, int)]
            value = [value, *rest]
        return [self.left(int(item)) for item in value] if isinstance(value, (tuple, list)) else None

    def left(self, dim: int) -> int:
        """Return a dimension of the source, counted from the left."""
        return dim % max(1, self.source.ndim)


Place = int | tuple[int, int] | str | None
Rule = Callable[[Move], Place]


def _aligned_right(move: Move) -> int | None:
    dim = move.dim + move.output.ndim - move.source.ndim
    return dim if dim >= 0 else None


def _in_slots(rule: Rule, *slots: int) -> Rule:
    return lambda move: rule(move) if move.slot in slots else None


def _unmoved(move: Move) -> int | None:
    return move.dim


keeps_samples = _in_slots(_unmoved, 0)


def _in_front(move: Move) -> int | None:
    slots = (0, 1) if move.name in BATCH_IN_FRONT_OF_SECOND else (0,)
    return 0 if move.slot in slots and move.dim == 0 and move.source.ndim > 1 else None


def _before_features(features: int, *slots: int) -> Rule:
    """Return the rule of functions that touch only the last dimensions."""

    def rule(move: Move) -> int | None:
        return move.dim if move.slot in slots and move.dim < move.source.ndim - features else None

    return rule


def _normalised(move: Move) -> int | None:
    shape = move.argument(1, "normalized_shape")
    features = 1 if isinstance(shape, int) else len(shape)
    return move.dim if move.slot == 0 and move.dim < move.source.ndim - features else None


def _padded(move: Move) -> int | None:
    widths = list(move.argument(1, "pad"))
    from_right = move.source.ndim - 1 - move.dim
    return None if move.slot or any(widths[2 * from_right : 2 * from_right + 2]) else move.dim


def _alone(move: Move) -> int | None:
    return move.dim if len(move.args) == 1 and not move.kwargs else None


def _sorted_into(values: int) -> Rule:
    """Return the rule of functions that look values up in sorted boundaries."""

    def rule(move: Move) -> int | None:
        return move.dim if move.slot == values and move.output.shape == move.source.shape else None

    return rule


def _searched(move: Move) -> int | None:
    boundaries = move.args[0]
    return move.dim if move.slot == 1 and isinstance(boundaries, Tensor) and boundaries.ndim == 1 else None


def _chosen(move: Move) -> int | None:
    alone = len(move.args) + len(move.kwargs) == 1  # where(condition): the indices of what is true
    return None if alone else _aligned_right(move)


def _normalised_along(move: Move) -> int | None:
    dims = move.dims(1, "dim")
    if dims is None:  # torch.nn.functional.softmax(x) chooses by the number of dimensions
        dims = [0 if move.source.ndim in {0, 1, 3} else 1]
    return None if move.slot or move.dim in dims else move.dim


def _matrices(move: Move) -> int | None:
    # Functions of the last two dimensions: inverses, determinants, decompositions.
    return move.dim if move.slot == 0 and move.dim < move.source.ndim - 2 else None


def _solved(move: Move) -> int | None:
    # solve(A, B): B holds columns, or one vector for each matrix.
    matrix: Tensor = move.args[0]
    right: Tensor = move.argument(1, "B")
    vectors = right.ndim == matrix.ndim - 1 and right.shape == matrix.shape[:-1]
    if move.slot == 0:
        features = 2
    else:
        features = 1 if vectors else 2
        if not vectors and move.dim == move.source.ndim - 1:
            return _aligned_right(move)
    if move.dim >= move.source.ndim - features:
        return None
    return _aligned_right(move) if not (vectors and move.slot == 0) else move.dim + move.output.ndim - matrix.ndim + 1


def _joined_along(axis: int) -> Rule:
    def rule(move: Move) -> int | None:
        return move.dim if move.source.ndim > axis and move.dim != axis else None

    return rule


def _flipped(axis: int) -> Rule:
    return lambda move: move.dim if move.slot == 0 and move.dim != axis else None


def _rotated(move: Move) -> int | None:
    plane = move.argument(2, "dims", (0, 1))
    return None if move.slot or move.dim in {move.left(int(dim)) for dim in plane} else move.dim


def _quantile(move: Move) -> int | None:
    dims = move.dims(2, "dim")
    if move.slot or not dims or move.dim in dims or isinstance(move.argument(1, "q"), Tensor):
        return None
    return move.dim if move.output.ndim == move.source.ndim else move.dim - sum(dim < move.dim for dim in dims)


def _outer(move: Move) -> int | None:
    return move.slot if move.slot in {0, 1} else None


def _chained(move: Move) -> int | None:
    matrices = move.args[0]
    first = move.inner == 0 and move.dim == 0 and move.source.ndim == 2
    last = move.inner == len(matrices) - 1 and move.dim == 1
    if first:
        return 0
    return move.output.ndim - 1 if last else None


def _untouched(position: int, name: str = "dim", default: Any = None, *, slots: tuple[int, ...] = (0,)) -> Rule:
    # For functions along one dimension: samples stay in place unless that is theirs.

    def rule(move: Move) -> int | None:
        dims = move.dims(position, name, default, many=name == "dims")
        return None if move.slot not in slots or dims is None or move.dim in dims else move.dim

    return rule


def _slices_scaled(move: Move) -> int | None:
    # renorm: each slice along the dimension is scaled by its own norm.
    return move.dim if move.dims(2, "dim") == [move.dim] else None


def _selected(move: Move) -> int | None:
    dims = move.dims(1, "dim", 0)
    if move.slot or dims is None or dims[0] == move.dim:
        return None
    return move.dim - (dims[0] < move.dim)


def _reduced(position: int) -> Rule:
    def rule(move: Move) -> Place:
        if move.name in {"max", "min"} and isinstance(move.argument(1, "other"), Tensor):
            return _aligned_right(move)
        if move.slot:
            return None
        dims = move.dims(position, "dim")
        if not dims or move.dim in dims:
            return WHOLE
        return move.dim if move.output.ndim == move.source.ndim else move.dim - sum(dim < move.dim for dim in dims)

    return rule


def _loss(move: Move) -> Place:
    # Losses of items, of rows of classes, of vectors: without a reduction, each sample keeps its own.
    ndim = max(tensor.ndim for tensor in move.followed)
    if move.slot < 0:
        return None
    if move.name in ROW_LOSSES and move.slot == 0 and (move.dim == 1 or move.source.ndim == 1):
        return None
    if move.name in VECTOR_LOSSES and (ndim == 1 or move.dim == ndim - 1):
        return None
    if move.output.ndim == 0:
        return WHOLE
    if move.name in ITEM_LOSSES:
        return _aligned_right(move)
    return move.dim - int(move.dim > 1 and move.slot == 0)


def _convolved(spatial: int) -> Rule:
    def rule(move: Move) -> int | None:
        return 0 if move.slot == 0 and move.source.ndim == spatial + 2 and move.dim == 0 else None

    return rule


def _linear(move: Move) -> int | None:
    last = move.output.ndim - 1
    if move.slot == 0:
        return move.dim if move.dim < move.source.ndim - 1 else None
    if move.slot == 1:
        return last if move.dim == 0 and move.source.ndim == 2 else None
    return last if move.slot == 2 else None


def _matmul(move: Move) -> int | None:
    return _product(move, move.slot, move.argument(1 - move.slot, "other", move.kwargs.get("mat2")))


def _reversed_matmul(move: Move) -> int | None:
    return _product(move, 1 - move.slot, move.args[1 - move.slot])


def _product(move: Move, slot: int, other: Any) -> int | None:
    from_right = move.source.ndim - 1 - move.dim
    other_is_vector = isinstance(other, Tensor) and other.ndim == 1
    if slot == 0:
        if from_right == 0:
            return None
        return move.output.ndim - 1 - from_right + int(other_is_vector)
    if slot != 1 or from_right == min(1, move.source.ndim - 1):
        return None
    return move.output.ndim - 1 - from_right + int(other_is_vector and from_right > 1)


def _products_added(move: Move) -> int | None:
    # addmm, baddbmm: (added, left, right).
    return _aligned_right(move) if move.slot == 0 else _product(move, move.slot - 1, None)


def _contracted(move: Move) -> int | None:
    # tensordot: what is left of the first operand, then of the second.
    dims = move.argument(2, "dims", 2)
    first: Tensor = move.args[0]
    pair: list[list[int]]
    if isinstance(dims, int):
        pair = [list(range(first.ndim - dims, first.ndim)), list(range(dims))]
    elif isinstance(dims, (tuple, list)) and len(dims) == 2:
        pair = [[end] if isinstance(end, int) else list(end) for end in dims]
    else:
        return None
    own = {dim % move.source.ndim for dim in pair[move.slot]} if move.slot in {0, 1} else {move.dim}
    if move.dim in own:
        return None
    ahead = first.ndim - len(pair[0]) if move.slot == 1 else 0
    return ahead + move.dim - sum(dim < move.dim for dim in own)


def _inner(move: Move) -> int | None:
    # inner: (..., K) and (..., K) give the first's other dimensions, then the second's; a number scales the other.
    pair = [tensor.ndim for tensor in move.tensors[:2]]
    if move.slot not in {0, 1} or 0 in pair:
        return None
    ahead = move.args[0].ndim - 1 if move.slot == 1 and isinstance(move.args[0], Tensor) else 0
    return None if move.dim == move.source.ndim - 1 else ahead + move.dim


def _distances(move: Move) -> int | None:
    # cdist: (..., P, M) and (..., R, M) give (..., P, R).
    last = move.source.ndim - 1
    if move.dim == last or move.slot not in {0, 1}:
        return None
    return move.dim + move.output.ndim - move.source.ndim + int(move.dim == last - 1 and move.slot == 1)


def _unfolded(move: Move) -> Place:
    # Tensor.unfold along one dimension adds one; F.unfold makes columns of images (B, C, H, W).
    if move.output.ndim < move.source.ndim:
        return _in_front(move)
    return _untouched(1, "dimension")(move)


def _diagonal(move: Move) -> int | None:
    pair = {move.left(int(move.argument(place, f"dim{place - 1}", place - 2))) for place in (2, 3)}
    return None if move.dim in pair else move.dim - sum(dim < move.dim for dim in pair)


def _reshaped(move: Move) -> Place:
    # A reshape keeps the order of elements: as many blocks lie before the batch as did.
    if move.output.numel() != move.source.numel():
        return None
    before = move.source.shape[: move.dim].numel() * move.outer
    seen = 1
    for dim, size in enumerate(move.output.shape):
        if size and before % seen == 0 and size % (before // seen * move.batch) == 0:
            return dim, before // seen
        seen *= size
    return None


def _transposed(move: Move) -> int:
    first, second = (move.left(move.argument(i, f"dim{i - 1}", move.kwargs.get(f"axis{i - 1}", 0))) for i in (1, 2))
    return {first: second, second: first}.get(move.dim, move.dim)


def _last_two_swapped(move: Move) -> int:
    last = move.source.ndim - 1
    return {last: last - 1, last - 1: last}.get(move.dim, move.dim) if last else 0


def _reversed(move: Move) -> int:
    return move.source.ndim - 1 - move.dim


def _permuted(move: Move) -> int | None:
    order = move.dims(1, "dims", many=True)
    return order.index(move.dim) if order else None


def _moved(move: Move) -> int | None:
    sources, targets = (
        [ends] if isinstance(ends, int) else list(ends)
        for ends in (move.argument(1, "source"), move.argument(2, "destination"))
    )
    order: dict[int, int] = {move.left(t): move.left(s) for s, t in zip(sources, targets, strict=True)}
    rest = iter(dim for dim in range(move.source.ndim) if dim not in order.values())
    return [order[dim] if dim in order else next(rest) for dim in range(move.source.ndim)].index(move.dim)


def _unsqueezed(move: Move) -> int:
    new = int(move.argument(1, "dim")) % (move.source.ndim + 1)
    return move.dim + (new <= move.dim)


def _squeezed(move: Move) -> int:
    dims = move.dims(1, "dim", many=True)
    if dims is None:
        dims = list(range(move.source.ndim))
    return move.dim - sum(dim < move.dim and move.source.shape[dim] == 1 for dim in dims)


def _stacked(move: Move) -> int:
    new = int(move.argument(1, "dim", 0)) % (move.source.ndim + 1)
    return move.dim + (new <= move.dim)


def _concatenated(move: Move) -> Place:
    dims = move.dims(1, "dim", 0)
    if dims is None or move.dim not in dims:
        return None if dims is None else move.dim
    # Whole batches one after the other: the batch is repeated.
    joined = move.args[0] if move.args else move.kwargs["tensors"]
    if any(all(tensor is not other for other in move.followed) for tensor in joined):
        return None
    whole = all(tensor.shape[move.dim] == move.outer * move.batch for tensor in joined)
    return (move.dim, move.output.shape[move.dim] // move.batch) if whole else None


def _repeated(move: Move) -> Place:
    dim = move.dim + move.output.ndim - move.source.ndim
    times, rest = divmod(move.output.shape[dim], move.source.shape[move.dim])
    if times == 1:
        return dim
    alone = move.source.shape[move.dim] == move.outer * move.batch
    return (dim, times * move.outer) if alone and not rest else None


def _repeated_each(move: Move) -> Place:
    dims = move.dims(2, "dim")
    if move.slot or dims is None:
        return None
    if move.dim not in dims:
        return move.dim
    return (move.dim, move.outer) if isinstance(move.argument(1, "repeats"), int) else None


def _recurrent(move: Move) -> Place:
    # (input, states, weights, has_biases, layers, dropout, train, bidirectional, batch_first) -> (output, h_n, c_n):
    # the batch is dimension 1 of the states, whether or not it is the first of the input. Packed sequences lose it.
    plain = len(move.args) == 9 and isinstance(move.args[2], (tuple, list)) and isinstance(move.args[3], bool)
    expected = 1
    if plain and move.slot == 0:
        expected = 0 if move.args[8] else 1
    if not plain or move.slot not in {0, 1} or move.source.ndim != 3 or move.dim != expected:
        return None
    return 1 if move.index else (0 if move.args[8] else 1)


def _compared(position: int) -> Rule:
    # cosine_similarity: broadcast, then reduced along one dimension.
    def rule(move: Move) -> int | None:
        ndim = max(tensor.ndim for tensor in move.tensors)
        reduced = int(move.argument(position, "dim", 1)) % ndim
        dim = move.dim + ndim - move.source.ndim
        return None if dim == reduced else dim - (dim > reduced)

    return rule


def _compared_last(move: Move) -> int | None:
    ndim = max(tensor.ndim for tensor in move.tensors)
    dim = move.dim + ndim - move.source.ndim
    return dim if dim < ndim - 1 else None


def _expanded(move: Move) -> int | None:
    return _aligned_right(move) if move.slot == 0 else None


def _copied(move: Move) -> int | None:
    # base.copy_(source): base lies as the source does.
    return _aligned_right(move) if move.slot == 1 else None


def _looked_up(move: Move) -> int | None:
    # embedding(indices, table)
    if move.slot == 0:
        return move.dim
    return move.output.ndim - 1 if move.slot == 1 and move.dim == 1 else None


def _bagged(move: Move) -> Place:
    if not move.args[0].is_floating_point():  # F.embedding_bag(indices, table, ...)
        weights = move.source.shape == move.args[0].shape and move.slot == -1
        return move.dim if (move.slot == 0 or weights) and move.source.ndim == 2 and move.dim == 0 else None
    # torch.embedding_bag(table, indices, offsets, ...): bags of equal length are rows.
    offsets = move.argument(2, "offsets")
    if move.slot in {0, 2} or move.source.ndim != 1 or not isinstance(offsets, Tensor) or move.index:
        return None
    bags, items = len(offsets), len(move.source)
    if not bags or items % bags or bags % (move.outer * move.batch):
        return None
    even = torch.arange(0, items, items // bags, device=offsets.device)
    return (0, move.outer) if items and torch.equal(offsets.to(even.dtype), even) else None


def _index_selected(move: Move) -> int | None:
    if move.slot == 2:
        return int(move.argument(1, "dim")) % move.output.ndim  # table.index_select(dim, indices)
    dims = move.dims(1, "dim")
    return None if move.slot or dims is None or move.dim in dims else move.dim


def _taken(move: Move) -> int | None:
    return move.dim if move.slot == 1 else None  # table.take(indices)


def _attention(move: Move) -> int | None:
    # The last two dimensions are positions and features: attention mixes positions.
    return _aligned_right(move) if move.dim < move.source.ndim - 2 else None


def _multiplied_features(move: Move) -> int | None:
    return move.dim if move.slot in {0, 1} and move.dim < move.source.ndim - 1 else None


def einsum_terms(equation: Any, operands: Sequence[Tensor]) -> tuple[list[str], str] | None:
    """Return the letters of an einsum's operands and of its output, one for each dimension.

    Args:
        equation: as ``torch.einsum`` takes it; ``...`` and a missing output are filled in.
        operands: its operands.

    Returns:
        (terms, output), or None where the equation is not a string.
    """
    if not isinstance(equation, str):
        return None
    left, arrow, right = equation.replace(" ", "").replace("...", ".").partition("->")
    terms = left.split(",")
    dots = [operand.ndim - len(term) + 1 if "." in term else 0 for term, operand in zip(terms, operands, strict=True)]
    names = "".join(chr(0x100 + i) for i in range(max(dots)))
    if not arrow:
        letters = "".join(terms)
        right = "." + "".join(sorted(letter for letter in set(letters) - {"."} if letters.count(letter) == 1))
    # Dots are aligned on the right, as in broadcasting.
    filled = [term.replace(".", names[len(names) - count :]) for term, count in zip(terms, dots, strict=True)]
    return filled, right.replace(".", names)


def _einsum(move: Move) -> int | None:
    listed = isinstance(move.args[1], (list, tuple))
    operands = move.args[1] if listed else move.args[1:]
    terms = einsum_terms(move.args[0], operands)
    if terms is None:
        return None
    letter = terms[0][move.inner if listed else move.slot - 1][move.dim]
    return terms[1].index(letter) if letter in terms[1] else None


def indexed(move: Move) -> int | None:
    """Return where the batch lies in ``x[index]``, for x or for a tensor in the index.

    Args:
        move: the call; ``move.slot`` 0 for x.

    Returns:
        The dimension, or None.
    """
    base: Tensor = move.args[0]
    index = move.argument(1, "index")
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

    if move.slot:
        position = move.inner if move.inner >= 0 else 0
        position += base.ndim - taken - 1 if position > at else 0
        item = items[position] if position < len(items) else None
        return start + block - item.ndim + move.dim if item is move.source and item.dtype is not torch.bool else None
    source_dim = 0
    for item, place in zip(items, places, strict=True):
        wide = _dimensions_of(item)
        if source_dim <= move.dim < source_dim + wide:
            if isinstance(item, slice):
                size = base.shape[move.dim]
                return of_slice(place) if item.indices(size) == (0, size, 1) else None
            return _in_order(item, base.shape[move.dim], start + block) if isinstance(item, Tensor) else None
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


def _kept_of_first(*names: str) -> dict[str, Rule]:
    return dict.fromkeys(names, keeps_samples)


PLACES: dict[str, Rule] = (
    dict.fromkeys(ELEMENT_BY_ELEMENT, _aligned_right)
    | _kept_of_first("tril", "triu", "tril_", "triu_", "one_hot", "view_as_real", "prelu", *FIRST_ONLY)
    | _kept_of_first(
        *("fake_quantize_per_tensor_affine", "fake_quantize_per_channel_affine", "fused_moving_avg_obs_fake_quant"),
        *("_fake_quantize_learnable_per_tensor_affine", "_fake_quantize_learnable_per_channel_affine"),
    )
    | dict.fromkeys(BATCH_IN_FRONT | BATCH_IN_FRONT_OF_SECOND, _in_front)
    | dict.fromkeys(("layer_norm", "rms_norm", "native_layer_norm"), _normalised)
    | dict.fromkeys(("addmm", "baddbmm"), _products_added)
    | dict.fromkeys(("softmax", "log_softmax", "softmin", "_softmax", "_log_softmax"), _normalised_along)
    | dict.fromkeys(("special_softmax", "special_log_softmax"), _normalised_along)
    | dict.fromkeys(
        (
            *("inverse", "linalg_inv", "det", "linalg_det", "slogdet", "linalg_slogdet", "logdet", "cholesky"),
            *("linalg_cholesky", "matrix_exp", "linalg_matrix_exp", "linalg_svd", "linalg_svdvals", "svd"),
            *("linalg_qr", "qr", "linalg_eigh", "linalg_eigvalsh", "linalg_pinv", "pinverse", "linalg_matrix_power"),
            *("matrix_power", "logm", "linalg_eig", "linalg_eigvals"),
        ),
        _matrices,
    )
    | dict.fromkeys(("hstack", "column_stack"), _joined_along(1))
    | dict.fromkeys(("quantile", "nanquantile"), _quantile)
    | dict.fromkeys(("outer", "ger"), _outer)
    | dict.fromkeys(
        (
            *("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "index_fill"),
            *("fft_fftshift", "fft_ifftshift", "narrow"),
        ),
        _untouched(1),
    )
    | dict.fromkeys(
        ("diff", "fft_fft", "fft_ifft", "fft_rfft", "fft_irfft", "fft_hfft", "fft_ihfft"), _untouched(2, default=-1)
    )
    | dict.fromkeys(("fft_fft2", "fft_ifft2", "fft_rfft2", "fft_irfft2"), _untouched(2, default=(-2, -1)))
    | dict.fromkeys(("fft_fftn", "fft_ifftn", "fft_rfftn", "fft_irfftn"), _untouched(2))
    | dict.fromkeys(("copy_",), _copied)
    | dict.fromkeys(("transpose", "swapaxes", "swapdims"), _transposed)
    | dict.fromkeys(("reshape", "view", "view_as", "reshape_as", "flatten", "unflatten", "ravel"), _reshaped)
    | dict.fromkeys(("mT", "mH", "adjoint"), _last_two_swapped)
    | dict.fromkeys(("T", "H", "t"), _reversed)
    | dict.fromkeys(("movedim", "moveaxis"), _moved)
    | dict.fromkeys(("expand", "expand_as", "broadcast_to"), _expanded)
    | dict.fromkeys(("repeat", "tile"), _repeated)
    | dict.fromkeys(("cat", "concat", "concatenate"), _concatenated)
    | dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent)
    | dict.fromkeys(("gather",), _untouched(1, slots=(0, 2)))
    | dict.fromkeys(("scatter", "scatter_", "scatter_add", "scatter_add_"), _untouched(1, slots=(0, 2, 3)))
    | dict.fromkeys(("scatter_reduce",), _untouched(1, slots=(0, 2, 3)))
    | dict.fromkeys(("index_add", "index_add_", "index_copy", "index_copy_"), _untouched(1, slots=(0, 3)))
    | dict.fromkeys(("sort", "argsort"), _untouched(1, default=-1))
    | dict.fromkeys(("chunk", "split", "tensor_split"), _untouched(2, default=0))
    | dict.fromkeys(("select", "unbind"), _selected)
    | dict.fromkeys(
        (
            *("sum", "mean", "prod", "amax", "amin", "max", "min", "var", "std", "logsumexp", "argmax", "argmin"),
            *("any", "all", "median", "nansum", "nanmean", "count_nonzero", "var_mean", "std_mean", "mode"),
        ),
        _reduced(1),
    )
    | dict.fromkeys(("norm", "vector_norm", "linalg_vector_norm", "linalg_norm"), _reduced(2))
    | dict.fromkeys(("nanmedian", "special_logsumexp", "aminmax"), _reduced(1))
    | {f"conv{kind}{spatial}d": _convolved(spatial) for kind in ("", "_transpose") for spatial in (1, 2, 3)}
    | dict.fromkeys(("matmul", "mm", "bmm", "mv", "__matmul__"), _matmul)
    | dict.fromkeys(ITEM_LOSSES | ROW_LOSSES | VECTOR_LOSSES, _loss)
    | {
        "__rmatmul__": _reversed_matmul,
        "bilinear": _multiplied_features,
        "broadcast_tensors": _aligned_right,
        "bucketize": _sorted_into(0),
        "cdist": _distances,
        "cosine_similarity": _compared(2),
        "diag_embed": _alone,
        "diagonal": _diagonal,
        "einsum": _einsum,
        "embedding": _looked_up,
        "dstack": _joined_along(2),
        "embedding_bag": _bagged,
        "flip": _untouched(1, "dims"),
        "fliplr": _flipped(1),
        "flipud": _flipped(0),
        "__getitem__": indexed,
        "glu": _untouched(1, default=-1),
        "gumbel_softmax": _untouched(4, default=-1),
        "index_select": _index_selected,
        "inner": _inner,
        "linalg_multi_dot": _chained,
        "linalg_solve": _solved,
        "rot90": _rotated,
        "linalg_cross": _untouched(2, default=-1, slots=(0, 1)),
        "cross": _untouched(2, slots=(0, 1)),
        "linear": _linear,
        "normalize": _untouched(2, default=1),
        "pad": _padded,
        "pairwise_distance": _compared_last,
        "permute": _permuted,
        "renorm": _slices_scaled,
        "repeat_interleave": _repeated_each,
        "roll": _untouched(2, "dims"),
        "scaled_dot_product_attention": _attention,
        "searchsorted": _searched,
        "squeeze": _squeezed,
        "stack": _stacked,
        "take": _taken,
        "take_along_dim": _untouched(2, slots=(0, 1)),
        "tensordot": _contracted,
        "topk": _untouched(2, default=-1),
        "unfold": _unfolded,
        "unsqueeze": _unsqueezed,
        "view_as_complex": _before_features(1, 0),
        "where": _chosen,
    }
)

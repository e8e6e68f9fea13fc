"""Where the batch lies in a tensor: followed from the model's input through every torch function of the forward pass.

A per-sample gradient is only right if the rows of a layer's input are the samples' rows. Shapes cannot tell: a position
table of shape (T, C) looks like a batch when T equals B. So the batch dimension is *followed*: it starts as dimension 0
of the model's input, and every function moves it, keeps it or loses it.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autobatch._errors import MeasureError
from autobatch.fisher.layers._keeping import BATCH_IN_FRONT, ELEMENT_BY_ELEMENT, FEATURES_LAST


class Claim:
    """A use of a parameter on a tensor that does not descend from the batch, such as an initial state of zeros (B, H).

    Its dimension 0 is taken for the batch until the result meets a tensor that does descend from it: there the two
    dimensions must line up under broadcasting. If they do, each sample has rows of its own. If not, the result is one
    value that all samples share, and what counts is where they meet it.

    Attributes:
        where: parameter and function, for error messages.
        confirmed: whether the dimension was found to be the batch; None while nobody knows.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.confirmed: bool | None = None

    def settle(self, confirmed: bool) -> None:
        """Note whether the dimension is the batch.

        Args:
            confirmed: whether it is.

        Raises:
            MeasureError: where another use has shown the opposite.
        """
        if self.confirmed not in {None, confirmed}:
            raise MeasureError(
                f"{self.where}: its result is used once as a value of each sample and once as one that all samples"
                " share: give each sample its own rows, such as positions of shape (B, T), or freeze the parameter"
            )
        self.confirmed = confirmed


@dataclass(frozen=True)
class BatchLayout:
    """Dimension ``dim`` is (outer, B, inner) in row-major order: the batch alone, or merged with other dimensions.

    Attributes:
        dim: the dimension, counted from the left.
        outer: how many times the batch is repeated in it; 1 where it is batch-major.
        claims: what this rests on, where the tensor does not descend from the batch itself.
    """

    dim: int
    outer: int = 1
    claims: tuple[Claim, ...] = ()

    @property
    def open_claims(self) -> tuple[Claim, ...]:
        """The claims that nothing has settled yet."""
        return tuple(claim for claim in self.claims if claim.confirmed is None)

    @property
    def refuted(self) -> bool:
        """Whether a claim that this rests on was wrong."""
        return any(claim.confirmed is False for claim in self.claims)

    def samples_first(self, tensor: Tensor, batch: int) -> Tensor:
        """Return a tensor of this layout with its samples in front.

        Args:
            tensor: of any shape whose dimension ``dim`` is (outer, B, inner).
            batch: B.

        Returns:
            (B, the dimensions before ``dim``, outer, inner, the dimensions after it); a view where one exists.
        """
        shape = tensor.shape
        inner = shape[self.dim] // (self.outer * batch)
        split = (*shape[: self.dim], self.outer, batch, inner, *shape[self.dim + 1 :])
        return tensor.reshape(split).movedim(self.dim + 1, 0)


@dataclass(frozen=True)
class LostBatch:
    """The tensor descends from the batch, but samples lie in no single dimension of it, or in another order.

    Attributes:
        function: name of the function after which the batch could not be followed.
    """

    function: str


Layout = BatchLayout | LostBatch
IN_FRONT = BatchLayout(0)


class Layouts:
    """The layouts of tensors, as long as these live."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[weakref.ref[Tensor], Layout]] = {}

    def __setitem__(self, tensor: Tensor, layout: Layout) -> None:
        self._found[id(tensor)] = (weakref.ref(tensor), layout)

    def get(self, tensor: Tensor) -> Layout | None:
        """Return the layout of a tensor, or None."""
        found = self._found.get(id(tensor))
        # Another tensor may have come to lie where one has died.
        return found[1] if found is not None and found[0]() is tensor else None

    def items(self) -> Iterator[tuple[Tensor, Layout]]:
        """Yield the tensors that live, with their layouts."""
        for reference, layout in self._found.values():
            if (tensor := reference()) is not None:
                yield tensor, layout


@dataclass(frozen=True)
class _Move:
    """One call as the rules below see it: an input that carries the batch at ``dim``, and the ``index``-th output."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    source: Tensor
    dim: int
    outer: int
    output: Tensor
    index: int
    batch: int
    followed: Sequence[Tensor] = ()
    tensors: Sequence[Tensor] = ()

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(name, default)

    def dims(self, position: int, name: str, default: Any = None) -> list[int] | None:
        """Return dimensions given as an int, a sequence or several arguments, from the left; None if absent."""
        value = self.argument(position, name, default)
        if isinstance(value, int) and not isinstance(value, bool):
            rest = [item for item in self.args[position + 1 :] if isinstance(item, int) and not isinstance(item, bool)]
            value = [value, *rest]
        if not isinstance(value, (tuple, list)):
            return None
        return [self.left(int(item)) for item in value]

    def left(self, dim: int) -> int:
        return dim % max(1, self.source.ndim)


# A rule gives the output's dimension, or (dimension, outer) where the merging changes, or None where samples are lost.
_Place = int | tuple[int, int] | None
_Rule = Callable[[_Move], _Place]


def settle_claims(name: str, args: Sequence[Any], carriers: Sequence[tuple[Tensor, Layout]]) -> None:
    """Confirm or refute open claims where their tensors meet one that carries the batch for certain.

    Args:
        name: the function's name.
        args: its positional arguments.
        carriers: the arguments whose layout is known, with it.
    """
    followed = [(tensor, layout) for tensor, layout in carriers if isinstance(layout, BatchLayout)]
    certain = [pair for pair in followed if not pair[1].open_claims]
    if not certain:
        return
    source, layout = max(certain, key=lambda pair: pair[0].ndim)
    for tensor, other in followed:
        if not other.open_claims or (name in _LOOKUPS and tensor is not args[_LOOKUPS[name]]):
            continue
        aligned = name not in _LOOKUPS and _aligned(tensor, other, source, layout)
        if name.startswith(_WEIGHTED):
            aligned = aligned and tensor is args[0]
        elif name in _PRODUCTS:
            aligned = aligned and tensor.ndim - other.dim > 2
        for claim in other.open_claims:
            claim.settle(aligned)


def _aligned(tensor: Tensor, layout: BatchLayout, other: Tensor, other_layout: BatchLayout) -> bool:
    return (
        tensor.ndim - layout.dim == other.ndim - other_layout.dim
        and layout.outer == other_layout.outer
        and tensor.shape[layout.dim] == other.shape[other_layout.dim]
    )


def propagate(
    name: str,
    *,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    carriers: Sequence[tuple[Tensor, Layout]],
    tensors: Sequence[Tensor],
    output: Tensor,
    index: int,
    batch: int,
) -> Layout | None:
    """Follow the batch through one call, after ``settle_claims``.

    Args:
        name: the function's name.
        args: its positional arguments.
        kwargs: its keyword arguments.
        carriers: the arguments whose layout is known and stands, with it (at least one).
        tensors: all tensor arguments.
        output: a tensor that it returned.
        index: which of the returned tensors that is.
        batch: B.

    Returns:
        The output's layout; None where it takes only its dtype, device, shape or the like from a tensor with the batch.
    """
    if name in _FRESH or (name in _FIRST_ONLY and all(tensor is not args[0] for tensor, _ in carriers)):
        return None
    if name in _FIRST_ONLY:
        carriers = [pair for pair in carriers if pair[0] is args[0]]
    followed = [(tensor, layout) for tensor, layout in carriers if isinstance(layout, BatchLayout)]
    if not followed:
        return next(layout for _, layout in carriers if isinstance(layout, LostBatch))
    if name in _LOOKUPS:
        table = args[_LOOKUPS[name]]
        followed = [pair for pair in followed if pair[0] is table] or followed
    certain = [pair for pair in followed if not pair[1].open_claims]
    source, layout = max(certain or followed, key=lambda pair: pair[0].ndim)
    claims = () if certain else tuple({claim for _, other in followed for claim in other.open_claims})
    if name not in _MANY_INPUTS and any(not _aligned(tensor, other, source, layout) for tensor, other in followed):
        return LostBatch(name)
    rule = _RULES.get(name)
    move = _Move(
        args,
        kwargs,
        source,
        layout.dim,
        layout.outer,
        output,
        index,
        batch,
        followed=[tensor for tensor, _ in followed],
        tensors=tensors,
    )
    place = rule(move) if rule else None
    if place is None:
        return LostBatch(name)
    dim, outer = place if isinstance(place, tuple) else (place, layout.outer)
    if dim >= output.ndim or output.shape[dim] % (outer * batch):
        return LostBatch(name)
    # One object for the usual layout, so that layouts are quickly seen to be the same.
    return BatchLayout(dim, outer, claims) if dim or outer > 1 or claims else IN_FRONT


def written_into(base: Tensor, index: Any, value: Tensor, layout: BatchLayout, batch: int) -> BatchLayout | None:
    """Return the layout that a fresh tensor takes when a part of it is overwritten: ``base[index] = value``.

    Args:
        base: the tensor.
        index: where it is overwritten.
        value: what is written.
        layout: the layout of the value.
        batch: B.

    Returns:
        The layout of ``base``, or None where its samples cannot be told.
    """
    target = base.detach()[index]
    if target.ndim < value.ndim:
        return None
    for dim, size in enumerate(base.shape):
        if size and size % (layout.outer * batch) == 0:
            move = _Move((base, index), {}, base, dim, layout.outer, target, 0, batch)
            if _indexed(move) == layout.dim + target.ndim - value.ndim:
                return BatchLayout(dim, layout.outer, layout.claims)
    return None


def overwritten_in(
    base: Tensor, index: Any, value: Tensor, *, layout: BatchLayout, value_layout: Layout | None, batch: int
) -> bool:
    """Whether samples stay in place where a part of a tensor that carries the batch is overwritten.

    Args:
        base: the tensor.
        index: where it is overwritten.
        value: what is written.
        layout: the layout of the tensor.
        value_layout: that of the value, if it has one.
        batch: B.

    Returns:
        True where the value is the same for all samples or lies as they do.
    """
    if value_layout is None:
        return True
    target = base.detach()[index]
    place = _indexed(_Move((base, index), {}, base, layout.dim, layout.outer, target, 0, batch))
    return (
        isinstance(value_layout, BatchLayout)
        and place == value_layout.dim + target.ndim - value.ndim
        and value_layout.outer == layout.outer
    )


def _kept(move: _Move) -> int | None:
    # The dimension stays where it was, or moves right where broadcasting adds dimensions on the left.
    dim = move.dim
    if move.output.ndim > move.source.ndim and _broadcasts(move.tensors, move.output):
        dim += move.output.ndim - move.source.ndim
    same = dim < move.output.ndim and move.output.shape[dim] == move.source.shape[move.dim]
    return dim if same else None


def _in_front(move: _Move) -> int | None:
    return _kept(move) if move.dim == 0 and move.source.ndim > 1 else None


def _before_features(features: int) -> _Rule:
    # Functions that touch only the last dimensions, or that the batch leaves by its size where they touch its own.

    def rule(move: _Move) -> int | None:
        return _left_aligned(move) if move.dim < move.source.ndim - features else None

    return rule


def _normalised(move: _Move) -> int | None:
    return move.dim if move.dim < move.source.ndim - len(move.argument(1, "normalized_shape")) else None


def _products_added(move: _Move) -> int | None:
    # addmm, baddbmm: (added, left, right).
    if move.source is move.args[0]:
        return _kept(move)
    named = [move.kwargs[name] for name in ("mat1", "mat2", "batch1", "batch2") if name in move.kwargs]
    pair = (*move.args[1:], *named)
    return _matmul(_Move(pair, {}, move.source, move.dim, move.outer, move.output, 0, move.batch))


def layer_keeps(name: str, x: Tensor, output: Tensor) -> bool:
    """Whether a function is one of the most frequent layers, which keep a batch in front in front: a short cut.

    Args:
        name: its name.
        x: its input, with the batch in front.
        output: its output.

    Returns:
        False also where nothing is known.
    """
    dimensions = _LAYERS.get(name, 0)
    whole = x.ndim == dimensions or (dimensions == 2 and x.ndim > 1)
    return whole and output.ndim == x.ndim and output.shape[0] == x.shape[0]


def _convolved(spatial: int) -> _Rule:
    def rule(move: _Move) -> int | None:
        whole = move.source is move.args[0] and move.source.ndim == spatial + 2
        return 0 if whole and move.dim == 0 else None

    return rule


def _contracted(move: _Move) -> int | None:
    # tensordot: what is left of the first operand, then of the second.
    dims = move.argument(2, "dims", 2)
    first: Tensor = move.args[0]
    second: Tensor = move.args[1]
    pair: list[list[int]]
    if isinstance(dims, int):
        pair = [list(range(first.ndim - dims, first.ndim)), list(range(dims))]
    elif isinstance(dims, (tuple, list)) and len(dims) == 2:
        pair = [[end] if isinstance(end, int) else list(end) for end in dims]
    else:
        return None
    own = {dim % move.source.ndim for dim in pair[int(move.source is second)]}
    if move.dim in own:
        return None
    ahead = first.ndim - len(pair[0]) if move.source is second else 0
    return ahead + move.dim - sum(dim < move.dim for dim in own)


def _distances(move: _Move) -> int | None:
    # cdist: (..., P, M) and (..., R, M) give (..., P, R).
    last = move.source.ndim - 1
    if move.dim == last:
        return None
    shift = move.output.ndim - move.source.ndim
    return move.dim + shift + int(move.dim == last - 1 and move.source is not move.args[0])


def _unfolded(move: _Move) -> _Place:
    # Tensor.unfold along one dimension adds one; F.unfold makes columns of images (B, C, H, W).
    if move.output.ndim < move.source.ndim:
        return _in_front(move)
    return _untouched(1, "dimension")(move)


def _diagonal(move: _Move) -> int | None:
    pair = {move.left(int(move.argument(place, f"dim{place - 1}", place - 2))) for place in (2, 3)}
    return None if move.dim in pair else move.dim - sum(dim < move.dim for dim in pair)


def _taken(move: _Move) -> int | None:
    return move.dim if move.source is not move.args[0] else None  # table.take(indices)


def _loss(move: _Move) -> int | None:
    whole = move.output.ndim > 0 and move.output.shape[0] == move.source.shape[0]
    return 0 if move.dim == 0 and whole else None


def _copied_from(move: _Move) -> int | None:
    # base.copy_(source): base lies as the source does, aligned on the right.
    return _right_aligned(move) if move.source is move.args[1] else None


def _broadcasts(tensors: Sequence[Tensor], output: Tensor) -> bool:
    try:
        return np.broadcast_shapes(*(tuple(tensor.shape) for tensor in tensors)) == tuple(output.shape)
    except ValueError:
        return False


def _reshaped(move: _Move) -> _Place:
    # A reshape keeps the order of elements: as many blocks lie before the batch as did.
    before = move.source.shape[: move.dim].numel() * move.outer
    seen = 1
    for dim, size in enumerate(move.output.shape):
        if size and before % seen == 0 and size % (before // seen * move.batch) == 0:
            return dim, before // seen
        seen *= size
    return None


def _transposed(move: _Move) -> int:
    first, second = (move.left(move.argument(i, f"dim{i - 1}", move.kwargs.get(f"axis{i - 1}", 0))) for i in (1, 2))
    return {first: second, second: first}.get(move.dim, move.dim)


def _last_two_swapped(move: _Move) -> int:
    last = move.source.ndim - 1
    return {last: last - 1, last - 1: last}.get(move.dim, move.dim) if last else 0


def _reversed(move: _Move) -> int:
    return move.source.ndim - 1 - move.dim


def _permuted(move: _Move) -> int | None:
    order = move.dims(1, "dims")
    return order.index(move.dim) if order else None


def _moved(move: _Move) -> int | None:
    sources = (
        [move.argument(1, "source")] if isinstance(move.argument(1, "source"), int) else move.argument(1, "source")
    )
    targets = [move.argument(2, "destination")] if len(sources) == 1 else move.argument(2, "destination")
    targets = [target if isinstance(target, int) else target[0] for target in targets]
    order: dict[int, int] = {move.left(t): move.left(s) for s, t in zip(sources, targets, strict=True)}
    rest = iter(dim for dim in range(move.source.ndim) if dim not in order.values())
    return [order[dim] if dim in order else next(rest) for dim in range(move.source.ndim)].index(move.dim)


def _unsqueezed(move: _Move) -> int:
    new = int(move.argument(1, "dim")) % (move.source.ndim + 1)
    return move.dim + (new <= move.dim)


def _squeezed(move: _Move) -> int:
    dims = move.dims(1, "dim")
    if dims is None:
        dims = list(range(move.source.ndim))
    return move.dim - sum(dim < move.dim and move.source.shape[dim] == 1 for dim in dims)


def _stacked(move: _Move) -> int:
    new = int(move.argument(1, "dim", 0)) % (move.source.ndim + 1)
    return move.dim + (new <= move.dim)


def _untouched(position: int, name: str = "dim", default: Any = None) -> _Rule:
    # For functions along one dimension: samples stay in place unless that is theirs.

    def rule(move: _Move) -> int | None:
        dims = move.dims(position, name, default)
        if dims is None or move.dim in dims:
            return None
        return move.dim

    return rule


def _selected(move: _Move) -> int | None:
    dims = move.dims(1, "dim", 0)
    if dims is None or dims[0] == move.dim:
        return None
    return move.dim - (dims[0] < move.dim)


def _reduced(move: _Move) -> int | None:
    dims = move.dims(1, "dim")
    if dims is None and "axis" in move.kwargs:
        dims = move.dims(len(move.args), "axis")
    if dims is None and move.output.shape == move.source.shape:
        return move.dim  # max(x, y) and min(x, y) of two tensors
    if dims is None or move.dim in dims:
        return None
    return move.dim if move.output.ndim == move.source.ndim else move.dim - sum(dim < move.dim for dim in dims)


def _concatenated(move: _Move) -> _Place:
    dims = move.dims(1, "dim", 0)
    if dims is None or move.dim not in dims:
        return None if dims is None else move.dim
    # Whole batches one after the other: the batch is repeated.
    joined = move.args[0] if move.args else move.kwargs["tensors"]
    if any(all(tensor is not other for other in move.followed) for tensor in joined):
        return None
    whole = all(tensor.shape[move.dim] == move.outer * move.batch for tensor in joined)
    return (move.dim, move.output.shape[move.dim] // move.batch) if whole else None


def _repeated(move: _Move) -> _Place:
    dim = move.dim + move.output.ndim - move.source.ndim
    times, rest = divmod(move.output.shape[dim], move.source.shape[move.dim])
    if times == 1:
        return dim
    alone = move.source.shape[move.dim] == move.outer * move.batch
    return (dim, times * move.outer) if alone and not rest else None


def _repeated_each(move: _Move) -> _Place:
    dims = move.dims(2, "dim")
    even = isinstance(move.argument(1, "repeats"), int)
    return move.dim if dims is not None and (move.dim not in dims or even) else None


def _recurrent(move: _Move) -> _Place:
    # (output, h_n, c_n): states are (layers, B, hidden), whether the input is batch-first or not.
    if move.source is not move.args[0] or move.source.ndim != 3:
        return None
    return 1 if move.index else move.dim


def _reduced_along(position: int, default: int) -> _Rule:
    def rule(move: _Move) -> int | None:
        dims = move.dims(position, "dim", default)
        if dims is None or move.dim in dims:
            return None
        return move.dim - sum(dim < move.dim for dim in dims)

    return rule


def _reduced_last(move: _Move) -> int | None:
    return move.dim if move.dim < move.source.ndim - 1 else None


def _right_aligned(move: _Move) -> int | None:
    dim = move.dim + move.output.ndim - move.source.ndim
    return dim if move.output.shape[dim] == move.source.shape[move.dim] else None


def _indexed(move: _Move) -> int | None:
    # x[...]: plain slices and integers beyond the batch, or x[arange(B), index] that picks from each sample.
    index = move.argument(1, "index")
    if index is move.source:
        return move.dim  # table[indices]
    items = list(index) if isinstance(index, tuple) else [index]
    if isinstance(items[0], Tensor) and move.dim == 0 and items[0].ndim == 1 and items[0].dtype == torch.int64:
        rows = torch.arange(move.source.shape[0], device=items[0].device)
        return 0 if torch.equal(items[0], rows) else None
    taken = sum(item is not None and item is not Ellipsis for item in items)
    spread = [slice(None)] * (move.source.ndim - taken)
    at = next((i for i, item in enumerate(items) if item is Ellipsis), len(items))
    items[at : at + 1] = spread
    advanced = [item for item in items if not (item is None or isinstance(item, (int, slice)))]
    if len(advanced) > 1:
        return None
    source_dim = output_dim = 0
    for item in items:
        if source_dim == move.dim and item is not None:
            whole = isinstance(item, slice) and item.indices(move.source.shape[move.dim]) == (
                0,
                move.source.shape[move.dim],
                1,
            )
            return output_dim if whole else None
        source_dim += item is not None
        if item is None or isinstance(item, slice):
            output_dim += 1
        elif not isinstance(item, int):
            # Indices along one dimension put their own dimensions there; a mask of several dimensions merges them.
            index = torch.as_tensor(item)
            if index.dtype is torch.bool and index.ndim != 1:
                return None
            output_dim += index.ndim
    return None


def _left_aligned(move: _Move) -> int:
    return move.dim


def _linear(move: _Move) -> int | None:
    return move.dim if move.dim < move.source.ndim - 1 else None


def _matmul(move: _Move) -> int | None:
    first = move.args[0] is move.source
    other = move.argument(1, "other", move.kwargs.get("mat2")) if first else move.args[0]
    summed = move.source.ndim - 1 if first else max(0, move.source.ndim - 2)
    if move.dim == summed:
        return None
    return move.dim if other.ndim == 1 else move.dim + move.output.ndim - max(2, move.source.ndim)


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


def _einsum(move: _Move) -> int | None:
    operands = move.args[1] if isinstance(move.args[1], (list, tuple)) else move.args[1:]
    terms = einsum_terms(move.args[0], operands)
    if terms is None:
        return None
    place = next(i for i, operand in enumerate(operands) if operand is move.source)
    letter = terms[0][place][move.dim]
    return terms[1].index(letter) if letter in terms[1] else None


def _index_selected(move: _Move) -> int | None:
    dims = move.dims(1, "dim")
    if move.source is not move.args[0]:
        return int(move.argument(1, "dim")) % move.output.ndim  # table.index_select(dim, indices)
    return None if dims is None or move.dim in dims else move.dim


def _attention(move: _Move) -> int | None:
    # The last two dimensions are positions and features: attention mixes positions.
    return move.dim if move.dim < move.source.ndim - 2 else None


# Functions that take nothing but dtype and device from their tensor, and those that do so from all but the first.
_FRESH = frozenset({
    *("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor", "zeros_like", "ones_like", "empty_like"),
    *("full_like", "rand_like", "randn_like", "randint_like"),
})
_FIRST_ONLY = frozenset({"to", "type_as", "view_as", "reshape_as", "expand_as"})

# Functions that take rows of a table by index, and the table's place among their arguments.
_LOOKUPS = {"__getitem__": 0, "index_select": 0, "take": 0, "embedding": 1}

# Functions whose carriers may hold the batch in different places without mixing samples up: the rule decides.
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
_MANY_INPUTS = frozenset({"einsum", *_RECURRENT})

# Dimensions of a layer's input: exactly so many, or at least two.
_LAYERS = {"conv1d": 3, "conv2d": 4, "conv3d": 5, "batch_norm": 2, "linear": 2}

# Losses, which without a reduction give one for each sample.
_LOSSES = (
    *("cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy"),
    *("binary_cross_entropy_with_logits", "kl_div", "poisson_nll_loss", "gaussian_nll_loss", "cosine_embedding_loss"),
    *("margin_ranking_loss", "soft_margin_loss", "hinge_embedding_loss", "triplet_margin_loss", "multi_margin_loss"),
    *("multilabel_margin_loss", "multilabel_soft_margin_loss", "cross_entropy_loss"),
)

# Functions in which only the first argument can carry the batch, and those whose last two dimensions are a matrix.
_WEIGHTED = ("linear", "conv")
_PRODUCTS = frozenset({"matmul", "mm", "bmm"})

_RULES: dict[str, _Rule] = (
    dict.fromkeys(ELEMENT_BY_ELEMENT, _kept)
    | dict.fromkeys(BATCH_IN_FRONT, _in_front)
    | {name: _before_features(features) for name, features in FEATURES_LAST.items()}
    | dict.fromkeys(("layer_norm", "rms_norm", "native_layer_norm"), _normalised)
    | dict.fromkeys(("addmm", "baddbmm"), _products_added)
    | dict.fromkeys(("softmax", "log_softmax", "softmin", "gumbel_softmax", "_softmax", "_log_softmax"), _untouched(1))
    | dict.fromkeys(
        (
            *("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "index_fill"),
            *("fft_fftshift", "fft_ifftshift"),
        ),
        _untouched(1),
    )
    | dict.fromkeys(("renorm", "diff"), _untouched(2, default=-1))
    | dict.fromkeys(
        ("fft_fft", "fft_ifft", "fft_rfft", "fft_irfft", "fft_hfft", "fft_ihfft"), _untouched(2, default=-1)
    )
    | dict.fromkeys(("fft_fft2", "fft_ifft2", "fft_rfft2", "fft_irfft2"), _untouched(2, default=(-2, -1)))
    | dict.fromkeys(("fft_fftn", "fft_ifftn", "fft_rfftn", "fft_irfftn"), _untouched(2))
    | dict.fromkeys(("linalg_cross", "cross"), _untouched(2, default=-1))
    | dict.fromkeys(("normalize",), _untouched(2, default=1))
    | dict.fromkeys(("glu",), _untouched(1, default=-1))
    | dict.fromkeys(("cosine_similarity",), _reduced_along(2, default=1))
    | dict.fromkeys(("pairwise_distance",), _reduced_last)
    | dict.fromkeys(("copy_",), _copied_from)
    | dict.fromkeys(("transpose", "swapaxes", "swapdims"), _transposed)
    | dict.fromkeys(("reshape", "view", "view_as", "reshape_as", "flatten", "unflatten", "ravel"), _reshaped)
    | dict.fromkeys(("mT", "mH", "adjoint"), _last_two_swapped)
    | dict.fromkeys(("T", "H", "t"), _reversed)
    | dict.fromkeys(("movedim", "moveaxis"), _moved)
    | dict.fromkeys(("expand", "expand_as", "broadcast_to"), _right_aligned)
    | dict.fromkeys(("repeat", "tile"), _repeated)
    | dict.fromkeys(("cat", "concat", "concatenate"), _concatenated)
    | dict.fromkeys(_RECURRENT, _recurrent)
    | dict.fromkeys(("gather", "narrow"), _untouched(1))
    | dict.fromkeys(("scatter", "scatter_", "scatter_add", "scatter_add_", "scatter_reduce"), _untouched(1))
    | dict.fromkeys(("index_add", "index_add_", "index_copy", "index_copy_"), _untouched(1))
    | dict.fromkeys(("sort", "argsort", "topk"), _untouched(1, default=-1))
    | dict.fromkeys(("chunk", "split", "tensor_split"), _untouched(2, default=0))
    | dict.fromkeys(("select", "unbind"), _selected)
    | dict.fromkeys(
        (
            *("sum", "mean", "prod", "amax", "amin", "max", "min", "var", "std", "norm", "vector_norm", "logsumexp"),
            *("argmax", "argmin", "any", "all", "median", "nansum", "nanmean", "count_nonzero", "var_mean"),
            *("std_mean", "mode"),
        ),
        _reduced,
    )
    | {f"conv{kind}{spatial}d": _convolved(spatial) for kind in ("", "_transpose") for spatial in (1, 2, 3)}
    | dict.fromkeys(("embedding", "embedding_bag"), _left_aligned)
    | dict.fromkeys(("matmul", "mm", "bmm", "mv"), _matmul)
    | dict.fromkeys(_LOSSES, _loss)
    | {
        "linear": _linear,
        "tensordot": _contracted,
        "cdist": _distances,
        "diagonal": _diagonal,
        "unfold": _unfolded,
        "take": _taken,
        "repeat_interleave": _repeated_each,
        "index_select": _index_selected,
        "take_along_dim": _untouched(2),
        "scaled_dot_product_attention": _attention,
        "permute": _permuted,
        "unsqueeze": _unsqueezed,
        "squeeze": _squeezed,
        "stack": _stacked,
        "flip": _untouched(1, "dims"),
        "roll": _untouched(2, "dims"),
        "__getitem__": _indexed,
        "einsum": _einsum,
    }
)
# Functions that cannot move samples where input and output have the same shape.
STAYING = (ELEMENT_BY_ELEMENT | {"batch_norm", "group_norm", "instance_norm", "layer_norm"}) - _FIRST_ONLY

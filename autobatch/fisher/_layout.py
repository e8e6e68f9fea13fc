"""Where the batch lies in a tensor: followed from the model's input through every torch function of the forward pass.

A per-sample gradient is only right if the rows of a layer's input are the samples' rows. Shapes cannot tell: a position
table of shape (T, C) looks like a batch when T equals B. So the batch dimension is *followed*: it starts as dimension 0
of the model's input, and every function moves it, keeps it or loses it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autobatch._errors import MeasureError


class Claim:
    """A use of a parameter on a tensor that does not descend from the batch, such as an initial state of zeros (B, H).

    Its dimension 0 is taken for the batch until the result meets a tensor that does descend from it: there the two
    dimensions must line up under broadcasting, else the parameter has no per-sample gradient.

    Attributes:
        complaint: the error message for a claim that turns out wrong.
        confirmed: whether the dimension was found to be the batch.
    """

    def __init__(self, complaint: str) -> None:
        self.complaint = complaint
        self.confirmed = False


@dataclass(frozen=True)
class BatchLayout:
    """The batch is the major part of dimension ``dim``, whose size is B or a multiple of it (batch-major).

    Attributes:
        dim: the dimension, counted from the left.
        claims: what this rests on, where the tensor does not descend from the batch itself.
    """

    dim: int
    claims: tuple[Claim, ...] = ()

    @property
    def open_claims(self) -> tuple[Claim, ...]:
        """The claims not confirmed yet."""
        return tuple(claim for claim in self.claims if not claim.confirmed)


@dataclass(frozen=True)
class LostBatch:
    """The tensor descends from the batch, but samples lie in no single dimension of it, or in another order.

    Attributes:
        function: name of the function after which the batch could not be followed.
    """

    function: str


Layout = BatchLayout | LostBatch


@dataclass(frozen=True)
class _Move:
    """One call as the rules below see it: an input that carries the batch at ``dim``, and one output."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    source: Tensor
    dim: int
    output: Tensor
    batch: int

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


_Rule = Callable[[_Move], int | None]


def propagate(
    name: str,
    *,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    carriers: Sequence[tuple[Tensor, Layout]],
    tensors: Sequence[Tensor],
    output: Tensor,
    batch: int,
) -> Layout | None:
    """Follow the batch through one call.

    Args:
        name: the function's name.
        args: its positional arguments.
        kwargs: its keyword arguments.
        carriers: the arguments whose layout is known, with it (at least one).
        tensors: all tensor arguments.
        output: a tensor that it returned.
        batch: B.

    Returns:
        The output's layout; None where it takes only its dtype, device or the like from a tensor with the batch.

    Raises:
        MeasureError: where a claim turns out wrong.
    """
    if name in _FRESH or (name in _FIRST_ONLY and all(tensor is not args[0] for tensor, _ in carriers)):
        return None
    followed = [(tensor, layout) for tensor, layout in carriers if isinstance(layout, BatchLayout)]
    if not followed:
        return next(layout for _, layout in carriers if isinstance(layout, LostBatch))
    if name in _LOOKUPS:
        followed = _looked_up(args[_LOOKUPS[name]], followed)
    certain = [pair for pair in followed if not pair[1].open_claims]
    source, layout = max(certain or followed, key=lambda pair: pair[0].ndim)
    claims = () if certain else tuple({claim for _, other in followed for claim in other.open_claims})
    for tensor, other in followed:
        if tensor.ndim - other.dim == source.ndim - layout.dim:
            if certain:
                for claim in other.open_claims:
                    claim.confirmed = True
        elif wrong := (*other.open_claims, *layout.open_claims):
            raise MeasureError(wrong[0].complaint)
        elif name not in _MANY_INPUTS:
            return LostBatch(name)
    rule = _RULES.get(name)
    move = _Move(args, kwargs, source, layout.dim, output, batch)
    dim = rule(move) if rule else _kept(move, tensors)
    if dim is None or dim >= output.ndim or output.shape[dim] % batch:
        return LostBatch(name)
    return BatchLayout(dim, claims)


def _looked_up(table: Tensor, followed: list[tuple[Tensor, BatchLayout]]) -> list[tuple[Tensor, BatchLayout]]:
    # Rows of a table taken by index do not line up with the index by broadcasting: the table decides if it carries the
    # batch, and a table shared by all samples, looked up by each, does not carry it whatever its shape says.
    tables = [pair for pair in followed if pair[0] is table]
    if tables and len(followed) > len(tables) and (claims := tables[0][1].open_claims):
        raise MeasureError(claims[0].complaint)
    return tables or followed


def _kept(move: _Move, tensors: Sequence[Tensor]) -> int | None:
    # The default: the dimension stays where it was, or moves right where broadcasting adds dimensions on the left.
    dim = move.dim
    if move.output.ndim > move.source.ndim and _broadcasts(tensors, move.output):
        dim += move.output.ndim - move.source.ndim
    same = dim < move.output.ndim and move.output.shape[dim] == move.source.shape[move.dim]
    return dim if same else None


def _broadcasts(tensors: Sequence[Tensor], output: Tensor) -> bool:
    try:
        return np.broadcast_shapes(*(tuple(tensor.shape) for tensor in tensors)) == tuple(output.shape)
    except ValueError:
        return False


def _reshaped(move: _Move) -> int | None:
    # A reshape keeps the order of elements: the batch begins where as many blocks lie before it as did.
    before = move.source.shape[: move.dim].numel()
    seen = 1
    for dim, size in enumerate(move.output.shape):
        if seen == before and size % move.batch == 0 and size:
            return dim
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
    if any(not (item is None or item is Ellipsis or isinstance(item, (int, slice))) for item in items):
        return None
    taken = sum(item is not None and item is not Ellipsis for item in items)
    spread = [slice(None)] * (move.source.ndim - taken)
    at = next((i for i, item in enumerate(items) if item is Ellipsis), len(items))
    items[at : at + 1] = spread
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
        output_dim += item is None or isinstance(item, slice)
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


def _einsum(move: _Move) -> int | None:
    equation = move.args[0]
    if not isinstance(equation, str) or "->" not in equation or "." in equation:
        return None
    left, right = equation.replace(" ", "").split("->")
    operands = move.args[1] if isinstance(move.args[1], (list, tuple)) else move.args[1:]
    place = next(i for i, operand in enumerate(operands) if operand is move.source)
    letter = left.split(",")[place][move.dim]
    return right.index(letter) if letter in right else None


# Functions that take nothing but dtype and device from their tensor, and those that do so from all but the first.
_FRESH = frozenset({"new_zeros", "new_ones", "new_empty", "new_full", "new_tensor"})
_FIRST_ONLY = frozenset({"to", "type_as", "view_as", "reshape_as"})

# Functions that take rows of a table by index, and the table's place among their arguments.
_LOOKUPS = {"__getitem__": 0, "index_select": 0, "embedding": 1}

# Functions whose carriers may hold the batch in different places without mixing samples up: the rule decides.
_MANY_INPUTS = frozenset({"einsum"})

_RULES: dict[str, _Rule] = (
    dict.fromkeys(("transpose", "swapaxes", "swapdims"), _transposed)
    | dict.fromkeys(("reshape", "view", "view_as", "reshape_as", "flatten", "unflatten", "ravel"), _reshaped)
    | dict.fromkeys(("mT", "mH", "adjoint"), _last_two_swapped)
    | dict.fromkeys(("T", "H", "t"), _reversed)
    | dict.fromkeys(("movedim", "moveaxis"), _moved)
    | dict.fromkeys(("expand", "expand_as", "broadcast_to", "repeat", "tile"), _right_aligned)
    | dict.fromkeys(("cat", "concat", "concatenate"), _untouched(1, default=0))
    | dict.fromkeys(("index_select", "gather", "take_along_dim", "index_add", "scatter", "narrow"), _untouched(1))
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
    | dict.fromkeys(("conv1d", "conv2d", "embedding"), _left_aligned)
    | dict.fromkeys(("matmul", "mm", "bmm"), _matmul)
    | {
        "linear": _linear,
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

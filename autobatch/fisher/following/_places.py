"""Where the functions put the samples of each of their arguments that neither ``_shapes`` nor its neighbours have.

A rule sees one argument that carries the batch at a dimension, and says at which dimension of an output it then lies.
Where several arguments carry it, all must come to lie at the same place (``Through``). A function without a rule loses
the batch, and so does an argument for which its rule returns None. Which function has which rule, and what else is
known of it, stands in ``autobatch.fisher._registry``.
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from autobatch._errors import MeasureError
from autobatch.fisher.following._move import WHOLE, Move, Place, Rule, aligned_right, untouched


def in_front(*slots: int) -> Rule:
    """Return the rule of functions that have the batch in dimension 0, and what mixes behind it."""
    return lambda move: 0 if move.slot in slots and move.dim == 0 and move.source.ndim > 1 else None


def before_features(features: int, *slots: int) -> Rule:
    """Return the rule of functions that touch only the last dimensions."""

    def rule(move: Move) -> int | None:
        return move.dim if move.slot in slots and move.dim < move.source.ndim - features else None

    return rule


def normalised(move: Move) -> int | None:
    shape = move.argument(1, "normalized_shape")
    features = 1 if isinstance(shape, int) else len(shape)
    return move.dim if move.slot == 0 and move.dim < move.source.ndim - features else None


def padded(move: Move) -> int | None:
    widths = list(move.argument(1, "pad"))
    from_right = move.source.ndim - 1 - move.dim
    return None if move.slot or any(widths[2 * from_right : 2 * from_right + 2]) else move.dim


def alone(move: Move) -> int | None:
    return move.dim if len(move.args) == 1 and not move.kwargs else None


def nested(_: Move) -> Place:
    raise MeasureError("nested tensors cannot be followed: pad them, with a mask, or keep their rows joined")


def searched(move: Move) -> int | None:
    boundaries = move.args[0]
    return move.dim if move.slot == 1 and isinstance(boundaries, Tensor) and boundaries.ndim == 1 else None


def chosen(move: Move) -> int | None:
    alone = len(move.args) + len(move.kwargs) == 1  # where(condition): the indices of what is true
    return None if alone else aligned_right(move)


def normalised_along(move: Move) -> int | None:
    dims = move.dims(1, "dim")
    if dims is None:  # torch.nn.functional.softmax(x) chooses by the number of dimensions
        dims = [0 if move.source.ndim in {0, 1, 3} else 1]
    return None if move.slot or move.dim in dims else move.dim


def quantile(move: Move) -> Place:
    several = isinstance(move.argument(1, "q"), Tensor)  # a dimension more
    place = None if several else reduced(2)(move)
    return None if place == WHOLE else place


def slices_scaled(move: Move) -> int | None:
    # renorm: each slice along the dimension is scaled by its own norm.
    return move.dim if move.dims(2, "dim") == [move.dim] else None


def reduced(position: int) -> Rule:
    def rule(move: Move) -> Place:
        if move.call.name in {"max", "min"} and isinstance(move.argument(1, "other"), Tensor):
            return aligned_right(move)
        if move.slot:
            return None
        dims = move.dims(position, "dim")
        if not dims or move.dim in dims:
            return WHOLE
        return move.dim if move.output.ndim == move.source.ndim else move.dim - sum(dim < move.dim for dim in dims)

    return rule


def loss(of: Literal["items", "rows", "vectors"]) -> Rule:
    """Return the rule of losses of single items; of rows of classes, which are dimension 1; and of vectors, the last.

    Without a reduction, each sample keeps its own.
    """
    term = among_losses(of)

    def rule(move: Move) -> Place:
        place = term(move)
        if place is None or not move.output.ndim:
            return None if place is None else WHOLE
        return place if of == "rows" else place + move.output.ndim

    return rule


def among_losses(of: Literal["items", "rows", "vectors"]) -> Callable[[Move], int | None]:
    """Return what says where samples lie among the single losses: of rows from the left, else (negative) the right."""

    def rule(move: Move) -> int | None:
        ndim = max(tensor.ndim for tensor in move.followed)
        if move.slot < 0:
            return None
        if of == "rows":
            classes = move.slot == 0 and (move.dim == 1 or move.source.ndim == 1)
            return None if classes else move.dim - int(move.dim > 1 and move.slot == 0)
        if of == "vectors" and (ndim == 1 or move.dim == ndim - 1):
            return None
        place, whole = move.dim - move.source.ndim, move.source.ndim == ndim
        if of == "vectors":
            return place + int(whole)
        one_of_each_row = move.call.name == "gaussian_nll_loss" and move.slot == 2 and not whole  # a variance
        return place - int(one_of_each_row)

    return rule


def timed_loss(move: Move) -> Place:
    # ctc_loss: (T, B, C) log-probabilities, and rows of targets and lengths.
    expected = 1 if move.slot == 0 and move.source.ndim == 3 else 0
    if move.slot < 0 or move.dim != expected:
        return None
    return 0 if move.output.ndim else WHOLE


def convolved(spatial: int, *, transposed: bool) -> Rule:
    def rule(move: Move) -> Place:
        if move.slot == 0 and move.source.ndim == spatial + 2 and move.dim == 0:
            return 0
        # Filters of each sample's own: an image of (B * channels), in groups of one sample each.
        if (move.slot, move.dim) not in {(0, 1), (1, 0), (2, 0)} or move.output.ndim != spatial + 2:
            return None
        by_groups = move.outer == 1 and int(move.argument(6, "groups", 1)) % move.call.batch == 0
        of_outputs = move.slot == 2 or (move.slot == 1 and not transposed)
        return (1, move.outer) if of_outputs or by_groups else None

    return rule


def normalised_batch(move: Move) -> Place:
    # Channels are normalised one by one: in dimension 1 samples do not meet.
    return 1 if move.slot == 0 and move.dim == 1 else in_front(0)(move)


def unfolded(move: Move) -> Place:
    # Tensor.unfold along one dimension adds one; F.unfold makes columns of images (B, C, H, W).
    if move.output.ndim < move.source.ndim:
        return in_front(0)(move)
    return untouched(1, "dimension")(move)


def recurrent(move: Move) -> Place:
    # (input, states, weights, has_biases, layers, dropout, train, bidirectional, batch_first) -> (output, h_n, c_n):
    # the batch is dimension 1 of the states, whether or not it is the first of the input. Packed sequences lose it.
    plain = len(move.args) == 9 and isinstance(move.args[2], (tuple, list)) and isinstance(move.args[3], bool)
    expected = 1
    if plain and move.slot == 0:
        expected = 0 if move.args[8] else 1
    if not plain or move.slot not in {0, 1} or move.source.ndim != 3 or move.dim != expected:
        return None
    return 1 if move.index else (0 if move.args[8] else 1)


def compared(default: int, position: int = 2) -> Rule:
    """Return the rule of functions that broadcast two tensors and reduce along one dimension, given at a position."""

    def rule(move: Move) -> int | None:
        ndim = max(tensor.ndim for tensor in move.call.tensors)
        along = int(move.argument(position, "dim", default)) % ndim
        dim = move.dim + ndim - move.source.ndim
        return None if dim == along else dim - (dim > along)

    return rule


def attention(move: Move) -> int | None:
    # The last two dimensions are positions and features: attention mixes positions.
    return aligned_right(move) if move.dim < move.source.ndim - 2 else None

"""Where products put the samples of their operands: to the dimension that has their letter, as in ``torch.einsum``."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from autobatch.fisher.following._move import WHOLE, Move, Place, Rule


def written(*equations: str) -> Rule:
    """Return the rule of products that are written as in ``torch.einsum``: of several, by the first that fits.

    Letters are those of each operand's last dimensions; those before them are broadcast. What has a letter that is not
    in the output meets others.
    """
    choices = [(terms.split(","), output) for terms, output in (equation.split("->") for equation in equations)]

    def rule(move: Move) -> Place:
        if not 0 <= move.slot < len(choices[0][0]):
            return None
        if not move.output.ndim:  # of two vectors, sample by sample
            return WHOLE
        for terms, output in choices:
            term, ahead = terms[move.slot], move.output.ndim - len(output)
            if 0 <= move.source.ndim - len(term) <= ahead:
                break
        from_right = move.dim - move.source.ndim
        if from_right < -len(term):
            return ahead + len(term) + from_right
        place = output.find(term[from_right])
        return None if place < 0 else ahead + place

    return rule


def contracted(move: Move) -> int | None:
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


def grouped(move: Move) -> int | None:
    # grouped_mm: rows after each other, in groups, each by a matrix of its own.
    plain = move.slot == 0 and move.source.ndim == 2 and move.output.ndim == 2
    return move.dim if plain and move.dim == 0 and len(move.output) == len(move.source) else None


def inner(move: Move) -> Place:
    # inner: (..., K) and (..., K) give the first's other dimensions, then the second's; a number scales the other.
    pair = [tensor.ndim for tensor in move.call.tensors[:2]]
    if move.slot not in {0, 1} or 0 in pair:
        return None
    if not move.output.ndim:  # of two vectors, sample by sample
        return WHOLE
    ahead = move.args[0].ndim - 1 if move.slot == 1 and isinstance(move.args[0], Tensor) else 0
    return None if move.dim == move.source.ndim - 1 else ahead + move.dim


def chained(move: Move) -> int | None:
    matrices = move.args[0]
    first = move.inner == 0 and move.dim == 0 and move.source.ndim == 2
    last = move.inner == len(matrices) - 1 and move.dim == 1
    if first:
        return 0
    return move.output.ndim - 1 if last else None


def solved(move: Move) -> Place:
    # solve(A, B): B holds columns, or one vector for each matrix.
    matrix, right = move.args[0], move.argument(1, "B")
    vectors = right.ndim == matrix.ndim - 1 and right.shape == matrix.shape[:-1]
    return written("ij,j->r" if vectors else "ij,jk->rk")(move)


def triangular(move: Move) -> Place:
    # solve_triangular(A, B): the rows of B are mixed, or with left=False its columns.
    return written("ij,jk->rk" if move.kwargs.get("left", True) else "ij,kj->kr")(move)


def einsum_terms(equation: Any, operands: Sequence[Tensor]) -> tuple[list[str], str] | None:
    """Return the letters of an einsum's operands and of its output, one for each dimension, if it has an equation."""
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


def einsum(move: Move) -> Place:
    letter, output = _letters(move)
    if letter and not move.output.ndim:
        return WHOLE
    return output.index(letter) if letter and letter in output else None


def einsum_letter(move: Move) -> int | None:
    """Return which letter the samples have: where an einsum gives one number, they are summed over it."""
    letter, _ = _letters(move)
    return ord(letter) if letter else None


def _letters(move: Move) -> tuple[str, str]:
    listed = isinstance(move.args[1], (list, tuple))
    operands = move.args[1] if listed else move.args[1:]
    terms = einsum_terms(move.args[0], operands)
    if terms is None:
        return "", ""
    return terms[0][move.inner if listed else move.slot - 1][move.dim], terms[1]

"""What is known of a function, one call of it, one argument that carries the batch through that; the plainest rules.

What is known of each function of torch stands in one table, ``autobatch.fisher._registry``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from autobatch.fisher.following._layout import Layout

WHOLE = "whole"
"""Place of a result into which all samples went together, such as a mean over the batch."""


Heeded = Literal["all", "none", "first", "each", "source", "elements", "rows", "floats"]
Additive = Literal["", "linear", "term", "product", "quotient"]


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of one function: where it puts samples, and how its weights get their per-sample gradients."""

    # Says where the samples of one argument that carries the batch lie in what is returned; without it, or where it
    # says None, they are lost.
    layout: "Rule | None" = None
    # Makes the per-sample gradients of the weights among the arguments; without it they are made one sample at a time
    # (``layers._generic``).
    rows: Callable[..., Any] | None = None
    # Whether a use of a weight on what does not descend from the batch may have a row for each sample.
    claims: bool = False
    # Whether its weights' gradients can be taken from the sum of those rows: its own backward pass does not look at its
    # output, and it returns one tensor of its own memory.
    tapped: bool = False
    # Follows samples that lie by an index, where ``layout`` cannot.
    by_index: Callable[..., tuple[int, Tensor] | None] | None = None
    # Of which arguments the samples matter: ``"all"``; ``"none"`` (it takes dtype, device or shape from them); the
    # ``"first"`` alone; ``"each"`` for the result in its own place; all but the first, what it held being gone
    # (``"source"``); the ``"elements"`` that it picks, the first argument's if they have samples; the ``"rows"`` that
    # it puts where the third argument says; or ``"floats"``, for it knows what whole numbers say.
    heeds: Heeded = "all"
    # How it takes sums over samples to one: as any ``"linear"`` function does, as a sum of ``"term"``s, a ``"product"``
    # or a ``"quotient"``; ``""`` where it does not.
    additive: Additive = ""
    # Of one that takes values of single samples to their sum, or a multiple of that: says where the samples of an
    # argument lie among these values, for in several arguments they must be the same samples'.
    sums: "Rule | None" = None
    couples: bool = False  # whether its values depend on the whole batch, though every row stays a sample's own
    random: bool = False  # whether it draws random numbers beside weights
    transposes: bool = False  # whether a matrix alone comes out transposed
    # Places of its arguments that are given by name, where they are not those that most functions have.
    slots: Mapping[str, int] = field(default_factory=dict)

    @property
    def stays(self) -> bool:
        """Whether it cannot move samples where all arguments have the same layout and as many dimensions."""
        return self.layout is aligned_right and self.heeds == "all"


@dataclass(eq=False, slots=True)
class TorchCall:
    """One call of a torch function during the forward pass, with all tensors among its arguments and results, and B."""

    function: Callable[..., Any]
    known: Known
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    tensors: list[Tensor]
    outputs: list[Tensor]
    batch: int


@dataclass(eq=False, slots=True)
class Move:
    """One argument that carries the batch, at one place among the arguments of a call, on its way into one output."""

    call: TorchCall
    args: Sequence[Any]  # its positional arguments
    kwargs: Mapping[str, Any]  # its keyword arguments, without numpy's names
    source: Tensor
    layout: Layout  # where the batch lies in it
    slot: int  # its position; -1 for a keyword argument that has none here
    inner: int  # its position in a list or tuple of tensors at ``slot``; else -1
    output: Tensor = field(init=False)
    index: int = field(init=False)  # which of the returned tensors that is
    followed: Sequence[Tensor] = field(init=False)  # all arguments that carry the batch

    @property
    def dim(self) -> int:
        """The dimension of ``source`` that carries the batch, where that is not lost."""
        return self.layout.dim  # type: ignore[union-attr]

    @property
    def outer(self) -> int:
        """How many times the batch is repeated in it."""
        return self.layout.outer  # type: ignore[union-attr]

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
        return [int(item) % max(1, self.source.ndim) for item in value] if isinstance(value, (tuple, list)) else None


Place = int | tuple[int, int] | str | None
Rule = Callable[[Move], Place]


def aligned_right(move: Move) -> int | None:
    """Element by element, with broadcasting."""
    dim = move.dim + move.output.ndim - move.source.ndim
    return dim if dim >= 0 else None


def in_slots(rule: Rule, *slots: int) -> Rule:
    """Return a rule that holds for arguments at some positions alone."""
    return lambda move: rule(move) if move.slot in slots else None


def untouched(position: int, name: str = "dim", default: Any = None, *, slots: tuple[int, ...] = (0,)) -> Rule:
    """Return the rule of functions along one dimension: samples stay in place unless that is theirs."""

    def rule(move: Move) -> int | None:
        dims = move.dims(position, name, default, many=name == "dims")
        return None if move.slot not in slots or dims is None or move.dim in dims else move.dim

    return rule


keeps_samples = in_slots(lambda move: move.dim, 0)

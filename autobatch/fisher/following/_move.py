"""A call, and one argument that carries the batch through it: what a rule of places sees; and the plainest rules."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

WHOLE = "whole"
"""Place of a result into which all samples went together, such as a mean over the batch."""


@dataclass(eq=False)
class TorchCall:
    """One call of a torch function during the forward pass.

    Attributes:
        function: the torch function.
        name: its name.
        args: its positional arguments.
        kwargs: its keyword arguments.
        tensors: all tensors among them.
        outputs: the tensors that it returned.
        batch: B.
    """

    function: Callable[..., Any]
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    tensors: list[Tensor]
    outputs: list[Tensor]
    batch: int


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

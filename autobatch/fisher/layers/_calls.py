"""What a rule sees of one call of a torch function, and what it gives back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from autobatch._errors import MeasureError
from autobatch.fisher.following._layout import BatchLayout, Claim, stand
from autobatch.fisher.following._move import TorchCall
from autobatch.fisher.gram._gram import Jacobian
from autobatch.fisher.gram._jacobians import DenseJacobian
from autobatch.fisher.layers._functions import changes_in_place


@dataclass(eq=False)
class Root:
    """A trainable parameter of the model, with what it is owed and receives in a pass."""

    name: str  # dotted, in the model
    tensor: Tensor
    uses: list[tuple[Claim, ...]] = field(default_factory=list)  # the claims that each of its uses rests on
    fired: int = 0  # uses whose gradient has arrived
    received: list[Jacobian] = field(default_factory=list)  # J of these, until it is handed on
    norms: list[Tensor] = field(default_factory=list)  # of the gradients that the parameter itself got
    eps: float = 0.0  # machine epsilon of the gradients' arithmetic
    slack: list[Tensor] = field(default_factory=list)  # of that arithmetic, where one is a sum over many positions
    terms: int = 0  # that it adds one to the next, as far as that is known

    @property
    def owed(self) -> int:
        """Uses that count."""
        return sum(stand(claims) for claims in self.uses)

    def end_pass(self) -> None:
        """Begin afresh."""
        self.uses, self.fired, self.norms, self.eps, self.slack, self.terms = [], 0, [], 0.0, [], 0


@dataclass(frozen=True, eq=False)
class Weight:
    """A tensor that depends on trainable parameters alone: one of them, its transpose, or something made of them."""

    tensor: Tensor  # as it enters calls
    roots: tuple[Root, ...]  # the parameters that it depends on
    transposed: bool = False  # whether it is the transpose of its only root
    made: bool = False  # whether it was computed from its roots, and J must be pulled back to them
    eps: float = 0.0  # machine epsilon of the coarsest dtype on the way from its roots

    @property
    def target(self) -> Tensor:
        """The tensor whose shape and memory order per-sample gradients of a use have."""
        return self.tensor if self.made else self.roots[0].tensor

    @property
    def name(self) -> str:
        """The (first) root's dotted name, for messages."""
        return self.roots[0].name


@dataclass(frozen=True, eq=False)
class Contribution:
    """What one output of one call owes to one weight."""

    weight: Weight
    # Makes the per-sample gradients, in the memory order of ``weight.target``, from the output's gradient.
    jacobian: Callable[[Tensor], Jacobian]
    output: int = 0  # which output of the call


@dataclass(frozen=True)
class Before:
    """What a function is about to change, and what else it needs to be run again."""

    tensor: Tensor | None = None  # the first argument of a function that changes it in place, as it was
    edge: GradientEdge | None = None  # where that was in the graph
    random_state: Tensor | None = None  # the generator's state
    # (version, copy) of other tensors that it might change, such as running statistics, by id.
    states: Mapping[int, tuple[int, Tensor]] = field(default_factory=dict)


NOTHING = Before()


@dataclass(eq=False, slots=True)
class Call(TorchCall):
    """One call, with what measuring knows of it."""

    # Gives where the batch lies in a tensor, from it and what it is there, or raises MeasureError.
    lies: Callable[[Tensor, str], BatchLayout]
    was: Before = NOTHING  # what it was about to change
    tap: Any = None  # what its weights' gradients are taken from, if anything
    used: dict[int, Weight] = field(default_factory=dict)  # the weights among its arguments, by id
    # Where the batch is taken to lie in tensors that do not descend from it, by id.
    assumed: dict[int, BatchLayout] = field(default_factory=dict)

    @property
    def changed(self) -> Tensor | None:
        """The first argument of a function that changes it in place."""
        first = self.args[0] if self.args and changes_in_place(self.name) else None
        return first if isinstance(first, Tensor) else None

    @property
    def site(self) -> tuple[str, str]:
        """A weight's parameter and the function, for messages."""
        return self.weights()[0].name, self.name

    @property
    def node(self) -> Any:
        """Its own node in the autograd graph."""
        return self.outputs[0].grad_fn if self.tap is None else self.tap.node

    @property
    def states(self) -> dict[int, Tensor]:
        """What it has changed besides, such as running statistics, as it was before: by id."""
        versions = {id(tensor): tensor._version for tensor in self.tensors}
        return {key: kept for key, (version, kept) in self.was.states.items() if versions[key] != version}

    @property
    def heeded(self) -> list[Tensor]:
        """The tensors of which it takes more than the shape."""
        return self.tensors[:1] if self.known.heeds == "first" else self.tensors

    @property
    def is_complex(self) -> bool:
        """Whether complex numbers are in it."""
        return any(tensor.is_complex() for tensor in self.tensors + self.outputs)

    def weight(self, tensor: Any) -> Weight | None:
        """Return the weight that a tensor is in this call."""
        return self.used.get(id(tensor)) if isinstance(tensor, Tensor) else None

    def weights(self) -> list[Weight]:
        """Return all weights among the arguments, each once."""
        return list(self.used.values())

    def layout(self, tensor: Tensor) -> BatchLayout:
        """Return where the batch lies in an input, or raise MeasureError."""
        return self.assumed.get(id(tensor)) or self.lies(tensor, "the input")

    def output_layout(self, index: int) -> BatchLayout:
        """Return where the batch lies in an output, or raise MeasureError."""
        output = self.outputs[index]
        return self.assumed.get(id(output)) or self.lies(output, "the output")


Rule = Callable[[Call], list[Contribution]]


def together(
    weights: Mapping[Any, Weight], made: Callable[[Tensor], Mapping[Any, Jacobian]], output: int = 0
) -> list[Contribution]:
    """Return what an output owes to several weights, by any key, made at once when the first of them is asked for.

    ``made`` gives the per-sample gradients of them all, among others, from the output's gradient.
    """
    rows: dict[Any, Jacobian] = {}

    def of(key: Any) -> Callable[[Tensor], Jacobian]:
        def jacobian(gradient: Tensor) -> Jacobian:
            if not rows:
                rows.update(made(gradient))
            return rows.pop(key)

        return jacobian

    return [Contribution(weight, of(key), output) for key, weight in weights.items()]


class NoRuleError(Exception):
    """A rule does not cover this call: the generic one must."""


def saved_elsewhere() -> bool:
    """Whether hooks such as those of activation checkpointing keep what autograd saves for the backward pass."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None


class KeptTensor:
    """A tensor kept for the backward pass, with a guard against being changed in place meanwhile."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor.detach()
        self._version = tensor._version

    def __call__(self) -> Tensor:
        """Return the tensor, or raise MeasureError where it was changed in place."""
        if self._tensor._version != self._version:
            raise MeasureError(
                "the input of this call was changed in place after the call, so its per-sample gradients are gone:"
                " use the out-of-place form there"
            )
        return self._tensor


class KeptInput(KeptTensor):
    """An input of a call kept for the backward pass, which must carry the batch."""

    def __init__(self, call: Call, tensor: Tensor) -> None:
        super().__init__(tensor)
        self.layout = call.layout(tensor)
        self.batch = call.batch
        self.ndim = tensor.ndim
        self.shape = tuple(tensor.shape)

    def by_sample(self, tensor: Tensor) -> Tensor:
        """Return (..., n), whose samples lie as the input's do, as (B, T, n), where T counts every other dimension."""
        plain = self.layout.grouping is None
        if plain and tensor.ndim == 2 and self.layout.dim == 0 and tensor.shape[0] == self.batch:
            return tensor.unsqueeze(1)
        return self.layout.samples_first(tensor, self.batch).reshape(self.batch, -1, tensor.shape[-1])

    def rows(self, tensor: Tensor) -> Tensor:
        """Return (outer * B * r, ...) as (B * outer * r, ...), the rows of a sample one after the other.

        Samples that have fewer rows than others are filled up with zeros.
        """
        if self.layout.outer == 1 and self.layout.grouping is None:
            return tensor
        return self.layout.samples_first(tensor, self.batch).flatten(0, 2)


def arguments(call: Call, names: str, **usual: Any) -> dict[str, Any]:
    """Return the arguments of a call by names, separated by spaces, in order; absent ones are ``usual``, or None."""
    order = names.split()
    return dict.fromkeys(order) | usual | dict(zip(order, call.args, strict=False)) | dict(call.kwargs)


def dense(values: Tensor) -> Jacobian:
    """Return per-sample gradients that are simply held, (B, *shape of the weight), also of a weight without dimensions.

    Of a complex weight real and imaginary parts are elements of their own, one after the other.
    """
    if values.ndim == 1:
        values = values.unsqueeze(1)
    return DenseJacobian(torch.view_as_real(values.resolve_conj()) if values.is_complex() else values)


def precise(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return tensors in one dtype of at least float32, for autocast mixes them."""
    if all(tensor.dtype is torch.float32 for tensor in tensors):
        return tensors
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor if tensor.dtype is dtype else tensor.to(dtype) for tensor in tensors)

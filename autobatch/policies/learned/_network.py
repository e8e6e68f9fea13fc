"""The network of a learned policy: fully connected layers from the flat view to one logit per move.

Single precision on one thread of the CPU whatever the training around it has set up, so that a decision is the same on
every run and after every resumption.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from autobatch._errors import ConfigError
from autobatch.policies._moves import BATCH_MOVES, FORKED_HEADS, RATE_MOVES, STEERED_HEADS

Activation = Literal["tanh", "relu"]
Actions = Literal["multidiscrete", "discrete", "steered", "forked"]

HEADS: dict[str, tuple[int, ...]] = {
    "multidiscrete": (len(BATCH_MOVES), len(RATE_MOVES)),
    "discrete": (9,),
    "steered": STEERED_HEADS,
    "forked": FORKED_HEADS,
}
"""Number of logits for each part of an action, by kind of actions."""

Layers = tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True, eq=False)
class Network:
    """Layers with an activation between them.

    Attributes:
        layers: (weight of shape (out, in), bias of shape (out,)) from the first layer to the last.
        activation: ``"tanh"`` or ``"relu"``, after every layer but the last.
        actions: what the logits stand for, ``"multidiscrete"`` (5 and 3 of them), ``"discrete"`` (9), ``"steered"``
            (5, 3, 2 and 2) or ``"forked"`` (5, 3, 2, 2 and 2).
    """

    layers: Layers
    activation: Activation
    actions: Actions

    def __post_init__(self) -> None:
        if self.activation not in get_args(Activation) or self.actions not in HEADS:
            raise ConfigError(
                f"network: expected activation of {get_args(Activation)} and actions of {tuple(HEADS)}, "
                f"got {self.activation!r} and {self.actions!r}"
            )
        check_layers(dict(self._named()), self.sizes, self.actions, source="network")

    @classmethod
    def of(
        cls,
        layers: Sequence[tuple[ArrayLike | Tensor, ArrayLike | Tensor]],
        *,
        activation: Activation,
        actions: Actions,
    ) -> "Network":
        """Copy layers out of wherever they were trained.

        Args:
            layers: (weight of shape (out, in), bias of shape (out,)) from the first layer to the last.
            activation: ``"tanh"`` or ``"relu"``.
            actions: ``"multidiscrete"`` or ``"discrete"``.

        Returns:
            The network, in single precision on the CPU.
        """
        return cls(tuple((_copied(weight), _copied(bias)) for weight, bias in layers), activation, actions)

    @classmethod
    def of_flat(cls, vector: ArrayLike, sizes: Sequence[int], *, activation: Activation, actions: Actions) -> "Network":
        """Cut one long vector into layers, each its weight row by row and then its bias.

        Args:
            vector: ``parameter_count(sizes)`` numbers.
            sizes: width of the view, of every hidden layer, and number of logits.
            activation: ``"tanh"`` or ``"relu"``.
            actions: ``"multidiscrete"`` or ``"discrete"``.

        Returns:
            The network.

        Raises:
            ConfigError: the vector has another length.
        """
        flat = np.asarray(vector, dtype=np.float32)
        if flat.shape != (parameter_count(sizes),):
            raise ConfigError(
                f"network: layers {list(sizes)} have {parameter_count(sizes)} parameters, got shape {flat.shape}"
            )
        return cls.of(cut(flat, sizes), activation=activation, actions=actions)

    @classmethod
    def of_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        sizes: Sequence[int],
        *,
        activation: Activation,
        actions: Actions,
        source: str,
    ) -> "Network":
        """Take the layers from named tensors.

        Args:
            tensors: ``"0.weight"``, ``"0.bias"``, ``"1.weight"``, ...
            sizes: width of the view, of every hidden layer, and number of logits.
            activation: ``"tanh"`` or ``"relu"``.
            actions: ``"multidiscrete"`` or ``"discrete"``.
            source: where the tensors come from, for messages.

        Returns:
            The network.

        Raises:
            ConfigError: a tensor is missing, unexpected, of another shape or type, or not finite.
        """
        check_layers(tensors, sizes, actions, source)
        layers = [(tensors[f"{index}.weight"], tensors[f"{index}.bias"]) for index in range(len(sizes) - 1)]
        return cls.of(layers, activation=activation, actions=actions)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Width of the view, of every hidden layer, and number of logits."""
        return (*(weight.shape[-1] for weight, _ in self.layers), self.layers[-1][0].shape[0])

    @property
    def heads(self) -> tuple[int, ...]:
        """Number of logits for each part of an action."""
        return HEADS[self.actions]

    def tensors(self) -> dict[str, Tensor]:
        """Return copies of the layers as ``of_tensors`` takes them."""
        return {name: tensor.clone() for name, tensor in self._named()}

    def flat(self) -> NDArray[np.float32]:
        """Return all parameters as ``of_flat`` takes them."""
        return np.concatenate([tensor.numpy().ravel() for _, tensor in self._named()])

    def logits(self, views: ArrayLike) -> NDArray[np.float32]:
        """Return the logits.

        Args:
            views: one flat view or many, shape (..., size).

        Returns:
            Shape (..., number of logits).
        """
        with on_one_thread():
            logits: NDArray[np.float32] = self._activations(_copied(views))[-1].numpy()
            return logits

    def act(self, views: ArrayLike, lead: ArrayLike = 0.0) -> NDArray[np.int64]:
        """Return the moves with the highest logits, as the environments take them.

        Args:
            views: one flat view or many, shape (..., size).
            lead: what is added to the logits, shape (..., logits); with steered and forked actions that is
                ``autobatch.policies.general.lead(views, card.margin)``, as the policy was learned with it.

        Returns:
            Indices, shape (...) for ``"discrete"``, else (..., parts of the action).
        """
        return self.choose(self.logits(views) + np.asarray(lead, dtype=np.float32))

    def choose(self, logits: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the moves with the highest logits.

        Args:
            logits: shape (..., number of logits).

        Returns:
            As ``act``.
        """
        chosen = [part.argmax(axis=-1) for part in self._parts(logits)]
        return np.asarray(chosen[0]) if self.actions == "discrete" else np.stack(chosen, axis=-1)

    def confidence(self, logits: NDArray[np.float32]) -> list[float]:
        """Return the softmax probability of each chosen move.

        Args:
            logits: those of one view.

        Returns:
            One number for each part of the action.
        """
        return [float(1.0 / np.exp(part - part.max(), dtype=np.float64).sum()) for part in self._parts(logits)]

    def weigh(self, view: ArrayLike, lead: ArrayLike | None = None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the logits of one view and what each of its entries did for the choice.

        Args:
            view: the flat view, shape (size,).
            lead: what is added to the logits, whatever the view, shape (logits,); None for nothing.

        Returns:
            The logits with the lead, and per entry its value times the gradient of the margin by which the chosen moves
            lead their runners-up.
        """
        with on_one_thread():
            entries = _copied(view)
            activations = self._activations(entries)
            logits = activations[-1] if lead is None else activations[-1] + _copied(lead)
            gradient = _margin_gradient(logits, self.heads)
            for index in reversed(range(len(self.layers))):
                gradient = gradient @ self.layers[index][0]
                if index:
                    gradient = gradient * self._slope(activations[index])
            return logits.numpy(), (gradient * entries).numpy()

    def _parts(self, logits: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return np.split(logits, np.cumsum(self.heads)[:-1], axis=-1)

    def _activations(self, views: Tensor) -> list[Tensor]:
        # What goes into every layer, and last the logits.
        activations = [views]
        for index, (weight, bias) in enumerate(self.layers, start=1):
            outputs = functional.linear(activations[-1], weight, bias)
            if index < len(self.layers):
                outputs = outputs.tanh() if self.activation == "tanh" else outputs.relu()
            activations.append(outputs)
        return activations

    def _slope(self, after: Tensor) -> Tensor:
        # The derivative of the activation, from what it returned.
        return 1.0 - after * after if self.activation == "tanh" else (after > 0.0).to(after.dtype)

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        for index, (weight, bias) in enumerate(self.layers):
            yield f"{index}.weight", weight
            yield f"{index}.bias", bias


def parameter_count(sizes: Sequence[int]) -> int:
    """Return how many numbers the layers of a network have.

    Args:
        sizes: width of the view, of every hidden layer, and number of logits.

    Returns:
        Weights and biases together.
    """
    return sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(sizes))


def cut(vectors: NDArray[np.float32], sizes: Sequence[int]) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Cut long vectors into layers.

    Args:
        vectors: parameters, shape (..., ``parameter_count(sizes)``).
        sizes: width of the view, of every hidden layer, and number of logits.

    Returns:
        Of every layer its weight, shape (..., outputs, inputs), and its bias, shape (..., outputs).
    """
    pairs = list(itertools.pairwise(sizes))
    ends = np.cumsum([length for inputs, outputs in pairs for length in (inputs * outputs, outputs)])
    parts = np.split(vectors, ends[:-1], axis=-1)
    shapes = [(*vectors.shape[:-1], outputs, inputs) for inputs, outputs in pairs]
    return [(own.reshape(shape), bias) for own, bias, shape in zip(parts[::2], parts[1::2], shapes, strict=True)]


def check_layers(tensors: Mapping[str, Tensor], sizes: Sequence[int], actions: Actions, source: str) -> None:
    """Check named tensors against the layers that they should be.

    Args:
        tensors: ``"0.weight"``, ``"0.bias"``, ...
        sizes: width of the view, of every hidden layer, and number of logits.
        actions: ``"multidiscrete"`` or ``"discrete"``.
        source: where the tensors come from, for messages.

    Raises:
        ConfigError: a tensor is missing, unexpected, of another shape or type, or not finite.
    """
    if len(sizes) < 2 or sizes[-1] != sum(HEADS[actions]):
        raise ConfigError(
            f"{source}: expected layers that end in {sum(HEADS[actions])} logits for {actions} actions, "
            f"got layers of {list(sizes)}"
        )
    shapes: dict[str, tuple[int, ...]] = {}
    for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        shapes |= {f"{index}.weight": (outputs, inputs), f"{index}.bias": (outputs,)}
    if set(tensors) != set(shapes):
        raise ConfigError(
            f"{source}: expected the tensors {', '.join(sorted(shapes))}, got {', '.join(sorted(tensors)) or 'none'}"
        )
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tensor.dtype != torch.float32 or tuple(tensor.shape) != shape:
            raise ConfigError(
                f"{source}: tensor '{name}': expected float32 of shape {shape}, "
                f"got {str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
            )
        if not bool(tensor.isfinite().all()):
            raise ConfigError(f"{source}: tensor '{name}': expected finite numbers, got NaN or infinity")


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Compute on one thread, without gradients and in the types that the tensors have."""
    threads = torch.get_num_threads()
    with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.device("cpu"):
        if threads != 1:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if threads != 1:
                torch.set_num_threads(threads)


def _margin_gradient(logits: Tensor, heads: Sequence[int]) -> Tensor:
    gradient = torch.zeros_like(logits)
    start = 0
    for size in heads:
        first, second = logits[start : start + size].topk(2).indices.tolist()
        gradient[start + first] += 1.0
        gradient[start + second] -= 1.0
        start += size
    return gradient


def _copied(values: ArrayLike | Tensor) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().to("cpu", torch.float32, copy=True, memory_format=torch.contiguous_format)
    return torch.tensor(np.asarray(values, dtype=np.float32), device="cpu")

"""Copies of what a training has learnt, in host memory, and how it is put back."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_OWNERS = frozenset({"params", "lr", "initial_lr"})
"""What parameter groups have that is a scheduler's or the loop's to say."""


class Stateful(Protocol):
    """Something whose state can be taken and put back, such as an average of the weights."""

    def state_dict(self) -> Any:
        """Return the state."""
        ...

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Put a state back."""
        ...


@dataclass(frozen=True)
class Weights:
    """Model and optimizer as they were after a number of periods: what this process holds of them.

    Attributes:
        period: finished decision periods.
        tensors: parameters and buffers of the model, and what the optimizer trains besides.
        state: the optimizer's state of each parameter, in the order of its groups.
        groups: what its parameter groups have, but for their rates.
        along: states of what goes back with them.
    """

    period: int
    tensors: list[Tensor]
    state: list[dict[str, Any]]
    groups: list[dict[str, Any]]
    along: list[Any]

    @classmethod
    def of(cls, model: nn.Module, optimizer: Optimizer, along: Sequence[Stateful], period: int) -> "Weights":
        """Take a copy.

        Args:
            model: the network.
            optimizer: its optimizer.
            along: what goes back with them.
            period: finished decision periods.

        Returns:
            The copy, on the CPU.
        """
        return cls(
            period,
            [_copied(tensor) for tensor in _tensors(model, optimizer)],
            [_copied(optimizer.state.get(parameter, {})) for parameter in _parameters(optimizer)],
            [_copied(_settings(group)) for group in optimizer.param_groups],
            [_copied(part.state_dict()) for part in along],
        )

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "Weights":
        """Read back what ``vars`` gives; a KeyError, TypeError or ValueError where it is something else."""
        tensors = [value for value in state["tensors"] if isinstance(value, Tensor)]
        if len(tensors) != len(state["tensors"]):
            raise TypeError("weights that are no tensors")
        return cls(int(state["period"]), tensors, *(list(state[key]) for key in ("state", "groups", "along")))

    def fit(self, model: nn.Module, optimizer: Optimizer, along: Sequence[Stateful]) -> bool:
        """Say whether they are those of such a model and optimizer."""
        counts = (len(self.state), len(self.groups), len(self.along))
        return counts == (sum(1 for _ in _parameters(optimizer)), len(optimizer.param_groups), len(along)) and [
            tensor.shape for tensor in self.tensors
        ] == [_local(tensor).shape for tensor in _tensors(model, optimizer)]

    @torch.no_grad()
    def put_back(self, model: nn.Module, optimizer: Optimizer, along: Sequence[Stateful]) -> None:
        """Bring model and optimizer to where they were; each tensor stays the object that it is."""
        for module in model.modules():
            reshard: Any = getattr(module, "reshard", None)
            if reshard is not None:  # FSDP2 may hold gathered parameters since the last forward pass
                reshard()
        for tensor, kept in zip(_tensors(model, optimizer), self.tensors, strict=True):
            _local(tensor).copy_(kept)
        for parameter, state in zip(_parameters(optimizer), self.state, strict=True):
            if state or parameter in optimizer.state:
                own = optimizer.state[parameter]
                put = _put(own, state, parameter.device)
                own.clear()
                own.update(put)
        for group, settings in zip(optimizer.param_groups, self.groups, strict=True):
            group.update(_put(_settings(group), settings, torch.device("cpu")))
        for part, state in zip(along, self.along, strict=True):
            part.load_state_dict(_copied(state))


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _tensors(model: nn.Module, optimizer: Optimizer) -> Iterator[Tensor]:
    """Yield parameters, buffers, and what the optimizer trains besides, as master weights; each once."""
    seen: set[int] = set()
    for tensor in (*model.parameters(), *model.buffers(), *_parameters(optimizer)):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield tensor


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name not in _OWNERS}


def _local(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor that several may share."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _local(value.detach()).to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(own) for own in value]
    return copy.deepcopy(value)


def _put(now: Any, kept: Any, device: torch.device) -> Any:
    """Return what is kept, in the tensors that are there now where there are such."""
    if isinstance(kept, Tensor):
        if isinstance(now, Tensor) and _local(now).shape == kept.shape:
            _local(now).copy_(kept)
            return now
        return kept.to(device, copy=True)
    if isinstance(kept, Mapping):
        own = now if isinstance(now, Mapping) else {}
        return {key: _put(own.get(key), value, device) for key, value in kept.items()}
    if isinstance(kept, list):
        values = [_put(None, value, device) for value in kept]
        return tuple(values) if isinstance(now, tuple) else values
    return copy.deepcopy(kept)

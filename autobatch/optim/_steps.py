"""What steps are made of: parameters with a gradient, momenta, the way down, counts."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from autobatch._errors import ConfigError


def with_gradient(group: Mapping[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """Return a group's parameters that have a gradient, and these gradients.

    Args:
        group: the group.

    Returns:
        Both, in the same order.

    Raises:
        ConfigError: a gradient is sparse.
    """
    for place, parameter in enumerate(group["params"]):
        if parameter.grad is not None and parameter.grad.layout is not torch.strided:
            name = group["param_names"][place] if "param_names" in group else f"parameter {place} of a group"
            raise ConfigError(
                f"{name}: its gradient, {tuple(parameter.shape)}, is sparse, which this optimizer does not take: give "
                "an embedding sparse=False"
            )
    parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
    return parameters, [parameter.grad for parameter in parameters]


def momenta_of(optimizer: Optimizer, parameters: list[Tensor], keep: float, directions: list[Tensor]) -> list[Tensor]:
    """Return the parameters' momentum buffers, keep m + direction.

    Args:
        optimizer: has them in its state.
        parameters: some of its parameters.
        keep: weight of what was.
        directions: what is added.

    Returns:
        The buffers.
    """
    momenta = []
    for parameter in parameters:
        state = optimizer.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        momenta.append(state["momentum_buffer"])
    if momenta:
        torch._foreach_mul_(momenta, keep)
        torch._foreach_add_(momenta, directions)
    return momenta


LONGEST = 10.0
"""A step over the length of the parameters, at most: what fits in one step, as of a linear layer, may be as long."""


def hold(parameters: list[Tensor], directions: list[Tensor], lr: float) -> Tensor:
    """Cut directions, in place, where a step along them would be more than ten times as long as the parameters, or 1.

    Args:
        parameters: some of a group.
        directions: of each, where it would go down.
        lr: learning rate.

    Returns:
        What they were multiplied by, a scalar in (0, 1].
    """
    length, limit = lr * _length(directions), LONGEST * _length(parameters).clamp_min(1.0)
    share = torch.where(length > limit, limit / length, 1.0)
    for own in directions:
        own.mul_(share.to(own.device, own.dtype))
    return share


def _length(tensors: list[Tensor]) -> Tensor:
    norms: tuple[Tensor, ...] = torch._foreach_norm(tensors)
    length: Tensor = torch.stack([norm.to(norms[0].device, torch.float32) for norm in norms]).norm()
    return length


def descend(parameters: list[Tensor], directions: list[Tensor], group: Mapping[str, Any]) -> None:
    """Take the step -lr (direction + weight_decay parameter): the decay is decoupled.

    Args:
        parameters: some of a group.
        directions: of each, where it would go down.
        group: the group.
    """
    if not parameters:
        return
    lr = group["lr"]
    if group["weight_decay"]:
        torch._foreach_mul_(parameters, 1.0 - lr * group["weight_decay"])
    torch._foreach_add_(parameters, directions, alpha=-lr)


def step_count(state: dict[str, Any]) -> int:
    """Return how many steps a parameter has had, and count one more."""
    if "step" not in state:
        state["step"] = torch.zeros((), dtype=torch.float64)
    done = int(state["step"])
    state["step"] += 1
    return done


def working_dtype(parameter: Tensor) -> torch.dtype:
    """Return what a parameter's factors are kept in: its own dtype, but float32 at least."""
    return torch.promote_types(parameter.dtype, torch.float32)

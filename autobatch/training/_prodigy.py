"""Prodigy, which finds its learning rate itself: made so that checkpoints hold all of it.

Mishchenko and Defazio 2024, "Prodigy: An expeditiously adaptive parameter-free learner", arXiv 2306.06101, in its
authors' program (package ``prodigyopt``). The base learning rate, 1, is a factor on the rate that it finds.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autobatch._errors import ConfigError

_ESTIMATE = ("d", "d_max", "d_numerator", "k")
"""What the package keeps of its estimate in the parameter groups, where checkpoints do not look."""

_FLAT = ("s", "p0")
"""Its tensors that are flattened parameters; one of a parameter that began at 0 is a single 0."""


def build_prodigy(parameters: Iterable[nn.Parameter], *, lr: float, momentum: float, weight_decay: float) -> Optimizer:
    """Make Prodigy.

    Args:
        parameters: what it trains.
        lr: base learning rate, 1 where it is to find the rate alone.
        momentum: first beta, in [0, 1).
        weight_decay: decoupled decay.

    Returns:
        The optimizer; its ``state_dict`` holds the estimate as tensors of the first parameter.

    Raises:
        ConfigError: the package cannot be imported; the message names the extra.
    """
    try:
        from prodigyopt import Prodigy
    except ImportError as error:
        raise ConfigError(
            f"optimizer 'prodigy' needs the package prodigyopt, which cannot be imported ({error}); install it with: "
            "pip install 'autobatch[rivals]'"
        ) from error
    # Given to the constructor itself, weight decay has the package print a line, amid what may be JSON.
    groups = [{"params": list(parameters), "weight_decay": weight_decay}]
    optimizer: Optimizer = Prodigy(groups, lr=lr, betas=(momentum, 0.999))
    optimizer.register_state_dict_post_hook(_with_estimate)
    optimizer.register_load_state_dict_pre_hook(_without_estimate)
    return optimizer


def _with_estimate(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return the state with estimate and step counts as tensors, and flat tensors in their parameter's shape."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        index: {
            name: _shaped(value, parameters[index]) if name in _FLAT else torch.as_tensor(value)
            for name, value in own.items()
        }
        for index, own in state_dict["state"].items()
    }
    if state:
        first, group = min(state), state_dict["param_groups"][0]
        state[first] |= {name: torch.tensor(group[name], dtype=torch.float64) for name in _ESTIMATE}
    return {**state_dict, "state": state}


def _without_estimate(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return a state as the package has it; of a training without a step, the estimate is that of the start."""
    start = state_dict["param_groups"][0]["d0"]
    estimate: dict[str, float] = {"d": start, "d_max": start, "d_numerator": 0.0, "k": 0}
    state = {}
    for index, own in state_dict["state"].items():
        estimate |= {name: type(estimate[name])(own[name]) for name in _ESTIMATE if name in own}
        state[index] = {
            name: value.flatten() if name in _FLAT and value.dim() else int(value) if name == "step" else value
            for name, value in own.items()
            if name not in _ESTIMATE
        }
    return {"state": state, "param_groups": [group | estimate for group in state_dict["param_groups"]]}


def _shaped(value: Tensor, parameter: Tensor) -> Tensor:
    return value.reshape(parameter.shape) if value.dim() else value

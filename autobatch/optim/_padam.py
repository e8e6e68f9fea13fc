"""Padam: between Adam and SGD with momentum, by a power of Adam's denominator."""

import math
from typing import Any

import torch
from torch import Tensor

from autobatch._errors import ConfigError
from autobatch.optim._optimizer import FisherOptimizer
from autobatch.optim._settings import check_between
from autobatch.optim._steps import step_count, with_gradient


class Padam(FisherOptimizer):
    """Partially adaptive momentum estimation (Chen, Zhou, Tang, Yang, Cao and Gu, arXiv 1806.06763).

    With the gradient g, decay included, m = β₁ m + (1 - β₁) g, v = β₂ v + (1 - β₂) g², v̂ = max(v̂, v), a step is

        θ - lr √(1 - β₂ᵗ) / (1 - β₁ᵗ) · m / (√v̂ + ε)²ᵖ,

    as in the authors' program; that the paper's own algorithm has no corrections of the means' bias is from memory.
    p = 1/2 is AMSGrad; for p → 0 it is SGD with a mean of gradients for momentum, its rate times √(1 - β₂ᵗ), which is
    small at first. Usual, with its large rate, is p = 1/8; the program's default of 1/4 is not what its instructions
    use. ``PAdam`` of the package pytorch-optimizer has v for v̂, without the maximum. All is done by ``torch._foreach``
    functions.

    Args:
        params: what it trains, see ``FisherOptimizer``.
        lr: learning rate, at least 0.
        betas: β₁ and β₂, in [0, 1).
        partial: p, in (0, 1/2].
        eps: ε, at least 0; with 0, which 1e-8 is in float16, a gradient that has always been 0 gives NaN.
        weight_decay: coefficient of L2, which is added to the gradient.

    Raises:
        ConfigError: a setting is out of its range.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.1,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        partial: float = 0.125,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "partial": partial, "eps": eps, "weight_decay": weight_decay}
        )

    def _check(self, group: Any) -> None:
        super()._check(group)
        betas = group["betas"]
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise ConfigError(f"betas: expected a pair of numbers, such as (0.9, 0.999), got {betas!r}")
        for number, beta in enumerate(betas):
            check_between(beta, f"betas[{number}]", 0.0, 1.0, below=True)
        check_between(group["partial"], "partial", 0.0, 0.5, above=True)
        check_between(group["eps"], "eps", 0.0, math.inf)

    def _move(self, group: dict[str, Any]) -> None:
        parameters, gradients = with_gradient(group)
        if not parameters:
            return
        first, second = group["betas"]
        if group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
        steps, means, squares, largest = [], [], [], []
        for parameter in parameters:
            state = self.state[parameter]
            for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
                if name not in state:
                    state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            steps.append(step_count(state) + 1)
            means.append(state["exp_avg"])
            squares.append(state["exp_avg_sq"])
            largest.append(state["max_exp_avg_sq"])
        torch._foreach_lerp_(means, gradients, 1.0 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, 1.0 - second)
        torch._foreach_maximum_(largest, squares)
        scales = torch._foreach_sqrt(largest)
        torch._foreach_add_(scales, group["eps"])
        torch._foreach_pow_(scales, 2.0 * group["partial"])
        rates = [-group["lr"] * math.sqrt(1.0 - second**step) / (1.0 - first**step) for step in steps]
        updates: list[Tensor] = list(torch._foreach_div(means, scales))
        torch._foreach_mul_(updates, rates)
        torch._foreach_add_(parameters, updates)

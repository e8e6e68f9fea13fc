"""Optimizers of a user's own, named as ``tests.training.own_optimizers:Lion``; most of them have a fault."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer

number = 3


class Lion(Optimizer):
    """Steps by the sign of a momentum; the step counts lie where tensors do not: in the state and in the groups."""

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, betas: Any = (0.9, 0.99), weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "steps": 0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["steps"] += 1
            first, second = group["betas"]
            for parameter in group["params"]:
                state = self.state[parameter]
                state["steps"] = state.get("steps", 0) + 1
                mean = state.setdefault("means", [torch.zeros_like(parameter)])[0]
                warm = min(1.0, (group["steps"] + state["steps"]) / 40)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(mean.lerp(parameter.grad, 1 - first).sign_(), alpha=group["lr"] * warm)
                mean.lerp_(parameter.grad, 1 - second)


class WithoutRate(Optimizer):
    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"rate": lr})


class NeedsClosure(SGD):
    def step(self, closure: Any) -> None:  # type: ignore[override]
        closure()


class FindsNoClosure(SGD):
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is not None, "where is the closure?"


class Unsaved(SGD):
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.state[self.param_groups[0]["params"][0]]["own"] = lambda: None


class Thing:
    pass


class Foreign(SGD):
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.state[self.param_groups[0]["params"][0]]["own"] = Thing()


class Unloaded(SGD):
    def load_state_dict(self, state_dict: Any) -> None:
        raise NotImplementedError("not yet")


class Forgetful(SGD):
    """Has a step count of its own, which its state_dict lacks."""

    steps = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.steps += 1
        for parameter in self.param_groups[0]["params"]:
            parameter.sub_(parameter.grad, alpha=self.param_groups[0]["lr"] / self.steps)


def nothing(params: Any, lr: float) -> int:
    return 3


def broken(params: Any, lr: float) -> Optimizer:
    raise KeyError("x")

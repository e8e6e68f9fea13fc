"""The factor on the rate during a step: nobody but the optimizer's own code sees it, whatever is hung on or raised."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from tests.control.loops import RATE, Toy, inside_steps


def momentum_sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)


def seen_everywhere(optimizer: torch.optim.Optimizer, seen: list[float]) -> None:
    def look(*_: Any) -> None:
        seen.append(optimizer.param_groups[0]["lr"])
        seen.append(optimizer.state_dict()["param_groups"][0]["lr"])
        seen.append(copy.deepcopy(optimizer).param_groups[0]["lr"])

    optimizer.register_step_pre_hook(look)
    optimizer.register_step_post_hook(look)


@pytest.mark.parametrize("first", [True, False])
def test_no_order_of_hooks_shows_the_factor(first: bool) -> None:
    seen: list[float] = []

    def make(model: nn.Module) -> torch.optim.Optimizer:
        optimizer = momentum_sgd(model)
        if first:
            seen_everywhere(optimizer, seen)
        return optimizer

    toy = Toy([(8, 0.3)], optimize=make)
    if not first:
        seen_everywhere(toy.optimizer, seen)
    toy.epoch()
    assert seen == [RATE] * 18
    assert toy.rates == [0.3] * 3


@pytest.mark.parametrize("made", ["before", "after"])
@pytest.mark.parametrize("stepped", ["pre-hook", "post-hook", "closure", "inside"])
@pytest.mark.parametrize("hooked", ["before", "after"])
def test_a_scheduler_gives_the_same_rates_wherever_it_is_stepped(made: str, stepped: str, hooked: str) -> None:
    scheduler: list[lr_scheduler.LRScheduler] = []

    def hook(optimizer: torch.optim.Optimizer) -> None:
        def step(*_: Any) -> None:
            scheduler[0].step()

        if stepped == "pre-hook":
            optimizer.register_step_pre_hook(step)
        elif stepped == "post-hook":
            optimizer.register_step_post_hook(step)

    def make(model: nn.Module) -> torch.optim.Optimizer:
        optimizer = momentum_sgd(model)
        if made == "before":
            scheduler.append(lr_scheduler.ExponentialLR(optimizer, 0.5))
        if hooked == "before":
            hook(optimizer)
        return optimizer

    toy = Toy([2, 8, 4], optimize=make, rates="linear")
    optimizer = toy.optimizer
    if made == "after":
        scheduler.append(lr_scheduler.ExponentialLR(optimizer, 0.5))
    if hooked == "after":
        hook(optimizer)
    if stepped == "inside":
        inside_steps(optimizer, lambda: (toy.rates.append(optimizer.param_groups[0]["lr"]), scheduler[0].step()))

    def closure() -> float:
        scheduler[0].step()
        return 0.0

    toy.epoch()
    toy.epoch()
    before = optimizer.param_groups[0]["lr"]
    assert before == pytest.approx(RATE * (1.0 if stepped == "closure" else 0.5**16))
    optimizer.step(closure if stepped == "closure" else None)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(before / 2)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["pre-hook", "inside", "closure", "post-hook"])
@pytest.mark.parametrize("scheduled", [False, True])
def test_no_exception_leaves_the_factor(where: str, error: type[BaseException], scheduled: bool) -> None:
    toy = Toy([(8, 0.3)], optimize=momentum_sgd)
    optimizer = toy.optimizer
    if scheduled:
        lr_scheduler.ExponentialLR(optimizer, 0.5)

    def fail(*_: Any) -> Any:
        raise error

    if where == "pre-hook":
        optimizer.register_step_pre_hook(fail)
    elif where == "post-hook":
        optimizer.register_step_post_hook(fail)
    elif where == "inside":
        inside_steps(optimizer, fail)
    with pytest.raises(error):
        optimizer.step(fail if where == "closure" else None)
    assert optimizer.param_groups[0]["lr"] == RATE
    assert optimizer.state_dict()["param_groups"][0]["lr"] == RATE
    assert toy.controller.lr_effective == 0.3


def test_a_state_that_a_signals_handler_takes_in_mid_step_is_the_owners() -> None:
    toy = Toy([(8, 0.3)], optimize=momentum_sgd)
    states: list[Any] = []
    inside_steps(toy.optimizer, lambda: states.append((toy.optimizer.state_dict(), toy.controller.lr_effective)))
    toy.optimizer.step()
    assert states[0][0]["param_groups"][0]["lr"] == RATE
    assert states[0][1] == 0.3


def test_a_step_that_calls_its_base_classes_has_the_factor_to_its_end() -> None:
    class Own(torch.optim.SGD):
        def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
            loss = super().step(closure)
            after.append(self.param_groups[0]["lr"])
            return loss

    after: list[float] = []
    torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=RATE)  # torch hooks a class's step when the first is made
    toy = Toy([(8, 0.3)], optimize=lambda model: Own(model.parameters(), lr=RATE))
    toy.epoch()
    assert after == [0.3] * 3
    assert toy.optimizer.param_groups[0]["lr"] == RATE


def test_a_closed_controller_leaves_the_optimizers_method_as_it_was() -> None:
    toy = Toy([(8, 0.3)], optimize=momentum_sgd)
    plain = momentum_sgd(toy.model)
    assert "step" in vars(toy.optimizer)
    toy.controller.close()
    assert vars(toy.optimizer).keys() - {"_optimizer_step_code", "_autobatch_rates"} == vars(plain).keys()
    again = Toy([(8, 0.3)], optimize=lambda model: toy.optimizer)
    scheduler = lr_scheduler.ExponentialLR(toy.optimizer, 0.5)
    again.controller.close()
    toy.optimizer.step()
    scheduler.step()
    assert (again.rates, toy.optimizer.param_groups[0]["lr"]) == ([RATE], RATE / 2)

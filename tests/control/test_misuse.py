"""Whatever a user does wrong ends in an error of ours that says what to do, never in a foreign one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from autobatch._errors import AutoBatchError, ConfigError
from autobatch.control import AutoBatchController, BatchPlan, MeasureAtInterval, Measuring, Rates
from tests.control.loops import Toy


def again(toy: Toy, batch: Any) -> None:
    step = toy.controller.step()
    with step as own:
        own.backward(toy.loss(*batch))
    with step as own:
        own.backward(toy.loss(*batch))


def nested(toy: Toy, batch: Any) -> None:
    with toy.controller.step(), toy.controller.step() as step:
        step.backward(toy.loss(*batch))


def too_late(toy: Toy, batch: Any) -> None:
    with toy.controller.step() as step:
        loss = toy.loss(*batch)
    step.backward(loss)


def loading(toy: Toy, batch: Any) -> None:
    state = toy.controller.state_dict()
    with toy.controller.step() as step:
        toy.controller.load_state_dict(state)
        step.backward(toy.loss(*batch))


def saving(toy: Toy, batch: Any) -> None:
    with toy.controller.step():
        toy.controller.state_dict()


def no_tensor(toy: Toy, batch: Any) -> None:
    with toy.controller.step() as step:
        step.backward("loss")


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (no_tensor, r"step\.backward\(loss\): expected Tensor, got 'loss'"),
        (again, r"this step is over: call controller\.step\(\) anew"),
        (nested, "inside of another step"),
        (too_late, "belongs into `with controller.step"),
        (loading, r"load_state_dict\(\) was called inside of a step"),
        (saving, r"state_dict\(\) was called inside of a step"),
    ],
)
@pytest.mark.parametrize("plan", [BatchPlan(), BatchPlan(decide_every=0.5)], ids=["epochs", "periods"])
def test_steps_that_are_used_otherwise(misuse: Callable[[Toy, Any], None], message: str, plan: BatchPlan) -> None:
    toy = Toy([8], size=32, measuring=MeasureAtInterval(1), plan=plan)
    _, *batch = next(iter(toy.loader()))
    with pytest.raises(AutoBatchError, match=message):
        misuse(toy, batch)


KINDS = {
    "batch_sizes": [8, None],
    "library": [3, {}, nn.Linear(1, 1)],
    "scouts": [3, {}],
    "rates": [3, {}, "fast"],
    "measuring": [3, "never", {}],
    "plan": [3, {}, "auto"],
    "processes": [3, {}],
    "task": [3, "digits-mlp"],
    "loggers": [3],
    "out": [3],
    "policy": [None, 3, object, {}],
    "dataset_size": ["32", None, 32.0],
    "epochs": ["1", None],
    "advise": ["8", 8.0, True],
    "seed": ["0", None],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in KINDS.items() for value in values])
def test_arguments_of_another_kind_are_named(name: str, value: Any) -> None:
    model = nn.Linear(3, 2)
    arguments: dict[str, Any] = {"policy": "s8", "batch_sizes": (8,), "dataset_size": 32, "epochs": 1, name: value}
    with pytest.raises(ConfigError, match=f"(?i){name}"):
        AutoBatchController(model, torch.optim.SGD(model.parameters(), lr=0.1), **arguments)


@pytest.mark.parametrize("swapped", ["model", "optimizer"])
def test_model_and_optimizer_of_another_kind_are_named(swapped: str) -> None:
    model = nn.Linear(3, 2)
    parts: dict[str, Any] = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    for wrong in (3, parts["optimizer"] if swapped == "model" else model):
        with pytest.raises(ConfigError, match=f"{swapped}: expected"):
            AutoBatchController(**parts | {swapped: wrong}, policy="s8", batch_sizes=(8,), dataset_size=32, epochs=1)


@pytest.mark.parametrize(
    ("made", "name", "near"), [(Rates, "lr_rule", "rule"), (Measuring, "reduction", "loss_reduction")]
)
def test_settings_name_what_comes_near_an_argument_that_they_do_not_have(made: type, name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"{made.__name__}: no argument is called '{name}'; .*'{near}'"):
        made(**{name: 1})

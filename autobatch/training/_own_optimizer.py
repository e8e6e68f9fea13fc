"""An optimizer of the user's own: made by its factory, and tried on a few steps before a run rests on it."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autobatch._errors import AutoBatchError, ConfigError
from autobatch.control.rates import check_groups
from autobatch.training._checkpoint import put_back, snapshot
from autobatch.training._factory import trusted_factory
from autobatch.training.task import OptimizerSpec

_STEPS = 2
"""Steps before the state is taken that another optimizer goes on from, and after it."""


def build_own(spec: OptimizerSpec, model: nn.Module, lr: float, *, trust_code: bool) -> Optimizer:
    """Make an optimizer of the user's own.

    Args:
        spec: says the factory, and what it is given.
        model: what it trains.
        lr: first learning rate.
        trust_code: whether the factory may be imported.

    Returns:
        The optimizer; a ConfigError names the key where the factory is not trusted, cannot be imported or raises, or
        returns what is no optimizer of PyTorch's, or none that a controller can steer.
    """
    factory = trusted_factory("optimizer.name", spec.name, trust_code=trust_code)
    named = {"momentum": spec.momentum, "weight_decay": spec.weight_decay}
    given = {key: value for key, value in named.items() if value is not None} | spec.settings
    optimizer = factory(model.parameters(), lr=lr, **given)
    if not isinstance(optimizer, Optimizer):
        _refuse(spec, f"returned {type(optimizer).__name__}, expected a torch.optim.Optimizer")
    with _refusing(spec, "cannot be steered"):
        check_groups(optimizer)
    if any(own.default is own.empty for own in inspect.signature(optimizer.step).parameters.values()):
        _refuse(spec, "has a step() that needs a closure; here each batch passes through the network once")
    return optimizer


def check_own(spec: OptimizerSpec, models: Sequence[nn.Module], make: Callable[[nn.Module], Optimizer]) -> None:
    """Try an optimizer of the user's own on networks that are thrown away: its steps, and a state that is put back.

    A ConfigError names the key where a step fails, where the state cannot be saved or put back, and where another
    optimizer that has got it does not go on bit by bit.

    Args:
        spec: says which it is.
        models: the task's network twice, with the same weights.
        make: makes the optimizer of one.
    """
    whole, parts = ((model, make(model)) for model in models)
    with _refusing(spec, "failed in step()"):
        _train(*whole, range(_STEPS))
    with _refusing(spec, "has a state_dict that a run cannot go on from"):
        put_back(snapshot(*whole, whole=True), *parts, "what was saved")
    further = range(_STEPS, 2 * _STEPS)
    with _refusing(spec, "failed in step() after load_state_dict()"):
        alike = all(map(_equal, _train(*whole, further), _train(*parts, further)))
    if not alike:
        _refuse(spec, "goes by something that its state_dict() lacks: a run that is resumed would not be the same")


def _train(model: nn.Module, optimizer: Optimizer, steps: range) -> list[nn.Parameter]:
    """Take steps along gradients that depend on their number alone, and return the weights."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for step in steps:
        with torch.random.fork_rng():
            torch.manual_seed(step)
            for parameter in parameters:
                parameter.grad = torch.randn_like(parameter) / 100
            optimizer.step()
        optimizer.zero_grad()
    return parameters


def _equal(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True)


def _refuse(spec: OptimizerSpec, wrong: str, cause: Exception | None = None) -> NoReturn:
    raise ConfigError(f"key 'optimizer.name': {spec.name} {wrong}") from cause


@contextmanager
def _refusing(spec: OptimizerSpec, wrong: str) -> Iterator[None]:
    """Refuse an optimizer at which the user's code raises, or what looks at it."""
    try:
        yield
    except AutoBatchError as error:
        _refuse(spec, f"{wrong}: {error}", error)
    except Exception as error:
        _refuse(spec, f"{wrong}: {type(error).__name__}: {error}", error)

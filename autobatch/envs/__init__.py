"""Gymnasium environments in which each step is one training epoch.

In come tasks and actions that move the batch size and the rate; out go the flat views of observations, and rewards.
Open ``train/_env.py`` first. Names resolve on first use (PEP 562), so that registering the environments does not import
torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from autobatch.envs._register import register_environments

if TYPE_CHECKING:
    from autobatch.envs._wrappers import BoxActions
    from autobatch.envs.surrogate import SurrogateEnv, SurrogateVectorEnv
    from autobatch.envs.train import TrainEnv

_HOMES = {
    "BoxActions": "_wrappers",
    "SurrogateEnv": "surrogate",
    "SurrogateVectorEnv": "surrogate",
    "TrainEnv": "train",
}

__all__ = ["BoxActions", "SurrogateEnv", "SurrogateVectorEnv", "TrainEnv", "register_environments"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

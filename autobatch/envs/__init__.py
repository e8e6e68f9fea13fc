"""Gymnasium environments in which each step is one training epoch.

Names resolve on first use (PEP 562), so that registering the environments does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from autobatch.envs._register import register_environments

if TYPE_CHECKING:
    from autobatch.envs._surrogate import SurrogateEnv
    from autobatch.envs._surrogate_vector import SurrogateVectorEnv
    from autobatch.envs._train import TrainEnv
    from autobatch.envs._wrappers import BoxActions

_HOMES = {
    "BoxActions": "_wrappers",
    "SurrogateEnv": "_surrogate",
    "SurrogateVectorEnv": "_surrogate_vector",
    "TrainEnv": "_train",
}

__all__ = ["BoxActions", "SurrogateEnv", "SurrogateVectorEnv", "TrainEnv", "register_environments"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

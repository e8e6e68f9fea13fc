"""Gymnasium environments in which each step is one training epoch.

In come tasks and actions that move the batch size and the rate; out go the flat views of observations, and rewards.
Open ``train/_env.py`` first. Names resolve on first use (PEP 562), so that registering the environments does not import
torch.
"""

from typing import TYPE_CHECKING

from autobatch._lazy import on_first_use
from autobatch.envs._register import register_environments

if TYPE_CHECKING:
    from autobatch.envs._wrappers import BoxActions
    from autobatch.envs.steered import SteeredSurrogateEnv, SteeredSurrogateVectorEnv, SteeredTrainEnv
    from autobatch.envs.surrogate import SurrogateEnv, SurrogateVectorEnv
    from autobatch.envs.train import TrainEnv

__all__ = [
    "BoxActions",
    "SteeredSurrogateEnv",
    "SteeredSurrogateVectorEnv",
    "SteeredTrainEnv",
    "SurrogateEnv",
    "SurrogateVectorEnv",
    "TrainEnv",
    "register_environments",
]

__getattr__, __dir__ = on_first_use(__name__)

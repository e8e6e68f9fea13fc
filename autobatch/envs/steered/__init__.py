"""Environments, v1, in which schedule and end are the agent's, and nothing that it sees needs a library.

In come a task and actions; out go observations of schema 2 and rewards, of real training or of fitted dynamics. Open
``_train.py`` first.
"""

from typing import TYPE_CHECKING

from autobatch._lazy import on_first_use

if TYPE_CHECKING:
    from autobatch.envs.steered._runs import SteeredRuns
    from autobatch.envs.steered._surrogate import SteeredSurrogateEnv, SteeredSurrogateVectorEnv
    from autobatch.envs.steered._train import SteeredTrainEnv

__all__ = ["SteeredRuns", "SteeredSurrogateEnv", "SteeredSurrogateVectorEnv", "SteeredTrainEnv"]

__getattr__, __dir__ = on_first_use(__name__)

"""Environments in which each step is an epoch of real training.

In come a task and actions; out go observations and rewards of the training as it happens. Open ``_env.py`` first.
"""

from autobatch.envs.train._env import TrainEnv

__all__ = [
    "TrainEnv",
]

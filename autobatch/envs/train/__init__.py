"""Environments in which each step is an epoch of real training.

In come a task and actions; out go observations and rewards of the training as it happens. Open ``_env.py`` first.
"""

from autobatch.envs.train._env import TrainEnv
from autobatch.envs.train._pricing import Pricing
from autobatch.envs.train._setting import Setting, load_setting
from autobatch.envs.train._trained import EpisodeState, TrainedEpisode
from autobatch.envs.train._training import TrainingEnv
from autobatch.envs.train._workshop import carry_out

__all__ = [
    "EpisodeState",
    "Pricing",
    "Setting",
    "TrainEnv",
    "TrainedEpisode",
    "TrainingEnv",
    "carry_out",
    "load_setting",
]

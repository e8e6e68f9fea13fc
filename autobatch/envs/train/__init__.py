"""Environments in which each step is an epoch of real training.

In come a task and actions; out go observations and rewards of the training as it happens. Open ``_env.py`` first.
"""

from autobatch.envs.train._env import TrainEnv
from autobatch.envs.train._pricing import Pricing
from autobatch.envs.train._setting import load_setting
from autobatch.envs.train._trained import TrainedEpisode, TrainingRules, train_epoch
from autobatch.envs.train._training import TrainingEnv

__all__ = [
    "Pricing",
    "TrainEnv",
    "TrainedEpisode",
    "TrainingEnv",
    "TrainingRules",
    "load_setting",
    "train_epoch",
]

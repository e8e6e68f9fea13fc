"""Environments on dynamics fitted to beacons and branch runs.

In come the recordings of a task and actions; out go observations and rewards of trainings that nobody has run. Open
``_env.py`` first.
"""

from autobatch.envs.surrogate._doubts import doubts_of
from autobatch.envs.surrogate._dynamics import Dynamics
from autobatch.envs.surrogate._env import SurrogateEnv
from autobatch.envs.surrogate._epochs import FIGURES, TaskRecords, tabulate
from autobatch.envs.surrogate._load import alike, load_dynamics
from autobatch.envs.surrogate._settings import SteeredSettings
from autobatch.envs.surrogate._vector import SurrogateVectorEnv

__all__ = [
    "FIGURES",
    "Dynamics",
    "SteeredSettings",
    "SurrogateEnv",
    "SurrogateVectorEnv",
    "TaskRecords",
    "alike",
    "doubts_of",
    "load_dynamics",
    "tabulate",
]

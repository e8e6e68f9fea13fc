"""Several tasks in one environment: each episode draws one.

What a process of real trainings imports; so nothing here needs the surrogate.
"""

import multiprocessing
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from autobatch.envs.steered import SteeredTrainEnv
from autobatch.envs.train import TrainEnv
from autobatch.policies._moves import STEERING


class ManyTasks(gym.Env[NDArray[np.float32], Any]):
    """Environments of one observation and action space, one of which each episode draws.

    Args:
        envs: the environments; they are closed with this one.
    """

    def __init__(self, envs: Sequence[gym.Env[NDArray[np.float32], Any]]) -> None:
        self._envs = list(envs)
        self._now = self._envs[0]
        self.observation_space = self._now.observation_space
        self.action_space = self._now.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draw a task and begin an episode of it; the seed decides both. Return (observation, info)."""
        super().reset(seed=seed)
        self._now = self._envs[int(self.np_random.integers(len(self._envs)))]
        return self._now.reset(seed=int(self.np_random.integers(2**31)), options=options)

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Take a step in the task of this episode."""
        observation, reward, terminated, truncated, info = self._now.step(action)
        return observation, float(reward), terminated, truncated, info

    def close(self) -> None:
        """Close all environments."""
        for env in self._envs:
            env.close()


def real_trainings(envs: Sequence[str | Path], *, actions: str, **arguments: Any) -> ManyTasks:
    """Make the environment of real trainings on some tasks, in the process that is to run it.

    Args:
        envs: names or paths of the tasks.
        actions: kind of actions of a policy; where they are steered, a training begins as one of ``steer``.
        **arguments: as ``TrainEnv``.

    Returns:
        The environment, of ``TrainEnv`` or ``SteeredTrainEnv``.
    """
    if multiprocessing.parent_process() is not None:
        # Ctrl-C reaches all processes of a terminal; the first of them ends the others.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if actions in STEERING:
        forks = actions == "forked"
        return ManyTasks([SteeredTrainEnv(env, start="scouts", forks=forks, **arguments) for env in envs])
    return ManyTasks([TrainEnv(env, actions=actions, **arguments) for env in envs])

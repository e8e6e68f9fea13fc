"""Continuous actions, for agents that know no others."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from autobatch._errors import ConfigError


class BoxActions(
    gymnasium.ActionWrapper[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]], RecordConstructorArgs
):
    """Takes actions from a box and has the nearest move made.

    Each number stands for one dimension of the wrapped ``MultiDiscrete`` space: -1 is its first choice, 1 its last, and
    the others lie evenly between. What is beyond the box counts as its edge.

        env = BoxActions(gymnasium.make("AutoBatch/Train-v0"))

    Args:
        env: an environment with a one-dimensional ``MultiDiscrete`` action space.

    Raises:
        ConfigError: the environment has another action space.
    """

    def __init__(self, env: gymnasium.Env[NDArray[np.float32], NDArray[np.int64]]) -> None:
        inner = env.action_space
        if not isinstance(inner, spaces.MultiDiscrete) or inner.nvec.ndim != 1:
            raise ConfigError(f"BoxActions: expected an environment with actions='multidiscrete', got {inner}")
        RecordConstructorArgs.__init__(self)
        gymnasium.ActionWrapper.__init__(self, env)
        self._last = (inner.nvec - 1).astype(np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, inner.shape, np.float32)

    def action(self, action: Any) -> NDArray[np.int64]:
        """Return the nearest move.

        Args:
            action: a number in [-1, 1] for each dimension.

        Returns:
            The index of each dimension's choice.

        Raises:
            ConfigError: the action is of another type or shape, or holds what is no number.
        """
        try:
            wanted = np.asarray(action, dtype=np.float64)
        except (TypeError, ValueError):
            wanted = np.asarray(np.nan)
        if wanted.shape != self._last.shape or np.isnan(wanted).any():
            raise ConfigError(f"action: expected {len(self._last)} numbers from -1 to 1, got {action!r}")
        indices: NDArray[np.int64] = np.rint((np.clip(wanted, -1.0, 1.0) + 1.0) / 2.0 * self._last).astype(np.int64)
        return indices

"""Whole episodes of many policies at once on a vector environment."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Envs = VectorEnv[Any, Any, Any]
Choose = Callable[[NDArray[np.float32], NDArray[np.intp]], NDArray[np.int64]]
"""Takes observations, shape (n, size), and which policy each is for, shape (n,); returns n actions."""


def episode_returns(envs: Envs, choose: Choose, policies: int, seeds: Sequence[int]) -> tuple[Floats, int]:
    """Play one episode of every policy on every seed.

    Args:
        envs: the environments; as many episodes are played side by side as there are sub-environments.
        choose: the policies.
        policies: how many there are.
        seeds: of the episodes; all policies meet the same ones.

    Returns:
        Undiscounted returns, shape (policies, seeds), and the steps of these episodes, which do not depend on how many
        are played side by side.
    """
    pairs = [(policy, seed) for policy in range(policies) for seed in seeds]
    returns, steps = np.zeros(len(pairs)), 0
    for start in range(0, len(pairs), envs.num_envs):
        part = pairs[start : start + envs.num_envs]
        # Sub-environments that are left over play the last pair again.
        filled = part + [part[-1]] * (envs.num_envs - len(part))
        totals, taken = _play(envs, choose, np.array([own[0] for own in filled]), [own[1] for own in filled])
        returns[start : start + len(part)] = totals[: len(part)]
        steps += int(taken[: len(part)].sum())
    return returns.reshape(policies, len(seeds)), steps


def _play(
    envs: Envs, choose: Choose, policy: NDArray[np.intp], seeds: Sequence[int]
) -> tuple[Floats, NDArray[np.int64]]:
    """Return the return and the steps of one episode in each sub-environment."""
    observations, _ = envs.reset(seed=list(seeds))  # type: ignore[arg-type]
    totals = np.zeros(envs.num_envs)
    going = np.ones(envs.num_envs, dtype=bool)
    steps = np.zeros(envs.num_envs, dtype=np.int64)
    while going.any():
        observations, rewards, terminated, truncated, _ = envs.step(choose(observations, policy))
        totals += np.where(going, rewards, 0.0)
        steps += going
        going &= ~(terminated | truncated)
    return totals, steps

"""Whole episodes of many policies at once, on a vector environment or wherever else they can be played."""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, cast

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import ArrayLike, NDArray

from autobatch._arrays import Floats
from autobatch.policies._moves import STEERING
from autobatch.policies.general import FAR, beyond, lead
from autobatch.policies.learned._network import HEADS, Actions, cut

Envs = VectorEnv[Any, Any, Any]
JUDGING_SEED = 2**40
"""First seed of the episodes that policies are compared on; no learning comes that far."""

MARGIN = 1.0
"""Lead that the choices of the rule of ``steer`` have: a network that departs from it has to be surer than by this."""

ANYWHERE, NOWHERE = (-1.0, 1.0), (2.0, -2.0)
"""What was seen of each entry of the view by who goes by a network wherever it is, and by who never does."""

Choose = Callable[[NDArray[np.float32], NDArray[np.intp]], NDArray[np.int64]]
"""Takes observations, shape (n, size), and which policy each is for, shape (n,); returns n actions."""


class Population:
    """Many networks of one shape, asked together.

    Args:
        vectors: their parameters, shape (policies, parameters), each as ``Network.of_flat`` takes them.
        sizes: width of the view, of every hidden layer, and number of logits; tanh between the layers.
        actions: kind of actions; of those that are steered, what the rule would do leads.
        margin: by how much it does.
        seen: where steered actions are the rule's alone, as each policy has seen nothing like it: lowest and highest of
            each entry that it has seen, shape (policies, entries, 2); None for nowhere.
    """

    def __init__(
        self,
        vectors: ArrayLike,
        sizes: Sequence[int],
        actions: Actions,
        *,
        margin: float = MARGIN,
        seen: ArrayLike | None = None,
    ) -> None:
        self._vectors = np.asarray(vectors, dtype=np.float32)
        self._sizes = tuple(sizes)
        self._actions = actions
        self._margin = margin
        self._seen = None if seen is None else np.asarray(seen, dtype=np.float64)
        self._heads = np.cumsum(HEADS[actions])[:-1]
        self._layers = [
            (np.ascontiguousarray(weight.transpose(0, 2, 1)), bias[:, None])
            for weight, bias in cut(self._vectors, sizes)
        ]

    def __len__(self) -> int:
        return len(self._vectors)

    def __call__(self, observations: NDArray[np.float32], policy: NDArray[np.intp]) -> NDArray[np.int64]:
        """Return an action for each observation."""
        return self.choose(self.logits(observations, policy))

    def logits(self, observations: NDArray[np.float32], policy: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the logits of each observation, with the rule's lead where it has one, shape (n, logits)."""
        count = len(self)
        even = len(policy) % count == 0 and np.array_equal(policy, np.repeat(np.arange(count), len(policy) // count))
        values = observations.reshape(count, -1, observations.shape[1]) if even else observations[:, None, :]
        for index, (weight, bias) in enumerate(self._layers):
            values = np.tanh(values) if index else values
            values = values @ weight + bias if even else values @ weight[policy] + bias[policy]
        logits = values.reshape(len(policy), -1)
        return logits if self._actions not in STEERING else self._led(logits, observations, policy)

    def choose(self, logits: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the actions with the highest logits."""
        parts = np.split(logits, self._heads, axis=1)
        chosen = [part.argmax(axis=1) for part in parts]
        return chosen[0] if self._actions == "discrete" else np.stack(chosen, axis=1)

    def to_dict(self) -> dict[str, Any]:
        """Return the networks as plain values; ``from_dict`` reads them back, bit for bit."""
        vectors = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in self._vectors]
        state: dict[str, Any] = {"vectors": vectors, "sizes": list(self._sizes), "actions": self._actions}
        if self._actions in STEERING:
            state |= {"margin": self._margin, "seen": None if self._seen is None else self._seen.tolist()}
        return state

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Return what ``to_dict`` wrote down."""
        vectors = [np.frombuffer(base64.b64decode(vector), dtype="<f4") for vector in state["vectors"]]
        led = {name: state[name] for name in ("margin", "seen") if name in state}
        return cls(np.stack(vectors), state["sizes"], cast("Actions", state["actions"]), **led)

    def _led(
        self, logits: NDArray[np.float32], views: NDArray[np.float32], policy: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        led = logits + lead(views, self._margin)
        if self._seen is not None:
            alone = beyond(views, self._seen[policy]).max(axis=1) > FAR
            led[alone] = lead(views[alone], MARGIN)
        return led


class Stage(Protocol):
    """Where episodes are played."""

    @property
    def observations(self) -> int:
        """Numbers in an observation."""

    def play(self, population: Population, seeds: Sequence[int]) -> tuple[Floats, int]:
        """Play one episode of every policy on every seed; as ``episode_returns``."""


@dataclass
class Vectorised:
    """Plays on a vector environment.

    Attributes:
        envs: the environment.
    """

    envs: Envs

    @property
    def observations(self) -> int:
        """Numbers in an observation."""
        assert self.envs.single_observation_space.shape is not None
        return self.envs.single_observation_space.shape[0]

    def play(self, population: Population, seeds: Sequence[int]) -> tuple[Floats, int]:
        """Play one episode of every policy on every seed."""
        return episode_returns(self.envs, population, len(population), seeds)


def range_of(views: ArrayLike) -> Floats:
    """Return lowest and highest of each entry of some views, shape (n, entries), as shape (entries, 2)."""
    views = np.asarray(views, dtype=np.float64)
    return joined(np.stack([views, views], axis=2))


def joined(ranges: ArrayLike) -> Floats:
    """Return the lowest and the highest of several ranges of each entry, shape (n, entries, 2), as (entries, 2)."""
    ranges = np.asarray(ranges, dtype=np.float64)
    return np.stack([ranges[..., 0].min(axis=0), ranges[..., 1].max(axis=0)], axis=1)


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

"""The cross-entropy method over the weights of a small network.

Rubinstein's method as Szita and Lőrincz (2006) use it on policies: draw weights from a normal distribution, play
episodes with each, fit the distribution to the best of them, and keep it from narrowing too early with extra variance
that fades. It needs no gradients, no discounting and no value function, only the return of whole episodes, of which a
batched surrogate plays tens of thousands a minute.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from autobatch._arrays import Floats
from autobatch.learn._rollouts import ANYWHERE, MARGIN, Envs, Population, Stage, Vectorised
from autobatch.policies.learned._network import HEADS, Actions, Network, parameter_count

_FIRST_EPISODE = 1_000_000
_JUDGED = 10_000


@dataclass(frozen=True)
class CemSettings:
    """Settings of the cross-entropy method.

    Attributes:
        population: policies drawn a generation.
        episodes: episodes that each plays; all play the same ones.
        elite: share of the population that the distribution is fitted to.
        deviation: standard deviation of every weight at the start, before scaling by the layer's width.
        extra: its square, times 0.02, is added to every variance in each generation at first, fading over ``fading``.
        fading: share of the training over which the extra deviation fades.
        smoothing: weight of the new fit against the old distribution.
    """

    population: int = 128
    episodes: int = 4
    elite: float = 0.125
    deviation: float = 1.0
    extra: float = 0.3
    fading: float = 0.7
    smoothing: float = 0.6


class CrossEntropy:
    """One training by the cross-entropy method; ``generation`` after ``generation``.

    Args:
        envs: vector environment, best with ``population * episodes`` sub-environments; or another stage.
        actions: kind of actions of the environment.
        steps: environment steps of the whole training.
        seed: decides everything that is drawn.
        hidden: widths of the hidden layers.
        settings: settings of the method.
        begin: a network of these widths and actions to search around, tanh between its layers; it is kept where nothing
            better is found. None to begin at nothing.
        margin: lead of the rule's choices, where actions are steered.
        seen: what ``begin`` goes by where actions are steered: lowest and highest of each entry of the view, shape
            (entries, 2), as its card has it, and far beyond it the rule decides. None where nothing is too far. What is
            found goes by its network everywhere.
    """

    def __init__(
        self,
        envs: Envs | Stage,
        *,
        actions: Actions,
        steps: int,
        seed: int,
        hidden: Sequence[int] = (16,),
        settings: CemSettings | None = None,
        begin: Network | None = None,
        margin: float = MARGIN,
        seen: Floats | None = None,
    ) -> None:
        self.steps = 0
        self.generations = 0
        self._stage = Vectorised(envs) if isinstance(envs, VectorEnv) else envs
        self._actions = actions
        self._total = steps
        self._seed = seed
        self._settings = settings or CemSettings()
        self._sizes = (self._stage.observations, *hidden, sum(HEADS[actions]))
        self._scale = _layer_scales(self._sizes)
        self._margin, self._seen = margin, seen
        self._begin: Floats = np.zeros((0, parameter_count(self._sizes)))
        if begin is not None:
            if begin.sizes != self._sizes:
                raise ValueError(f"expected a network of layers {self._sizes}, got {begin.sizes}")
            self._begin = begin.flat().astype(np.float64)[None] / self._scale
        self._mean = self._begin.sum(axis=0)
        self._deviation = np.full(len(self._mean), self._settings.deviation)
        self._generator = np.random.default_rng(seed)
        self._elites: Floats = np.zeros((0, len(self._mean)))

    @property
    def finished(self) -> bool:
        """Whether the steps are used up."""
        return self.steps >= self._total

    def generation(self) -> float:
        """Draw a population, play, and fit the distribution to the best.

        Returns:
            Mean return of the elite.
        """
        settings = self._settings
        draws = self._generator.standard_normal((settings.population, len(self._mean)))
        draws[0] = 0.0  # the mean itself takes part
        population = self._mean + self._deviation * draws
        first = _FIRST_EPISODE * (1 + self._seed) + self.generations * settings.episodes
        seeds = range(first, first + settings.episodes)
        returns, taken = self._play(population, seeds)
        best = np.argsort(-returns.mean(axis=1), kind="stable")[: max(2, round(settings.elite * settings.population))]
        elites = population[best]
        weight = settings.smoothing
        self._mean = weight * elites.mean(axis=0) + (1.0 - weight) * self._mean
        self._deviation = weight * elites.std(axis=0) + (1.0 - weight) * self._deviation
        self.steps += taken
        self.generations += 1
        left = max(0.0, 1.0 - self.steps / (settings.fading * self._total))
        self._deviation = np.sqrt(self._deviation**2 + (settings.extra * left) ** 2 * 0.02)
        self._elites = elites[:8]
        return float(returns[best].mean())

    def network(self, episodes: int = 64) -> tuple[Network, float]:
        """Return the best of the distribution's mean, the last elite and what it began with, on other episodes.

        Args:
            episodes: how many each plays.

        Returns:
            The network, and its mean return on other such episodes.
        """
        candidates = np.concatenate([self._mean[None], self._elites, self._begin])
        seen = None
        if self._seen is not None:
            seen = np.tile(ANYWHERE, (len(candidates), self._sizes[0], 1))
            seen[-1] = self._seen
        first = _JUDGED * (1 + self._seed)
        best = int(np.argmax(self._play(candidates, range(first, first + episodes), seen)[0].mean(axis=1)))
        own = slice(best, best + 1)
        again, _ = self._play(
            candidates[own], range(first + episodes, first + 2 * episodes), None if seen is None else seen[own]
        )
        network = Network.of_flat(candidates[best] * self._scale, self._sizes, activation="tanh", actions=self._actions)
        return network, float(again.mean())

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on: arrays, and JSON-able values."""
        return {
            "arrays": {"mean": self._mean, "deviation": self._deviation, "elites": self._elites},
            "generator": self._generator.bit_generator.state,
            "steps": self.steps,
            "generations": self.generations,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Args:
            state: the state of a training with the same arguments.

        Raises:
            ValueError: it is of another training, or damaged.
        """
        arrays = {name: np.array(values, dtype=np.float64) for name, values in state["arrays"].items()}
        if {values.shape[-1] for values in arrays.values()} != {len(self._mean)}:
            raise ValueError("weights of a network of another size")
        self._mean, self._deviation, self._elites = arrays["mean"], arrays["deviation"], arrays["elites"]
        self._generator.bit_generator.state = state["generator"]
        self.steps, self.generations = int(state["steps"]), int(state["generations"])

    def _play(self, population: Floats, seeds: range, seen: Floats | None = None) -> tuple[Floats, int]:
        policies = Population(population * self._scale, self._sizes, self._actions, margin=self._margin, seen=seen)
        return self._stage.play(policies, list(seeds))


def _layer_scales(sizes: Sequence[int]) -> Floats:
    """Return what each weight is multiplied by, so that one deviation suits layers of different widths."""
    parts = []
    for inputs, outputs in itertools.pairwise(sizes):
        parts.append(np.full((inputs + 1) * outputs, 1.0 / np.sqrt(inputs)))
    return np.concatenate(parts)

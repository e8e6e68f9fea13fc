"""Learning a policy for any task: departures from the rule of ``steer``, on surrogates of many tasks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gymnasium.utils import seeding
from numpy.typing import NDArray

from autobatch._arrays import Floats
from autobatch.envs.steered import SteeredRuns
from autobatch.envs.surrogate import SteeredSettings
from autobatch.learn._cem import CemSettings, CrossEntropy
from autobatch.learn._rollouts import JUDGING_SEED, MARGIN, Population, joined, range_of
from autobatch.policies.learned import PolicyCard, PolicyTraining, save_learned
from autobatch.policies.learned._network import HEADS, Actions, Network, parameter_count
from autobatch.training import load_task
from autobatch.training._versions import software_versions

HIDDEN: tuple[int, ...] = ()
"""No hidden layer: what an entry of the view speaks for can be read off, and few weights are searched."""


SEARCH = CemSettings(population=96, episodes=16, elite=0.15, deviation=3.0, extra=3.0)
"""Settings of the search; episodes differ by task far more than policies do, so each policy plays many."""

_TOGETHER = 1536


class SteeredArena:
    """Surrogate trainings whose schedule is the agent's, for many policies at once.

    Args:
        settings: what episodes are made of.
        count: trainings side by side.

    Attributes:
        seen: lowest and highest of each entry of the view in what was last played, shape (entries, 2).
        tasks: the task of each seed that was last played.
        observations: numbers in an observation.
    """

    def __init__(self, settings: SteeredSettings, count: int = _TOGETHER) -> None:
        self.runs = SteeredRuns(settings, count)
        self.observations = self.runs.size
        self.seen: Floats = np.zeros((0, 2))
        self.tasks: list[int] = []

    def play(self, population: Population, seeds: Sequence[int]) -> tuple[Floats, int]:
        """Play one episode of every policy on every seed.

        Args:
            population: the policies.
            seeds: of the episodes; all policies meet the same ones.

        Returns:
            Undiscounted returns, shape (policies, seeds), and the steps of these episodes.
        """
        pairs = [(policy, seed) for policy in range(len(population)) for seed in seeds]
        returns, steps, tasks = np.zeros(len(pairs)), 0, []
        self.seen = np.tile([np.inf, -np.inf], (self.observations, 1))
        for start in range(0, len(pairs), self.runs.count):
            part = pairs[start : start + self.runs.count]
            totals, taken = self._part(population, np.array([own[0] for own in part]), [own[1] for own in part])
            returns[start : start + len(part)] = totals
            tasks += self.runs.task[: len(part)].tolist()
            steps += taken
        self.tasks = tasks[: len(seeds)]
        return returns.reshape(len(population), len(seeds)), steps

    def _part(self, population: Population, policy: NDArray[np.intp], seeds: Sequence[int]) -> tuple[Floats, int]:
        runs, going = self.runs, np.arange(len(policy))
        generators = [seeding.np_random(seed)[0] for seed in seeds]
        runs.begin(going, generators)
        totals, steps = np.zeros(len(policy)), 0
        actions = np.zeros((runs.count, len(HEADS[kind_of(self.runs.settings)])), dtype=np.int64)
        while going.size:
            views = runs.openings(going)
            self.seen = joined([self.seen, range_of(views)])
            actions[going] = population(views, policy[going])
            step = runs.advance(actions, going)
            totals[going] += step.reward[going]
            steps += len(going)
            going = going[~step.terminated[going]]
        return totals, steps


def kind_of(settings: SteeredSettings) -> Actions:
    """Return the kind of actions of environments with or without forks."""
    return "forked" if settings.forks else "steered"


@dataclass(frozen=True)
class GeneralResult:
    """What a learning came to.

    Attributes:
        network: the network.
        gain: by how much its return is above the rule's, on the same new episodes, shape (episodes,).
        task: the task of each of these episodes, shape (episodes,).
        seen: lowest and highest of each entry of the view in them.
        steps: epochs that it was learned from.
    """

    network: Network
    gain: Floats
    task: tuple[str, ...]
    seen: tuple[tuple[float, float], ...]
    steps: int


def learn_general(
    settings: SteeredSettings,
    *,
    steps: int,
    seed: int,
    search: CemSettings = SEARCH,
    judged: int = 1024,
    observe: Callable[[int, float], None] = lambda steps, score: None,
) -> GeneralResult:
    """Search for departures from the rule, beginning at the rule itself.

    Args:
        settings: what episodes are made of; with ``start="scouts"`` they begin as a steered run does.
        steps: epochs to learn from.
        seed: decides everything that is drawn.
        search: settings of the search.
        judged: new episodes on which it is set beside the rule.
        observe: called after each generation with the steps so far and the mean return of the elite.

    Returns:
        The network and what it came to.
    """
    arena, network_kind = SteeredArena(settings), kind_of(settings)
    method = CrossEntropy(arena, actions=network_kind, steps=steps, seed=seed, hidden=HIDDEN, settings=search)
    while not method.finished:
        score = method.generation()
        observe(method.steps, score)
    network, _ = method.network(episodes=128)
    judge = SteeredArena(settings)
    sizes = network.sizes
    both = np.stack([np.zeros(parameter_count(sizes)), network.flat().astype(np.float64)])
    seeds = range(JUDGING_SEED, JUDGING_SEED + judged)
    returns, _ = judge.play(Population(both, sizes, network_kind), seeds)
    names = tuple(settings.envs[index] for index in judge.tasks)
    seen = tuple((float(low), float(high)) for low, high in judge.seen)
    return GeneralResult(network, returns[1] - returns[0], names, seen, method.steps)


def save_general(
    path: Path, result: GeneralResult, settings: SteeredSettings, *, seed: int, seconds: float, command: str = ""
) -> Path:
    """Write what was learned as a policy's three files.

    Args:
        path: the YAML.
        result: what was learned.
        settings: what its episodes were made of.
        seed: its seed.
        seconds: time that it took.
        command: the command that learns it again.

    Returns:
        The path of the YAML.
    """
    tasks = tuple(load_task(env).name for env in settings.envs)
    training = PolicyTraining(
        algorithm="cem",
        tasks=tasks,
        steps=result.steps,
        seeds=(seed,),
        seconds=round(seconds, 1),
        command=command,
        versions=dict(software_versions()),
    )
    gain = float(result.gain.mean()), float(result.gain.std(ddof=1) / np.sqrt(len(result.gain)))
    learning = {
        "on": "surrogate",
        "without": list(settings.without),
        "cost": settings.cost,
        "cost_weight": settings.cost_weight,
        "pessimism": settings.pessimism,
        "return_above_the_rule": [round(value, 4) for value in gain],
    }
    card = PolicyCard.of(result.network, training, margin=MARGIN, seen=result.seen, evaluation={"learning": learning})
    description = "Departs from steer where a network is sure of something else; learned on surrogates of many tasks."
    return save_learned(path, result.network, card, description=description)

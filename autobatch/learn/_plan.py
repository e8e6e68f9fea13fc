"""What is to be learned, and how: checked before anything is loaded."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from autobatch._errors import ConfigError, near_names
from autobatch.envs._reward import WEIGHT
from autobatch.learn._stable_baselines import ALGORITHMS as SB3_ALGORITHMS
from autobatch.learn._stable_baselines import stable_baselines
from autobatch.policies._moves import STEERING
from autobatch.policies.learned._network import HEADS, Actions

Ground = Literal["surrogate", "train"]

ALGORITHMS = ("cem", *SB3_ALGORITHMS)

STEPS: Mapping[str, int] = {"surrogate": 3_000_000, "train": 20_000}
"""Steps of a training where nothing is said, by what it is on."""


@dataclass(frozen=True)
class LearningPlan:
    """What is learned, and how.

    Attributes:
        envs: names or paths of the tasks; each episode draws one.
        on: ``"surrogate"`` (fitted dynamics) or ``"train"`` (real trainings, in processes).
        algorithm: ``"cem"``, ``"dqn"`` or ``"ppo"``.
        steps: environment steps of each seed, an epoch each.
        seeds: each gives a policy; the best is kept.
        actions: kind of actions: ``"multidiscrete"`` or ``"discrete"``, moves on the ladders of a task with beacons, or
            ``"steered"``, departures from the rule of ``steer`` on any task, or ``"forked"``, departures that may be
            tried on the run itself first (both ``cem``).
        hidden: widths of the network's hidden layers; () for none, where actions are steered.
        cost: unit of cost.
        cost_weight: quality that the reference's whole cost is worth.
        pessimism: weight of the surrogate's disagreement in the reward.
        jobs: processes of real trainings.
        epochs: length of real trainings; None for the task's.
        device: torch device of real trainings.
        begin: a learned policy whose network the search begins with, as ``autobatch run --policy`` takes it; None for
            nothing learned, which is the rule itself where actions are steered.
    """

    envs: tuple[str, ...]
    on: Ground = "surrogate"
    algorithm: str = "cem"
    steps: int = STEPS["surrogate"]
    seeds: tuple[int, ...] = (0,)
    actions: Actions = "multidiscrete"
    hidden: tuple[int, ...] = (16,)
    cost: str = "modelled"
    cost_weight: float = WEIGHT
    pessimism: float = 0.0
    jobs: int = 1
    epochs: int | None = None
    device: str = "auto"
    begin: str | None = None

    def __post_init__(self) -> None:
        """Check what can be checked before anything is loaded.

        Raises:
            ConfigError: a value is not known or out of range, or the parts do not go together.
        """
        self._check_names()
        if self.begin is not None and self.algorithm != "cem":
            raise ConfigError(f"begin: cem begins with a policy, {self.algorithm} does not")
        if self.algorithm == "dqn" and self.actions != "discrete":
            raise ConfigError("dqn chooses one of a list of actions: use actions 'discrete'")
        if self.actions in STEERING and self.algorithm != "cem":
            raise ConfigError(
                f"actions: {self.actions!r} are learned by cem, not by {self.algorithm}; an agent of your own on "
                "AutoBatch/Surrogate-v1 becomes a policy by network_of"
            )
        if self.algorithm in SB3_ALGORITHMS:
            stable_baselines()
        none = not self.hidden and self.actions not in STEERING and self.begin is None
        if self.steps < 1 or self.jobs < 1 or none or min(self.hidden, default=1) < 1:
            raise ConfigError("steps, jobs and every hidden width: expected at least 1")
        if not self.envs or not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError("expected at least one env and different seeds")
        if min(self.seeds) < 0:
            raise ConfigError(f"seeds: expected numbers of at least 0, got {min(self.seeds)}")
        if not 0.0 <= self.pessimism < math.inf:
            raise ConfigError(f"pessimism: expected a finite number of at least 0, got {self.pessimism!r}")
        if self.on == "train" and self.pessimism:
            raise ConfigError("pessimism is of the surrogate; real trainings have none")
        if self.on == "surrogate" and self.epochs is not None:
            raise ConfigError("epochs: a surrogate has the length of its beacons; leave it out")

    def _check_names(self) -> None:
        """Refuse names that nothing has."""
        if self.on not in get_args(Ground):
            raise ConfigError(f"on: nothing to learn on is called {self.on!r}; {near_names(self.on, get_args(Ground))}")
        if self.algorithm not in ALGORITHMS:
            raise ConfigError(f"unknown algorithm '{self.algorithm}'; {near_names(self.algorithm, ALGORITHMS)}")
        if self.actions not in HEADS:
            raise ConfigError(f"actions: no kind is called {self.actions!r}; {near_names(str(self.actions), HEADS)}")

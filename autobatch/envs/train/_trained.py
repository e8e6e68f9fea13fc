"""What an episode of real training keeps, whoever has the schedule: the training, its epochs, costs and rewards."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from autobatch.beacons._columns import FINISHED
from autobatch.envs.train._pricing import Pricing
from autobatch.envs.train._setting import Setting
from autobatch.envs.train._workshop import Result, carry_out
from autobatch.policies import PolicySpec
from autobatch.training import EpochRow, RunConfig
from autobatch.training._trial import Trial, TrialState

RulesT = TypeVar("RulesT", bound="TrainingRules")

_AGENT = PolicySpec(name="agent", kind="agent", description="Whoever steps the environment.")


@dataclass(frozen=True, eq=False)
class TrainingRules:
    """What all episodes of an environment share.

    Attributes:
        setting: the task with its data, and its beacons where there are any.
        pricing: what epochs cost.
        measure: whether C̄ and L are measured.
    """

    setting: Setting
    pricing: Pricing
    measure: bool


@dataclass(frozen=True)
class EpisodeState:
    """An episode between two steps, without data and beacons; it can be pickled.

    Attributes:
        seed: the training's seed.
        trial: the training itself.
        own: what else a kind of episode keeps, by the names of its attributes.
        rows: the finished epochs.
        potential: the last potential.
        costs: what each epoch has cost.
        rewards: what each epoch has brought.
    """

    seed: int
    trial: TrialState
    own: dict[str, Any]
    rows: tuple[EpochRow, ...]
    potential: float
    costs: tuple[float, ...]
    rewards: tuple[float, ...]


class TrainedEpisode(ABC, Generic[RulesT]):
    """One training, an epoch a step.

    Args:
        rules: what the episodes share.
        seed: the training's seed.

    Attributes:
        setting: the task with its data and beacons.
        rows: the finished epochs.
        costs: what each step has cost.
        rewards: what each step has brought.
    """

    keeps: ClassVar[tuple[str, ...]]
    """Attributes that a kind of episode goes on with, besides those of any."""

    def __init__(self, rules: RulesT, seed: int) -> None:
        setting = rules.setting
        self.rules = rules
        self.seed = seed
        self.config = RunConfig(
            task=setting.task,
            task_path=setting.task_path,
            policy=_AGENT,
            seed=seed,
            device=str(setting.device),
            measure=rules.measure,
            trust_code=setting.trust_code,
            costs=setting.costs,
        )
        self.rows: list[EpochRow] = []
        self.costs: list[float] = []
        self.rewards: list[float] = []
        self.setting = setting
        self.quality = 0.0
        """The potential: 0 before the first epoch and -1 once the training has diverged."""
        self._trial = self._carry_out(self._new_trial)

    @property
    def diverged(self) -> bool:
        """Whether the training has diverged."""
        return self._trial.stopped_because != FINISHED

    @property
    @abstractmethod
    def configuration(self) -> tuple[int, float]:
        """Batch size and base learning rate in force."""

    @property
    @abstractmethod
    def reference(self) -> float:
        """Cost of the reference training."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether it is over."""

    def begin(self) -> None:
        """Do what comes before the first observation of a training that begins, and does not go on."""

    @abstractmethod
    def act(self, actions: str, action: Any) -> float:
        """Do what an action of some kind says, train an epoch, and return the reward."""

    @abstractmethod
    def masks(self, actions: str) -> NDArray[np.bool_]:
        """Return which actions of some kind change what they say, shape (choices,)."""

    @abstractmethod
    def observation(self) -> NDArray[np.float32]:
        """Return the flat view of where the training stands, a new array each time."""

    @abstractmethod
    def figures(self) -> dict[str, Any]:
        """Return plain figures by name; one that is not known or not finite is left out."""

    def state(self) -> EpisodeState:
        """Return where the episode stands, as something that can be pickled."""
        return EpisodeState(
            seed=self.seed,
            trial=self._carry_out(self._trial.state),
            own=copy.deepcopy({name: getattr(self, name) for name in self.keeps}),
            rows=tuple(self.rows),
            potential=self.quality,
            costs=tuple(self.costs),
            rewards=tuple(self.rewards),
        )

    @classmethod
    def restored(cls, rules: RulesT, state: EpisodeState) -> Self:
        """Return an episode that goes on where another stood.

        Args:
            rules: what the episodes share; equal to those of the other.
            state: where the other stood.

        Returns:
            The episode.
        """
        episode = cls(rules, state.seed)
        episode._carry_out(lambda: episode._trial.restore(state.trial))
        episode.rows, episode.costs, episode.rewards = list(state.rows), list(state.costs), list(state.rewards)
        episode.quality = state.potential
        vars(episode).update(copy.deepcopy(state.own))
        return episode

    def close(self) -> None:
        """Let go of the optimizer."""
        self._trial.controller.close()

    def _figures(self, **own: Any) -> dict[str, Any]:
        """Return plain figures by name, those of any training and one's own, without what is not finite."""
        batch_size, lr = self.configuration
        figures: dict[str, Any] = {
            "run_seed": self.seed,
            "epoch": len(self.rows),
            "batch_size": batch_size,
            "lr": lr,
            "quality": self.quality,
            "diverged": self.diverged,
            **own,
        }
        if self.costs:
            figures["cost"] = self.costs[-1]
        if self.rows:
            row = self.rows[-1]
            figures |= {
                "score": getattr(row, self.setting.task.score),
                "train_loss": row.train_loss,
                "validation_loss": row.validation_loss,
                "validation_error": row.validation_error,
            }
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    def _new_trial(self) -> Trial:
        setting = self.setting
        return Trial(
            self.config, data=setting.data, device=setting.device, library=setting.library, costs=setting.costs
        )

    def _carry_out(self, work: Callable[[], Result]) -> Result:
        return carry_out(self.setting.device, self.setting.task.threads, work)


def train_epoch(trial: Trial, batch_size: int, lr: float, factor: float | None = None) -> EpochRow:
    """Train an epoch as an agent has chosen; ``factor`` on the rate where the schedule is the agent's, too."""
    trial.decide(batch_size, lr, "chosen by the agent", factor=factor)
    return trial.period()

"""One training as an episode: decisions go in, rewards and observations come out."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from autobatch.envs._reward import Reward
from autobatch.envs._spaces import action_masks, moves_of
from autobatch.envs.train._pricing import Pricing
from autobatch.envs.train._setting import Setting
from autobatch.envs.train._workshop import carry_out
from autobatch.policies import Moves, ObservationView, PolicySpec, Trail
from autobatch.training import EpochRow, RunConfig
from autobatch.training._trial import FINISHED, Trial, TrialState

Result = TypeVar("Result")

AGENT = PolicySpec(name="agent", kind="agent", description="Whoever steps the environment.")


@dataclass(frozen=True, eq=False)
class Rules:
    """What all episodes of an environment share.

    Attributes:
        setting: the task with its data and beacons.
        view: what observations look like.
        reward: what epochs are worth.
        pricing: what they cost.
        measure: whether C̄ and L are measured.
    """

    setting: Setting
    view: ObservationView
    reward: Reward
    pricing: Pricing
    measure: bool


@dataclass(frozen=True)
class EpisodeState:
    """An episode between two steps, without data and beacons; it can be pickled.

    Attributes:
        seed: the training's seed.
        trial: the training itself.
        trail: what the view remembers; None where it remembers nothing.
        rows: the finished epochs.
        potential: the last potential.
        costs: what each epoch has cost.
        rewards: what each epoch has brought.
    """

    seed: int
    trial: TrialState
    trail: Trail | None
    rows: tuple[EpochRow, ...]
    potential: float
    costs: tuple[float, ...]
    rewards: tuple[float, ...]


class Episode:
    """One training, an epoch a step.

    Args:
        rules: what the episodes share.
        seed: the training's seed.

    Attributes:
        rows: the finished epochs.
        costs: what each has cost.
        rewards: what each has brought.
    """

    def __init__(self, rules: Rules, seed: int) -> None:
        setting = rules.setting
        self.rules = rules
        self.seed = seed
        self.config = RunConfig(
            task=setting.task,
            task_path=setting.task_path,
            policy=AGENT,
            seed=seed,
            device=str(setting.device),
            measure=rules.measure,
            trust_code=setting.trust_code,
            costs=setting.costs,
        )
        self._moves = Moves(setting.task.batch_sizes, setting.task.learning_rates)
        self._trial = self._carry_out(
            lambda: Trial(
                self.config, data=setting.data, device=setting.device, library=setting.library, costs=setting.costs
            )
        )
        self.rows: list[EpochRow] = []
        self.costs: list[float] = []
        self.rewards: list[float] = []
        self._potential = 0.0
        self._trail = rules.view.follow(None, self._trial.controller.observation)

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done, or the training has diverged."""
        return self._trial.finished

    @property
    def diverged(self) -> bool:
        """Whether the training has diverged."""
        return self._trial.stopped_because != FINISHED

    @property
    def configuration(self) -> tuple[int, float]:
        """Batch size and base learning rate that the next move starts from."""
        observation = self._trial.controller.observation
        return self._moves.at(*self._moves.rungs(observation.batch_size, observation.lr))

    @property
    def quality(self) -> float:
        """Normalised validation quality, 0 before the first epoch and -1 once the training has diverged."""
        return self._potential

    @property
    def reference(self) -> float:
        """Cost of the reference training."""
        return self.rules.reward.reference

    def act(self, actions: str, action: Any) -> float:
        """Move as an action of some kind says, and train an epoch.

        Args:
            actions: the kind, one of ``ACTIONS``.
            action: the action.

        Returns:
            The reward.
        """
        return self.step(*moves_of(actions, action))

    def masks(self, actions: str) -> NDArray[np.bool_]:
        """Return which actions of some kind stay on the ladders, shape (choices,)."""
        masks: NDArray[np.bool_] = action_masks(actions, *self.rungs())[0]
        return masks

    def drawn(self, mode: str) -> str | NDArray[np.uint8]:
        """Return a few lines of text, or the plane with beacons and journey."""
        from autobatch.envs.train._render import picture, text  # matplotlib, which training does without

        return text(self) if mode == "ansi" else picture(self)

    def step(self, batch_move: int, rate_move: int) -> float:
        """Move, and train an epoch.

        Args:
            batch_move: rungs to move by on the ladder.
            rate_move: rungs to move by on the learning rates.

        Returns:
            The reward.
        """
        reward, score = self.rules.reward, self.rules.setting.task.score
        batch_rung, rate_rung = self._moves.apply(*self._moves.rungs(*self.configuration), batch_move, rate_move)
        batch_size, lr = self._moves.at(int(batch_rung), int(rate_rung))
        start = time.perf_counter()
        row = self._carry_out(lambda: self._epoch(batch_size, lr))
        cost = self.rules.pricing.epoch(row.batch_size, time.perf_counter() - start)
        potential = float(reward.potential(getattr(row, score), self.diverged))
        gained = float(reward(self._potential, potential, cost))
        self._potential = potential
        self._trail = self.rules.view.follow(self._trail, self._trial.controller.observation)
        self.rows.append(row)
        self.costs.append(cost)
        self.rewards.append(gained)
        return gained

    def rungs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rungs that the next move starts from, and the highest ones, each of shape (1, 2)."""
        tops = len(self._moves.batch_sizes) - 1, len(self._moves.learning_rates) - 1
        return np.array([self._moves.rungs(*self.configuration)]), np.array([tops])

    def observation(self) -> NDArray[np.float32]:
        """Return the flat view of where the training stands, a new array each time."""
        return self.rules.view.array(self._trial.controller.observation, self._trail)

    def figures(self) -> dict[str, Any]:
        """Return plain figures by name; one that is not known or not finite is left out."""
        batch_size, lr = self.configuration
        figures: dict[str, Any] = {
            "run_seed": self.seed,
            "epoch": len(self.rows),
            "progress": self._trial.controller.progress,
            "batch_size": batch_size,
            "lr": lr,
            "quality": self.quality,
            "cost_total": math.fsum(self.costs),
            "diverged": self.diverged,
        }
        if self.rows:
            row = self.rows[-1]
            figures |= {
                "cost": self.costs[-1],
                "score": getattr(row, self.rules.setting.task.score),
                "c_bar": row.c_bar,
                "l_cum": row.l_cum if row.samples else math.nan,
                "train_loss": row.train_loss,
                "validation_loss": row.validation_loss,
                "validation_error": row.validation_error,
            }
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    def state(self) -> EpisodeState:
        """Return where the episode stands, as something that can be pickled."""
        return EpisodeState(
            seed=self.seed,
            trial=self._carry_out(self._trial.state),
            trail=self._trail,
            rows=tuple(self.rows),
            potential=self._potential,
            costs=tuple(self.costs),
            rewards=tuple(self.rewards),
        )

    @classmethod
    def restored(cls, rules: Rules, state: EpisodeState) -> "Episode":
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
        assert state.trail is not None
        episode._potential, episode._trail = state.potential, state.trail
        return episode

    def close(self) -> None:
        """Let go of the optimizer."""
        self._trial.controller.close()

    def _epoch(self, batch_size: int, lr: float) -> EpochRow:
        self._trial.decide(batch_size, lr, "chosen by the agent")
        return self._trial.epoch()

    def _carry_out(self, work: Callable[[], Result]) -> Result:
        return carry_out(self.rules.setting.device, self.rules.setting.task.threads, work)

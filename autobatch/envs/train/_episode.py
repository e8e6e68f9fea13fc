"""One training as an episode: decisions go in, rewards and observations come out."""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autobatch.envs._reward import Reward
from autobatch.envs._spaces import action_masks, moves_of
from autobatch.envs.train._pricing import Pricing
from autobatch.envs.train._setting import Setting
from autobatch.envs.train._trained import EpisodeState, TrainedEpisode
from autobatch.policies import Moves, ObservationView
from autobatch.training import EpochRow


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


class Episode(TrainedEpisode):
    """One training, an epoch a step.

    Args:
        rules: what the episodes share.
        seed: the training's seed.
    """

    def __init__(self, rules: Rules, seed: int) -> None:
        super().__init__(rules.setting, seed, measure=rules.measure)
        self.rules = rules
        self._moves = Moves(rules.setting.task.batch_sizes, rules.setting.task.learning_rates)
        self._trail = rules.view.follow(None, self._trial.controller.observation)

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done, or the training has diverged."""
        return self._trial.finished

    @property
    def configuration(self) -> tuple[int, float]:
        """Batch size and base learning rate that the next move starts from."""
        observation = self._trial.controller.observation
        return self._moves.at(*self._moves.rungs(observation.batch_size, observation.lr))

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
        row = self.rows[-1] if self.rows else None
        measured = {} if row is None else {"c_bar": row.c_bar, "l_cum": row.l_cum if row.samples else math.nan}
        return self._figures(progress=self._trial.controller.progress, cost_total=math.fsum(self.costs), **measured)

    def state(self) -> EpisodeState:
        """Return where the episode stands, as something that can be pickled."""
        return self._kept(self._trail)

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
        episode._go_on(state)
        assert state.trail is not None
        episode._trail = state.trail
        return episode

    def _epoch(self, batch_size: int, lr: float) -> EpochRow:
        self._trial.decide(batch_size, lr, "chosen by the agent")
        return self._trial.epoch()

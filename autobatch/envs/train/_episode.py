"""One training as an episode: decisions go in, rewards and observations come out."""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autobatch.envs._reward import Reward
from autobatch.envs._spaces import action_masks, check_action
from autobatch.envs.train._trained import TrainedEpisode, TrainingRules, train_epoch
from autobatch.policies import Moves, ObservationView
from autobatch.policies._moves import decode


@dataclass(frozen=True, eq=False)
class Rules(TrainingRules):
    """What all episodes of an environment share.

    Attributes:
        view: what observations look like.
        reward: what epochs are worth.
    """

    view: ObservationView
    reward: Reward


class Episode(TrainedEpisode[Rules]):
    """One training, an epoch a step.

    Args:
        rules: what the episodes share.
        seed: the training's seed.
    """

    keeps = ("_trail",)

    def __init__(self, rules: Rules, seed: int) -> None:
        super().__init__(rules, seed)
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
        reward, score = self.rules.reward, self.rules.setting.task.score
        rungs = self._moves.apply(
            *self._moves.rungs(*self.configuration), *decode(actions, check_action(actions, action))
        )
        batch_size, lr = self._moves.at(*map(int, rungs))
        start = time.perf_counter()
        row = self._carry_out(lambda: train_epoch(self._trial, batch_size, lr))
        cost = self.rules.pricing.epoch(row.batch_size, time.perf_counter() - start)
        potential = float(reward.potential(getattr(row, score), self.diverged))
        gained = float(reward(self.quality, potential, cost))
        self.quality = potential
        self._trail = self.rules.view.follow(self._trail, self._trial.controller.observation)
        self.rows.append(row)
        self.costs.append(cost)
        self.rewards.append(gained)
        return gained

    def masks(self, actions: str) -> NDArray[np.bool_]:
        """Return which actions of some kind stay on the ladders, shape (choices,)."""
        tops = len(self._moves.batch_sizes) - 1, len(self._moves.learning_rates) - 1
        rungs = np.array([self._moves.rungs(*self.configuration)])
        masks: NDArray[np.bool_] = action_masks(actions, rungs, np.array([tops]))[0]
        return masks

    def observation(self) -> NDArray[np.float32]:
        """Return the flat view of where the training stands, a new array each time."""
        return self.rules.view.array(self._trial.controller.observation, self._trail)

    def figures(self) -> dict[str, Any]:
        """Return plain figures by name; one that is not known or not finite is left out."""
        row = self.rows[-1] if self.rows else None
        measured = {} if row is None else {"c_bar": row.c_bar, "l_cum": row.l_cum if row.samples else math.nan}
        return self._figures(progress=self._trial.controller.progress, cost_total=math.fsum(self.costs), **measured)

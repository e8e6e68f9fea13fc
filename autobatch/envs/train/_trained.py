"""What an episode of real training keeps, whoever has the schedule: the training, its epochs, costs and rewards."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from autobatch.envs.train._setting import Setting
from autobatch.envs.train._workshop import carry_out
from autobatch.policies import PolicySpec, Trail
from autobatch.training import EpochRow, RunConfig
from autobatch.training._trial import FINISHED, Trial, TrialState

Result = TypeVar("Result")

_AGENT = PolicySpec(name="agent", kind="agent", description="Whoever steps the environment.")


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


class TrainedEpisode:
    """One training, an epoch a step.

    Args:
        setting: the task with its data and beacons.
        seed: the training's seed.
        measure: whether C̄ and L are measured.

    Attributes:
        setting: the task with its data and beacons.
        rows: the finished epochs.
        costs: what each step has cost.
        rewards: what each step has brought.
    """

    def __init__(self, setting: Setting, seed: int, *, measure: bool) -> None:
        self.seed = seed
        self.config = RunConfig(
            task=setting.task,
            task_path=setting.task_path,
            policy=_AGENT,
            seed=seed,
            device=str(setting.device),
            measure=measure,
            trust_code=setting.trust_code,
            costs=setting.costs,
        )
        self.rows: list[EpochRow] = []
        self.costs: list[float] = []
        self.rewards: list[float] = []
        self.setting = setting
        self._potential = 0.0
        self._trial = self._carry_out(self._new_trial)

    @property
    def diverged(self) -> bool:
        """Whether the training has diverged."""
        return self._trial.stopped_because != FINISHED

    @property
    def quality(self) -> float:
        """The potential: 0 before the first epoch and -1 once the training has diverged."""
        return self._potential

    @property
    def configuration(self) -> tuple[int, float]:
        """Batch size and base learning rate in force."""
        raise NotImplementedError

    @property
    def reference(self) -> float:
        """Cost of the reference training."""
        raise NotImplementedError

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

    def _kept(self, trail: Trail | None = None) -> EpisodeState:
        return EpisodeState(
            seed=self.seed,
            trial=self._carry_out(self._trial.state),
            trail=trail,
            rows=tuple(self.rows),
            potential=self._potential,
            costs=tuple(self.costs),
            rewards=tuple(self.rewards),
        )

    def _go_on(self, state: EpisodeState) -> None:
        self._carry_out(lambda: self._trial.restore(state.trial))
        self.rows, self.costs, self.rewards = list(state.rows), list(state.costs), list(state.rewards)
        self._potential = state.potential

    def _new_trial(self) -> Trial:
        setting = self.setting
        return Trial(
            self.config, data=setting.data, device=setting.device, library=setting.library, costs=setting.costs
        )

    def _carry_out(self, work: Callable[[], Result]) -> Result:
        return carry_out(self.setting.device, self.setting.task.threads, work)

"""The best fixed beacon, stopped when it stops improving: what a library is good for without any steering.

The configuration is the library's best fixed one. Under the task's schedule the end is that of early stopping (Prechelt
1998, "Early stopping - but when?", in Neural Networks: Tricks of the Trade, LNCS 1524), as trainers have it: the score
has not improved by some share for some epochs. Before the schedule's last decay nothing ends, since the decay itself is
the next improvement. Under the plan of policy ``steer`` the end is that plan's.

Departure: the trained network is the last one, where the chapter goes back to the best one.
"""

import math
from typing import Any, Literal

from pydantic import Field

from autobatch.beacons import BeaconLibrary
from autobatch.policies._parameters import PolicyParameters, after_reset, require_on_ladder
from autobatch.policies._protocol import Decision, Observation, TaskInfo
from autobatch.policies._registry import register_policy
from autobatch.policies._wording import configuration, count, figure, percent
from autobatch.policies.steer import SteerParameters, SteerPolicy


class BestBeaconStoppedParameters(PolicyParameters):
    """Parameters of the kind ``best-beacon-stopped``."""

    patience: int = Field(
        default=3, ge=1, description="Epochs in a row without improvement, after the last milestone, that end it."
    )
    improvement: float = Field(
        default=0.01, ge=0, lt=1, description="Share of the best score by which an epoch must be better."
    )
    schedule: Literal["task", "steer"] = Field(
        default="task", description="The task's own schedule with early stopping, or the plan of policy steer."
    )


@register_policy(
    "best-beacon-stopped",
    BestBeaconStoppedParameters,
    blind=True,
    changes="end; rate, batch size (-steered)",
    when="Beacons are there, and nothing is to be chosen; to compare with.",
)
class BestBeaconStoppedPolicy:
    """Train as the best beacon did, and end when the score no longer improves."""

    needs_library = True

    def __init__(self, parameters: BestBeaconStoppedParameters) -> None:
        self.parameters = parameters
        self._task: TaskInfo | None = None
        self._start = (0, math.nan)
        self._epoch, self._best, self._waited = 0, math.inf, 0
        self._steer = SteerPolicy(SteerParameters()) if parameters.schedule == "steer" else None

    def reset(self, task: TaskInfo, library: BeaconLibrary | None) -> None:
        """Look up the best fixed configuration."""
        if library is None:
            raise ValueError("best-beacon-stopped needs a beacon library")
        best = library.best_fixed()
        require_on_ladder([best.batch_size], task)
        self._task, self._start = task, (best.batch_size, best.lr)
        self._epoch, self._best, self._waited = 0, math.inf, 0
        if self._steer is not None:
            self._steer.reset(task, None)
            self._steer.begin(*self._start, f"{configuration(*self._start)}: the best fixed beacon")

    def decide(self, observation: Observation) -> Decision:
        """Count the epoch, and end the training where it was one too many; asked twice in an epoch, the same twice."""
        task = after_reset(self._task)
        if self._steer is not None:
            return self._steer.decide(observation)
        if observation.epoch > self._epoch:
            self._epoch = observation.epoch
            self._count(
                float(getattr(observation, task.score)), observation.progress > max(task.milestones, default=0.0)
            )
        if self._waited >= self.parameters.patience and observation.epoch < task.epochs:
            reason = (
                f"{count(self._waited, 'epoch')} not {percent(self.parameters.improvement)} better than "
                f"{figure(self._best)}: stop"
            )
            return Decision(*self._start, reason, stop=True)
        return Decision(*self._start, f"{configuration(*self._start)}: the best fixed beacon")

    def state_dict(self) -> dict[str, Any]:
        """Return the best score and the epochs since."""
        best = self._best if math.isfinite(self._best) else None
        return {"epoch": self._epoch, "best": best, "waited": self._waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._epoch, self._waited = int(state["epoch"]), int(state["waited"])
        self._best = math.inf if state["best"] is None else float(state["best"])

    def _count(self, score: float, decayed: bool) -> None:
        if score < self._best * (1.0 - self.parameters.improvement):
            self._best, self._waited = score, 0
        elif decayed:
            self._waited += 1

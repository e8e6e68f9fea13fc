"""The batch grows when the validation score stops improving, as a rate is reduced on a plateau.

The rule is that of ``torch.optim.lr_scheduler.ReduceLROnPlateau`` with its defaults, turned from the rate to the batch
size after Smith, Kindermans, Ying, Le 2018 (arXiv 1711.00489): where the rate would be divided by a factor, the size is
multiplied by it. An epoch improves where its score is below the best one by more than ``threshold`` of it; after more
than ``patience`` epochs in a row that do not, the batch grows, and the count begins anew.

Departures: the size goes to the nearest rung, one rung up at least, to the end of the ladder. An epoch without a score
is not counted; the rate is the training's own, its schedule goes on.
"""

import math
from typing import Any

from pydantic import Field

from autobatch.beacons import BeaconLibrary
from autobatch.policies._protocol import Observation, TaskInfo
from autobatch.policies._registry import register_policy
from autobatch.policies._rungs import nearest_rung, rung_above
from autobatch.policies._wording import count, figure
from autobatch.policies.rivals._rival import Choice, Rival, RivalParameters


class PlateauParameters(RivalParameters):
    """Parameters of the kind ``plateau``."""

    factor: float = Field(
        default=10.0, gt=1, allow_inf_nan=False, description="What the batch size is multiplied by on a plateau."
    )
    patience: int = Field(default=10, ge=0, description="Epochs without improvement that are waited for.")
    threshold: float = Field(
        default=1e-4, ge=0, lt=1, description="Share of the best score by which an epoch must be better."
    )


@register_policy(
    "plateau",
    PlateauParameters,
    blind=True,
    changes="batch size",
    when="A good rate is known, and the validation score is to decide.",
)
class PlateauPolicy(Rival[PlateauParameters]):
    """Multiply the batch size when the validation score has not improved for some epochs."""

    def reset(self, task: TaskInfo, library: BeaconLibrary | None) -> None:
        """Start anew."""
        super().reset(task, library)
        self._best, self._waited = math.inf, 0

    def choose(self, task: TaskInfo, observation: Observation) -> Choice:
        """Count the epoch, and grow where it was one too many."""
        score, size = float(getattr(observation, task.score)), observation.batch_size
        if not math.isfinite(score):
            return self.keep(observation, "for the validation score is not known")
        if score < self._best * (1.0 - self.parameters.threshold):
            self._best, self._waited = score, 0
            return self.keep(observation, f"the best score so far, {figure(score)}")
        self._waited += 1
        told = f"{count(self._waited, 'epoch')} without a better score than {figure(self._best)}"
        if self._waited <= self.parameters.patience:
            return self.keep(observation, told)
        self._waited = 0
        grown = nearest_rung(self.parameters.factor * size, task.batch_sizes)
        return Choice(max(grown, rung_above(size + 1, task.batch_sizes)), told)

    def state_dict(self) -> dict[str, Any]:
        """Return the last choice, the best score and the epochs since."""
        best = self._best if math.isfinite(self._best) else None
        return {**super().state_dict(), "best": best, "waited": self._waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        super().load_state_dict(state)
        self._best = math.inf if state["best"] is None else float(state["best"])
        self._waited = int(state["waited"])

"""Pick after i epochs: a few configurations train for a few epochs each, and the best one goes on.

Egele, Mohr, Viering, Balaprakash 2024, "The unreasonable effectiveness of early discarding after one epoch in neural
network hyperparameter optimization", arXiv 2404.04111: to discard all candidates but one after i epochs is as good as
successive halving and the extrapolation of curves, and what both should be compared with (there as ``i-Epoch``).

The configurations were fixed before they were tried: two batch sizes and four rates that rise with them, the smallest
of the sets that were replayed on the shipped libraries. They are moved to the nearest rungs and rates of the task.

Departures: the paper draws its candidates at random and keeps the score of epoch i; here the scouts are few and always
the same, the winner's training goes on where it stands, and i is a share of the training.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from autobatch.beacons import BeaconLibrary
from autobatch.policies._moves import Moves
from autobatch.policies._parameters import PolicyParameters, after_reset
from autobatch.policies._protocol import Decision, Observation, TaskInfo
from autobatch.policies._registry import register_policy
from autobatch.policies._wording import configuration, count, figure
from autobatch.policies.steer import Scout, ScoutChoice, ScoutPlan, SteerParameters, SteerPolicy

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class PickAfterIEpochsParameters(PolicyParameters):
    """Parameters of the kind ``pick-after-i-epochs``."""

    configurations: tuple[tuple[PositiveInt, Rate], ...] = Field(
        default=((32, 0.025), (32, 0.1), (128, 0.1), (128, 0.4)),
        min_length=1,
        description="Batch size and base learning rate of each short training; the nearest of the task's are taken.",
    )
    scout_share: float = Field(
        default=0.05, gt=0, le=0.25, description="Share of the training that each takes; one epoch at least."
    )
    schedule: Literal["task", "steer"] = Field(
        default="task",
        description="What the winner goes on under: the task's own schedule, or the plan of policy steer.",
    )
    stop_at: float = Field(
        default=1.0, gt=0, le=1, description="Share of the training after which it ends, under the task's own schedule."
    )

    @model_validator(mode="after")
    def _one_end(self) -> "PickAfterIEpochsParameters":
        if self.schedule == "steer" and self.stop_at < 1.0:
            raise ValueError("'stop_at' is for the task's own schedule; steer's plan has an end of its own")
        return self


@register_policy(
    "pick-after-i-epochs",
    PickAfterIEpochsParameters,
    blind=True,
    changes="end (-stopped, -steered); rate, batch size (-steered)",
    when="To compare with scouts that are judged by the validation score.",
)
class PickAfterIEpochsPolicy:
    """Go on with the configuration whose score was best after a few epochs."""

    needs_library = False

    def __init__(self, parameters: PickAfterIEpochsParameters) -> None:
        self.parameters = parameters
        self._task: TaskInfo | None = None
        self._start = (0, math.nan)
        self._reason = ""
        self._steer = SteerPolicy(SteerParameters()) if parameters.schedule == "steer" else None

    def reset(self, task: TaskInfo, library: BeaconLibrary | None) -> None:
        """Start with the first configuration, as long as no scout has gone."""
        self._task = task
        if self._steer is not None:
            self._steer.reset(task, library)
        first = self._configurations(task)[0]
        self._begin(*first, f"{configuration(*first)}: the first that would be tried, as no scouts were made")

    def scouts(self, done: Sequence[Scout] = ()) -> ScoutPlan:
        """Return the short trainings to make first.

        Args:
            done: those that have been made; they change nothing.

        Returns:
            The plan; all of its scouts train to their end. Without any where there is nothing to choose from, or an
            epoch is the whole training.
        """
        task = self._known_task()
        epochs = max(1, round(self.parameters.scout_share * task.epochs))
        chosen = self._configurations(task)
        return ScoutPlan(chosen if len(chosen) > 1 and epochs < task.epochs else (), epochs, whole=True)

    def take(self, scouts: Sequence[Scout]) -> ScoutChoice:
        """Choose the scout with the best score, the first where none has one, and go on from there."""
        sound = [
            (scout.scores[-1], place)
            for place, scout in enumerate(scouts)
            if scout.ended is None and scout.scores and math.isfinite(scout.scores[-1])
        ]
        score, place = min(sound, default=(math.nan, 0))
        winner = scouts[place]
        why = (
            f"validation {figure(score)}, the best of {count(len(scouts), 'scout')} after "
            f"{count(len(winner.scores), 'epoch')}"
            if sound
            else "no scout came to a sound end"
        )
        choice = ScoutChoice(place, f"{configuration(winner.batch_size, winner.lr)}: {why}")
        self._begin(winner.batch_size, winner.lr, choice.reason)
        return choice

    def decide(self, observation: Observation) -> Decision:
        """Keep the winner, under the schedule that was asked for."""
        if self._steer is not None:
            return self._steer.decide(observation)
        task = self._known_task()
        end = max(1, round(self.parameters.stop_at * task.epochs))
        if end <= observation.epoch < task.epochs:
            reason = f"{count(end, 'epoch')} of {task.epochs} are trained, which were to be enough: stop"
            return Decision(*self._start, reason, stop=True)
        return Decision(*self._start, self._reason)

    def state_dict(self) -> dict[str, Any]:
        """Return where the run has started, and why."""
        return {"start": list(self._start), "reason": self._reason}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore where the run has started, and why."""
        batch_size, lr = state["start"]
        self._begin(int(batch_size), float(lr), str(state["reason"]))

    def _begin(self, batch_size: int, lr: float, reason: str) -> None:
        self._start, self._reason = (batch_size, lr), reason
        if self._steer is not None:
            self._steer.begin(batch_size, lr, reason)

    def _configurations(self, task: TaskInfo) -> tuple[tuple[int, float], ...]:
        """Return the task's configurations next to those of the parameters, each once."""
        moves = Moves(task.batch_sizes, task.learning_rates)
        return tuple(dict.fromkeys(moves.at(*moves.rungs(*wanted)) for wanted in self.parameters.configurations))

    def _known_task(self) -> TaskInfo:
        return after_reset(self._task)

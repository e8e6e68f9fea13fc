"""What the published batch-size rules share: a first size, the rate that sizes are relative to, one answer an epoch.

The rules were published for single steps and for any whole number as batch size. Here a decision holds for an epoch, or
a shorter period where the controller decides more often, and sizes are the rungs of the task's ladder. The first
decision takes the first batch size at the base learning rate; ``docs/concepts/rivals.md`` has all rules side by side.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pydantic import Field

from autobatch._plain import Plain
from autobatch.beacons import BeaconLibrary
from autobatch.policies._parameters import PolicyParameters, after_reset
from autobatch.policies._protocol import Decision, Observation, TaskInfo
from autobatch.policies._rungs import nearest_rung
from autobatch.policies._wording import configuration

if TYPE_CHECKING:
    from autobatch.fisher import GradientMoments

    Gradients = GradientMoments
else:
    Gradients = Any  # with it comes torch, which reading a policy does without


ROUND_OFF = 1e-9
"""Keeps 0.6 of a training from being the end of 2.9999 intervals of 0.2."""


class RivalParameters(PolicyParameters):
    """What every published rule needs besides its own parameters."""

    batch_size: int = Field(default=32, gt=0, description="First batch size; the nearest rung of the ladder is taken.")
    lr: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Base learning rate of the first batch size, before the schedule's factor. By default the "
        "training's own, after the controller's learning-rate rule.",
    )


ParametersT = TypeVar("ParametersT", bound=RivalParameters)


@dataclass(frozen=True)
class Choice(Plain):
    """What a rule chooses for an epoch.

    Attributes:
        batch_size: a rung of the ladder.
        reason: why, in words.
        factor: what the base learning rate is multiplied by; left alone by rules that do not set the rate.
    """

    batch_size: int
    reason: str
    factor: float = 1.0


class Rival(ABC, Generic[ParametersT]):
    """A published rule: it chooses once an epoch, however often it is asked, and answers with a sentence.

    Args:
        parameters: its parameters.
    """

    needs_library = False
    sets_rate: ClassVar[bool] = False
    """Whether the rule multiplies the base learning rate; otherwise the controller's rule has it."""

    def __init__(self, parameters: ParametersT) -> None:
        self.parameters = parameters
        self._task: TaskInfo | None = None
        self._base_lr = parameters.lr
        self._last: tuple[int, Choice] | None = None

    def reset(self, task: TaskInfo, library: BeaconLibrary | None) -> None:
        """Start anew with a task; no rule looks at a library."""
        self._task, self._base_lr, self._last = task, self.parameters.lr, None

    @property
    def task(self) -> TaskInfo:
        """The task; a RuntimeError before ``reset``."""
        return after_reset(self._task)

    @property
    def first_batch_size(self) -> int:
        """The rung that the training starts with."""
        return nearest_rung(self.parameters.batch_size, self.task.batch_sizes)

    def decide(self, observation: Observation) -> Decision:
        """Return the rule's choice; asked twice in an epoch, the same twice."""
        task = self.task
        if self._base_lr is None and math.isfinite(observation.lr):
            self._base_lr = observation.lr
        if self._last is None or self._last[0] != observation.epoch:
            choice = self.choose(task, observation) if observation.batch_size else self.begin(task)
            self._last = (observation.epoch, choice)
        choice = self._last[1]
        lr = self.parameters.lr
        if self.sets_rate and self._base_lr is not None:
            lr = self._base_lr * choice.factor
        return Decision(choice.batch_size, lr, f"{configuration(choice.batch_size, lr)}: {choice.reason}")

    def begin(self, task: TaskInfo) -> Choice:
        """Return the first choice: the first batch size at the base learning rate."""
        return Choice(self.first_batch_size, "the first batch size")

    @abstractmethod
    def choose(self, task: TaskInfo, observation: Observation) -> Choice:
        """Return the choice for an epoch that is not the first; called once for it."""

    def keep(self, observation: Observation, reason: str) -> Choice:
        """Return the choice of the size in use, with the factor of the choice before; ``reason`` says why."""
        factor = self._last[1].factor if self._last is not None else 1.0
        return Choice(nearest_rung(observation.batch_size, self.task.batch_sizes), f"kept, {reason}", factor)

    def state_dict(self) -> dict[str, Any]:
        """Return the base learning rate and the last choice."""
        last = None if self._last is None else {"epoch": self._last[0], **self._last[1].to_dict()}
        return {"base_lr": self._base_lr, "last": last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        base_lr, last = state["base_lr"], state["last"]
        self._base_lr = None if base_lr is None else float(base_lr)
        self._last = None
        if last is not None:
            self._last = (int(last["epoch"]), Choice.from_dict(last))


class MeasuredRival(Rival[ParametersT]):
    """A published rule that goes by the gradients; where none are known, it keeps what is in use."""

    def choose(self, task: TaskInfo, observation: Observation) -> Choice:
        """Return what the gradients ask for."""
        gradients = observation.gradients
        if gradients is None:
            return self.keep(observation, "for no gradients were measured in the last epoch")
        if not math.isfinite(gradients.variance):
            return self.keep(observation, f"for batches of {gradients.batch_size} say nothing of the gradients' noise")
        return self.steer(task, observation, gradients)

    @abstractmethod
    def steer(self, task: TaskInfo, observation: Observation, gradients: Gradients) -> Choice:
        """Return what the gradients, their variance among their moments, ask for."""

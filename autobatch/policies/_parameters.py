"""What kinds of policies share: the base of their parameter models, parameters, checks, and keeping no state."""

from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from autobatch._errors import ConfigError
from autobatch.policies._protocol import TaskInfo

Value = TypeVar("Value")

BaseRate = Annotated[
    float | None,
    Field(
        gt=0,
        allow_inf_nan=False,
        description="Base learning rate, before the schedule's factor. By default the training's own, after the "
        "controller's learning-rate rule.",
    ),
]
Weights = Annotated[
    str,
    Field(
        min_length=1,
        description="Name of the weights in a policies/ folder, or their path without '.safetensors'; the card "
        "(.json) lies beside them.",
    ),
]


class PolicyParameters(BaseModel):
    """What a YAML may set under ``parameters:``; unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Stateless:
    """A policy that keeps nothing between decisions: task and epoch decide."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore nothing."""


def after_reset(made: Value | None) -> Value:
    """Return what ``reset`` has made, a RuntimeError where it was not called."""
    if made is None:
        raise RuntimeError("call reset(task, library) before decide()")
    return made


def require_on_ladder(batch_sizes: Iterable[int], task: TaskInfo) -> None:
    """Refuse batch sizes that a policy wants to use and the task does not offer."""
    missing = sorted(set(batch_sizes) - set(task.batch_sizes))
    if missing:
        asked = ", ".join(str(size) for size in missing)
        ladder = ", ".join(str(size) for size in task.batch_sizes)
        raise ConfigError(
            f"the policy asks for batch size {asked}, which is not on the ladder of task '{task.name}' "
            f"(batch_sizes: {ladder}); choose sizes of the ladder, as the policies 's{task.batch_sizes[0]}' and "
            f"'s{task.batch_sizes[0]}-to-{task.batch_sizes[-1]}' do, or add to batch_sizes (in a task's env.yaml, or "
            "where the controller is made)"
        )

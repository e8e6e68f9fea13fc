"""The base of every policy kind's parameter model, and the checks that kinds share."""

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from autobatch._errors import ConfigError
from autobatch.policies._protocol import TaskInfo


class PolicyParameters(BaseModel):
    """What a YAML may set under ``parameters:``; unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


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

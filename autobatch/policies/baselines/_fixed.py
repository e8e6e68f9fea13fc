"""One batch size and learning rate for the whole training: what a beacon is."""

from pydantic import Field

from autobatch.beacons import BeaconLibrary
from autobatch.policies._parameters import BaseRate, PolicyParameters, Stateless, require_on_ladder
from autobatch.policies._protocol import Decision, Observation, TaskInfo
from autobatch.policies._registry import register_policy
from autobatch.policies._rungs import nearest_rung
from autobatch.policies._wording import configuration

_DEFAULT = 32


class FixedParameters(PolicyParameters):
    """Parameters of the kind ``fixed``."""

    batch_size: int | None = Field(
        default=None,
        gt=0,
        description="Global batch size, one of the task's ladder. By default the rung nearest to 32.",
    )
    lr: BaseRate = None


@register_policy(
    "fixed", FixedParameters, blind=True, changes="nothing", when="Batch size and rate are known; to compare with."
)
class FixedPolicy(Stateless):
    """Keep one batch size and one base learning rate."""

    needs_library = False

    def __init__(self, parameters: FixedParameters) -> None:
        self.parameters = parameters
        self._batch_size = parameters.batch_size or _DEFAULT

    def reset(self, task: TaskInfo, library: BeaconLibrary | None) -> None:
        """Check the batch size against the ladder of ``task``, or take it from there."""
        self._batch_size = self.parameters.batch_size or nearest_rung(_DEFAULT, task.batch_sizes)
        require_on_ladder([self._batch_size], task)

    def decide(self, observation: Observation) -> Decision:
        """Return the fixed configuration."""
        batch_size, lr = self._batch_size, self.parameters.lr
        return Decision(batch_size, lr, reason=f"{configuration(batch_size, lr)}, fixed for the whole training")

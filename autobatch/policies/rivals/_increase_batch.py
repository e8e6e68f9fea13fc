"""Instead of decaying the learning rate, increase the batch size (Smith, Kindermans, Ying, Le 2018, arXiv 1711.00489).

The noise of SGD goes with the rate over the batch size, so that a schedule that divides the rate by a factor may as
well multiply the size by it, until the size ends; from there on the rate decays.

The controller multiplies the base rate by the schedule's factor. The policy therefore asks for the base rate times
B / B0, B0 the first size: rate over size then follows the schedule whatever sizes there are, and the rate in use decays
only by what the ladder cannot take. Its sizes are the largest rungs that are not above B0 times a power of the factor.

Departures: sizes are rungs, and the ladder ends early, so that the rate decays by some of the factor from the first
milestone on.
"""

from pydantic import Field

from autobatch.policies._protocol import Observation, TaskInfo
from autobatch.policies._registry import register_policy
from autobatch.policies._rungs import rung_below
from autobatch.policies._wording import figure
from autobatch.policies.rivals._rival import Choice, Rival, RivalParameters


class IncreaseBatchParameters(RivalParameters):
    """Parameters of the kind ``increase-batch``."""

    factor: float = Field(
        default=10.0,
        gt=1,
        allow_inf_nan=False,
        description="What the schedule divides the rate by at each milestone; the batch size is multiplied by it.",
    )


@register_policy(
    "increase-batch",
    IncreaseBatchParameters,
    blind=True,
    changes="batch size, rate",
    when="A good rate is known, and the schedule decays in steps.",
)
class IncreaseBatchPolicy(Rival[IncreaseBatchParameters]):
    """Multiply the batch size where the schedule would divide the learning rate."""

    sets_rate = True

    def choose(self, task: TaskInfo, observation: Observation) -> Choice:
        """Return the size after the milestones that are passed."""
        passed = sum(observation.progress >= milestone for milestone in task.milestones)
        if not passed:
            return Choice(self.first_batch_size, "before the schedule's first decay")
        wanted = self.first_batch_size * self.parameters.factor**passed
        size = rung_below(wanted, task.batch_sizes)
        growth = size / self.first_batch_size
        told = f"in place of decay {passed} of {len(task.milestones)}, which asks for {figure(wanted)}"
        return Choice(size, f"{told}; base rate x {figure(growth)} against the schedule", growth)

"""AdaBatch: the batch size doubles at equal intervals (Devarakonda, Naumov, Garland 2017, arXiv 1712.02029).

The paper doubles the size every 20 of 100 epochs and lets the rate decay by 0.75 there, where training at the first
size lets it decay by 0.375: rate over size is the same. Here the base rate is multiplied by B / B0, B0 the first size,
and the controller multiplies it by the schedule's factor, so that rate over size follows the task's schedule.

Departures: the schedule is the task's, not one that decays at every doubling; sizes are rungs and end with the ladder.
"""

import math

from pydantic import Field

from autobatch.policies._protocol import Observation, TaskInfo
from autobatch.policies._registry import register_policy
from autobatch.policies._rungs import rung_below
from autobatch.policies._wording import figure, percent
from autobatch.policies.rivals._rival import ROUND_OFF, Choice, Rival, RivalParameters


class AdaBatchParameters(RivalParameters):
    """Parameters of the kind ``adabatch``."""

    interval: float = Field(default=0.2, gt=0, le=1, description="Share of the training after which the size grows.")
    factor: float = Field(
        default=2.0, gt=1, allow_inf_nan=False, description="What the batch size is multiplied by at each interval."
    )


@register_policy(
    "adabatch",
    AdaBatchParameters,
    blind=True,
    changes="batch size, rate",
    when="A good rate is known, and the batch is to grow by the clock.",
)
class AdaBatchPolicy(Rival[AdaBatchParameters]):
    """Multiply batch size and learning rate at equal intervals."""

    sets_rate = True

    def choose(self, task: TaskInfo, observation: Observation) -> Choice:
        """Return the size of the interval that the training is in."""
        own, first = self.parameters, self.first_batch_size
        passed = math.floor(observation.progress / own.interval + ROUND_OFF)
        size = rung_below(first * own.factor**passed, task.batch_sizes)
        told = f"s{first} x {figure(own.factor)} for each {percent(own.interval)} of the training, {passed} so far"
        return Choice(size, told, size / first)

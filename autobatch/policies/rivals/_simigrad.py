"""SimiGrad: the halves of a batch shall agree to a given degree (Qin, Rajbhandari, Ruwase, Yan, Yang, He 2021).

"SimiGrad: fine-grained adaptive batching for large scale training using gradient similarity measurement", NeurIPS 2021.
Where the cosine between the mean gradients of a batch's two halves is below a target, the batch grows; where it is
above, it shrinks. The rate is multiplied by the root of the size over the first size. The authors' program changes the
size by a tenth at a time, after each step, by the mean of the last 20 cosines.

Departures: the size changes once an epoch, by one rung, by the mean over the epoch's measured steps. The paper chooses
the target for each task; 0.1 is the middle of what the authors' program searches for ResNet-18 on CIFAR-10.
"""

import math

from pydantic import Field

from autobatch.policies._protocol import Observation, TaskInfo
from autobatch.policies._registry import register_policy
from autobatch.policies._rungs import rung_above, rung_below
from autobatch.policies._wording import figure
from autobatch.policies.rivals._rival import Choice, Gradients, MeasuredRival, RivalParameters


class SimiGradParameters(RivalParameters):
    """Parameters of the kind ``simigrad``."""

    target: float = Field(default=0.1, gt=-1, lt=1, description="Cosine between the gradients of a batch's two halves.")
    scale_rate: bool = Field(
        default=True, description="Multiply the base learning rate by the root of the size over the first size."
    )


@register_policy("simigrad", SimiGradParameters, changes="batch size, rate", when="To compare with SimiGrad.")
class SimiGradPolicy(MeasuredRival[SimiGradParameters]):
    """Steer the batch size so that the two halves of a batch agree to a given degree."""

    sets_rate = True

    def steer(self, task: TaskInfo, observation: Observation, gradients: Gradients) -> Choice:
        """Return the rung above or below."""
        cosine, target, size = gradients.half_cosine, self.parameters.target, observation.batch_size
        if math.isnan(cosine):
            return self.keep(observation, "for a half of the batch has no gradient")
        if cosine == target:
            return self.keep(observation, f"the halves' cosine is {figure(cosine)}, as wanted")
        low = cosine < target
        rung = rung_above(size + 1, task.batch_sizes) if low else rung_below(size - 1, task.batch_sizes)
        factor = math.sqrt(rung / self.first_batch_size) if self.parameters.scale_rate else 1.0
        told = f"the halves' cosine is {figure(cosine)}, {'below' if low else 'above'} {figure(target)}"
        return Choice(rung, told, factor)

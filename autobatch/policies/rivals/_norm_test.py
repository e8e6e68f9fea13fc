"""The norm test: a batch grows where the gradient's variance is too large for its norm (Byrd, Chin, Nocedal, Wu 2012).

"Sample size selection in optimization methods for machine learning", Mathematical Programming 134, section 3. With g
the mean gradient of a batch of B samples and V the sum over the coordinates of the samples' variance, the batch fails
where V / B > θ² ‖g‖² (eq. 3.9), and the next has V / (θ² ‖g‖²) samples (eq. 3.11); it never shrinks.

Departures: one test an epoch, on means over its measured steps; the size asked for goes to the next rung; the paper's
steps have a line search, here the rate is the training's own.
"""

import math

from pydantic import Field

from autobatch.policies._protocol import Observation, TaskInfo
from autobatch.policies._registry import register_policy
from autobatch.policies._rungs import rung_above
from autobatch.policies._wording import figure
from autobatch.policies.rivals._rival import Choice, Gradients, MeasuredRival, RivalParameters


class NormTestParameters(RivalParameters):
    """Parameters of the kind ``norm-test``."""

    theta: float = Field(
        default=0.5, gt=0, allow_inf_nan=False, description="Error of the gradient that is accepted, over its norm."
    )


@register_policy(
    "norm-test",
    NormTestParameters,
    changes="batch size",
    when="To compare with the norm test; it soon asks for the largest size.",
)
class NormTestPolicy(MeasuredRival[NormTestParameters]):
    """Grow the batch until it passes the norm test."""

    def steer(self, task: TaskInfo, observation: Observation, gradients: Gradients) -> Choice:
        """Return what the test asks for."""
        error, allowed = gradients.variance, self.parameters.theta**2 * gradients.mean_squared_norm
        test = f"variance {figure(error)} / {gradients.batch_size} against {figure(allowed)} = θ² ‖g‖²"
        if error <= gradients.batch_size * allowed:
            return self.keep(observation, f"the norm test passes: {test}")
        wanted = error / allowed if allowed > 0.0 else math.inf
        size = max(observation.batch_size, rung_above(wanted, task.batch_sizes))
        return Choice(size, f"the norm test fails and asks for {figure(wanted)}: {test}")

"""CABS: the batch size is coupled to the learning rate (Balles, Romero, Hennig 2017, arXiv 1612.05086).

B = α tr S / F, with the learning rate α, the sample covariance S of a single sample's gradient and the training loss F
as the distance to an optimum of 0 (eq. 22): as the loss falls, the batch grows, and a falling rate is not needed.

Departures: the size changes once an epoch, to the nearest rung. The means over an epoch's measured steps and over its
losses take the place of the running averages with 0.95, whose memory is 20 steps. The rate in the rule is the base
rate, as the paper's is constant: the schedule's factor is not in it, though it goes on acting on the training. The rule
is derived for SGD without momentum; what momentum ρ makes of a rate, α / (1 - ρ), enters where a parameter says so.
"""

import math

from pydantic import Field

from autobatch.policies._protocol import Observation, TaskInfo
from autobatch.policies._registry import register_policy
from autobatch.policies._rungs import nearest_rung
from autobatch.policies._wording import figure
from autobatch.policies.rivals._rival import Choice, Gradients, MeasuredRival, RivalParameters


class CabsParameters(RivalParameters):
    """Parameters of the kind ``cabs``."""

    momentum: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Momentum ρ whose rate α / (1 - ρ) enters the rule; 0 is the published rule.",
    )


@register_policy(
    "cabs",
    CabsParameters,
    changes="batch size",
    when="To compare with CABS, which is derived for SGD without momentum.",
)
class CabsPolicy(MeasuredRival[CabsParameters]):
    """Couple the batch size to rate, variance and loss."""

    def steer(self, task: TaskInfo, observation: Observation, gradients: Gradients) -> Choice:
        """Return the rung nearest to the rate times the variance over the loss."""
        loss = observation.train_loss
        if not math.isfinite(loss):
            return self.keep(observation, "for no training loss is known")
        # Divided by B, not by B - 1, as the paper and its authors' code have it.
        variance = max(0.0, gradients.sample_squared_norm - gradients.mean_squared_norm)
        rate = observation.lr / (1.0 - self.parameters.momentum)
        wanted = rate * variance / loss if loss > 0.0 else math.inf
        told = f"rate {figure(rate)} x variance {figure(variance)} / training loss {figure(loss)}"
        return Choice(nearest_rung(wanted, task.batch_sizes), f"nearest to {figure(wanted)} = {told}")

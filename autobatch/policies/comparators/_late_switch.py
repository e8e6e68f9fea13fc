"""Late switch: a small batch for most of the training, a large one for the rest.

Wang, Li, Zhou, Wang, Sun, Zhang, Cai, Wu 2026, "Fast catch-up, late switching: Optimal batch size scheduling via
functional scaling laws", arXiv 2602.14208: after a switch to a large batch the loss soon joins that of the large batch
from the start, so that on hard tasks the best schedule trains small until late. The base rate stays as it is.

Departures: the share after which to switch and the size thereafter are this project's choice; the paper has them from
laws that are fitted to other runs.
"""

from pydantic import Field

from autobatch.policies._protocol import Observation, TaskInfo
from autobatch.policies._registry import register_policy
from autobatch.policies._rungs import nearest_rung
from autobatch.policies._wording import figure, percent
from autobatch.policies.rivals._rival import Choice, Rival, RivalParameters


class LateSwitchParameters(RivalParameters):
    """Parameters of the kind ``late-switch``."""

    switch_at: float = Field(default=0.75, gt=0, lt=1, description="Share of the training after which the size grows.")
    factor: float = Field(
        default=4.0, gt=1, allow_inf_nan=False, description="What the first size is multiplied by; the nearest rung."
    )


@register_policy(
    "late-switch",
    LateSwitchParameters,
    blind=True,
    changes="batch size",
    when="A good rate is known, and a large batch is to come late.",
)
class LateSwitchPolicy(Rival[LateSwitchParameters]):
    """Train small, and switch once."""

    def choose(self, task: TaskInfo, observation: Observation) -> Choice:
        """Return the size of the part of the training that is to come."""
        own, first = self.parameters, self.first_batch_size
        if observation.progress < own.switch_at:
            return Choice(first, f"until {percent(own.switch_at)} of the training")
        size = nearest_rung(first * own.factor, task.batch_sizes)
        return Choice(size, f"s{first} x {figure(own.factor)} from {percent(own.switch_at)} of the training on")

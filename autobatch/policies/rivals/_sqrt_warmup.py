"""Batch-size warm-up of language-model trainers: the batch doubles early, the rate goes with the root of it.

Merrill, Arora, Groeneveld, Hajishirzi 2025, "Critical batch size revisited", arXiv 2505.23971: the critical batch size
is small at first and grows fast, so that training begins with a small batch, which doubles as the critical size grows;
with every doubling the rate is multiplied by the root of 2. The scheduler of OLMo-core does the same at given points.

Departures: the paper doubles where the critical size, measured on runs before, has come to the next one; here the
doublings are spread evenly over a share of the training, of this project's choice.
"""

import math

from pydantic import Field

from autobatch.policies._protocol import Observation, TaskInfo
from autobatch.policies._registry import register_policy
from autobatch.policies._rungs import nearest_rung
from autobatch.policies._wording import percent
from autobatch.policies.rivals._rival import ROUND_OFF, Choice, Rival, RivalParameters


class SqrtWarmupParameters(RivalParameters):
    """Parameters of the kind ``sqrt-warmup``."""

    last: int = Field(default=128, gt=0, description="Batch size after the warm-up; the nearest rung is taken.")
    share: float = Field(default=0.5, gt=0, le=1, description="Share of the training in which it is reached.")


@register_policy(
    "sqrt-warmup",
    SqrtWarmupParameters,
    blind=True,
    changes="batch size, rate",
    when="A good rate is known, and the batch is to grow early.",
)
class SqrtWarmupPolicy(Rival[SqrtWarmupParameters]):
    """Go up the ladder early in the training, with the root of the size as factor on the rate."""

    sets_rate = True

    def choose(self, task: TaskInfo, observation: Observation) -> Choice:
        """Return the size of the part of the warm-up that the training is in."""
        first, share = self.first_batch_size, self.parameters.share
        last = max(first, nearest_rung(self.parameters.last, task.batch_sizes))
        sizes = [rung for rung in task.batch_sizes if first <= rung <= last]
        # n sizes above the first: the k-th from k / n of the share on, the last at its end.
        passed = math.floor(observation.progress / share * (len(sizes) - 1) + ROUND_OFF)
        size = sizes[min(passed, len(sizes) - 1)]
        told = f"warm-up from s{first} to s{last} over {percent(share)} of the training"
        return Choice(size, told, math.sqrt(size / first))

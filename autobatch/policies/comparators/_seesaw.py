"""Seesaw: where the schedule divides the rate, the batch grows and the rate falls by the root only.

Meterez, Morwani, Wu, Oncescu, Pehlevan, Kakade 2025, "Seesaw: Accelerating training by balancing learning rate and
batch size scheduling", arXiv 2510.14717: where a schedule multiplies the rate by a < 1, multiply it by the root of a
and the batch size by 1 / a. For normalised SGD, the paper's stand-in for Adam, the loss goes on alike in fewer steps,
as long as the batch is below the critical size.

The controller multiplies the base rate by the schedule's factor. The policy therefore asks for the base rate times the
root of B / B0, B0 the first size: at B = B0 / a the rate in use is then the root of a of the first, and what the ladder
cannot take remains as decay, whatever rung it is.

A schedule that falls smoothly, such as the paper's cosine, is cut where it has halved, and goes on falling between the
cuts. Departures: where a schedule has milestones, those are the cuts, and the size is the nearest rung. The root is for
normalised updates; for plain SGD the paper has the batch grow by what the rate would fall, as ``increase-batch`` does.
"""

import math
from collections.abc import Callable
from itertools import pairwise

from autobatch._errors import ConfigError
from autobatch.beacons import BeaconLibrary
from autobatch.policies._protocol import Observation, TaskInfo
from autobatch.policies._registry import register_policy
from autobatch.policies._rungs import nearest_rung
from autobatch.policies._wording import figure
from autobatch.policies.rivals._rival import Choice, Rival, RivalParameters


def halvings(schedule: Callable[[float], float]) -> tuple[float, ...]:
    """Return where a schedule has fallen to a half, a quarter, an eighth and so on of its highest factor.

    Args:
        schedule: the factor as a function of progress.

    Returns:
        Progress values in (0, 1), ascending, to within a thousandth; empty where it never falls to a half, or rises
        again after it was highest.
    """
    factors = [schedule(place / 1000) for place in range(1000)]
    highest = max(factors)
    peak = factors.index(highest)
    found: list[float] = []
    if any(later > factor for factor, later in pairwise(factors[peak:])):
        return ()
    for place, factor in enumerate(factors[peak:], peak):
        if 0.0 < factor <= 0.5 ** (len(found) + 1) * highest:
            found.append(place / 1000)
    return tuple(found)


class SeesawParameters(RivalParameters):
    """Parameters of the kind ``seesaw``."""


@register_policy(
    "seesaw",
    SeesawParameters,
    blind=True,
    changes="batch size, rate",
    when="A good rate is known, and the schedule decays.",
)
class SeesawPolicy(Rival[SeesawParameters]):
    """Share every decay of the schedule between batch size and learning rate."""

    sets_rate = True

    def reset(self, task: TaskInfo, library: BeaconLibrary | None) -> None:
        """Start anew with a task whose schedule decays."""
        smooth = task.schedule if not task.milestones else None
        self._places = task.milestones if smooth is None else halvings(smooth)
        self._each = task.milestone_factor if smooth is None else 0.5
        if not self._places or self._each is None:
            missing = "what its milestones multiply the rate by" if task.milestones else "where it decays"
            raise ConfigError(
                f"policy 'seesaw' goes by a schedule that decays, and task '{task.name}' does not say {missing}; take "
                "a task with schedule: {name: multistep, milestones: [0.5, 0.75]} or {name: cosine}, or give the "
                "controller rates=Rates(schedule=...) or Rates(milestones=..., milestone_factor=...)"
            )
        super().reset(task, library)

    def choose(self, task: TaskInfo, observation: Observation) -> Choice:
        """Return the size after the decays that are passed, and the root of its growth."""
        passed = sum(observation.progress >= place for place in self._places)
        if not passed:
            return Choice(self.first_batch_size, "before the schedule's first decay")
        assert self._each is not None
        decay = self._each**passed
        wanted = self.first_batch_size / decay
        size = nearest_rung(wanted, task.batch_sizes)
        factor = math.sqrt(size / self.first_batch_size)
        told = f"decay {passed} of {len(self._places)} shared, which asks for {figure(wanted)}; the rate falls to "
        told += f"{figure(decay * factor)} of the first in place of {figure(decay)}"
        if not task.milestones:
            told = f"the rate has halved {passed} times, which asks for {figure(wanted)}; "
            told += f"it is {figure(factor)} times that of the schedule"
        return Choice(size, told, factor)

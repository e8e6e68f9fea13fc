"""When the rate falls, batches grow and training ends, where that is the policy's to say."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autobatch.beacons import CostTable
from autobatch.policies._protocol import TaskInfo


@dataclass(frozen=True)
class Plan:
    """A constant rate, then one that falls linearly to nothing, then the end.

    Linear decay to zero is what theory and practice agree on where the end is known (Defazio et al. 2023,
    arXiv 2310.07831; Hägele et al. 2024, arXiv 2405.18392, section 3).

    Attributes:
        decay_from: finished periods from which the rate falls; between two where the line has been made steeper.
        end: finished periods after which training ends; ``decay_from`` where nothing falls.
    """

    decay_from: float
    end: int

    @classmethod
    def of(cls, periods: int, length: float, decay: float, an_epoch: int = 1) -> "Plan":
        """Lay a plan over a training.

        Args:
            periods: length of the task's whole training, in decision periods.
            length: share of it after which training ends, in (0, 1], to the nearest epoch.
            decay: share of what is trained over which the rate falls, in (0, 1].
            an_epoch: decision periods of an epoch.

        Returns:
            The plan; at least one period falls, unless it is the only one.
        """
        end = min(periods, max(1, round(length * periods / an_epoch)) * an_epoch)
        return cls(end - max(1, round(decay * end)) if end > 1 else 1, end)

    def hastened(self, period: int, since: int | None = None, over: int = 1) -> "Plan":
        """Return a plan whose rate falls to nothing within the coming epoch.

        Args:
            period: finished periods.
            since: finished periods when the rate was what it falls from; None for now.
            over: decision periods of an epoch.

        Returns:
            The plan; this one where it ends by then anyway, unless the rate falls from what it was before.
        """
        end = period + over
        if end > self.end or (end == self.end and since is None):
            return self
        height = min(1.0, (self.end - (period if since is None else since)) / (self.end - self.decay_from))
        return Plan(end - over / height, end)

    def factor(self, period: int) -> float:
        """Return what the base learning rate is multiplied by in a period.

        Args:
            period: finished periods.

        Returns:
            The mean of the line over the period, in (0, 1].
        """
        if period < self.decay_from or self.decay_from == self.end:
            return 1.0
        return (self.end - min(period, self.end - 1) - 0.5) / (self.end - self.decay_from)


def grown(
    batch_size: int,
    factor: float,
    ladder: Sequence[int],
    costs: CostTable | None,
    growth: tuple[float, float] = (1.0, 0.5),
) -> tuple[int, float]:
    """Let the batch grow in place of part of the fall of the rate, where that is faster.

    Where a schedule would halve the rate, Seesaw (arXiv 2510.14717) doubles the batch and divides the rate by the
    square root of 2: the noise of the updates falls alike, in fewer steps.

    Args:
        batch_size: batch size before the rate falls.
        factor: what the rate would be multiplied by at that size, in (0, 1].
        ladder: the batch sizes to choose from.
        costs: seconds by batch size; without them a larger batch counts as faster.
        growth: how many times larger than Seesaw's the batch may be once the rate falls, and the power of the ratio of
            the sizes by which the rate is higher at the larger one.

    Returns:
        (batch size, factor on the rate at that size): of the sizes that it may have come to, the one whose examples
        take the least time.
    """

    def seconds(size: int) -> float:
        return -float(size) if costs is None else costs.training_seconds(size, 1.0) / size

    ahead, power = growth
    most = batch_size if factor >= 1.0 else ahead * batch_size / factor
    sizes = [size for size in ladder if batch_size <= size <= most] or [batch_size]
    size = min(sizes, key=lambda one: (seconds(one), -one))
    return size, factor * (size / batch_size) ** power


def period_seconds(task: TaskInfo, size: int) -> float:
    """Return what a decision period takes at a batch size, by the task's cost table, s."""
    assert task.costs is not None
    return task.costs.training_seconds(size, task.train_size / size, 1 / task.periods)


def plan_seconds(task: TaskInfo, plan: Plan, batch_size: int, growth: tuple[float, float], since: int = 0) -> float:
    """Return what a plan takes by the task's cost table.

    Args:
        task: the task; it has a cost table.
        plan: when the rate falls and training ends.
        batch_size: batch size before the rate falls.
        growth: how the batch grows while the rate falls, as ``grown`` takes it.
        since: finished periods from which on time is counted.

    Returns:
        Seconds.
    """
    sizes = (
        grown(batch_size, plan.factor(period), task.batch_sizes, task.costs, growth)[0]
        for period in range(since, plan.end)
    )
    return math.fsum(period_seconds(task, size) for size in sizes)

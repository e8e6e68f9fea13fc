"""Forks: whether a larger batch is worth a try on the run itself, and which of the two goes on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from autobatch.policies._protocol import Observation, Policy, TaskInfo
from autobatch.policies._wording import configuration, figure, percent
from autobatch.policies.steer._plan import Plan, period_seconds, plan_seconds

MOST_FORKS = 2
"""Forks where nobody says how many."""

LONG_ODDS = 8.0
"""A fork is made only where a larger batch would spare this many times what trying it costs: most are not taken."""

TOLERANCE = 0.02
"""How much higher the larger batch's validation loss may be, as a share of the other's."""

ONE_SIDED = 1.645
"""Standard errors that a one-sided test at 95 % adds."""


@dataclass(frozen=True)
class Fork:
    """Another configuration, to be trained for one period from the same state as the one in force.

    Attributes:
        batch_size: global batch size.
        lr: base learning rate.
    """

    batch_size: int
    lr: float


@dataclass(frozen=True)
class ForkOutcome:
    """What a period under each of two configurations came to, from the same state, on the same order of the data.

    Losses are those of the weights averaged over the second half of the period: a period's last weights scatter by more
    than there is to decide.

    Attributes:
        loss: mean validation loss under the configuration in force; NaN where it is not known.
        difference: by how much the fork's is higher, the mean over the validation examples; NaN where it is not known.
        standard_error: of ``difference``, over the validation examples, which both have in common.
        failed: why the fork came to no sound end; None where it did.
    """

    loss: float
    difference: float
    standard_error: float
    failed: str | None = None


@dataclass(frozen=True)
class ForkChoice:
    """Which of the two goes on.

    Attributes:
        taken: whether the fork does.
        reason: why, in words a person reads.
    """

    taken: bool
    reason: str


class Forking(Protocol):
    """Whoever has an alternative tried on the run itself."""

    def turn(self, fork: Fork) -> None:
        """Decide from here on as if the fork were taken."""
        ...

    def judge(self, fork: Fork, outcome: ForkOutcome, observation: Observation) -> ForkChoice:
        """Choose between the two; the state is that in which ``fork`` was called, and afterwards that of the choice."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what has to be kept for the choice to hold."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        ...


@runtime_checkable
class ForkingPolicy(Forking, Policy, Protocol):
    """A policy that says what to try; all methods come after ``reset``."""

    def fork(self, observation: Observation) -> Fork | None:
        """Return what to try for the coming period beside what is in force; None where nothing is worth it."""
        ...


@dataclass(frozen=True)
class Tried:
    """A fork that has been made.

    Attributes:
        epoch: finished periods when it began.
        seconds: what the period that was thrown away cost by the cost table.
    """

    epoch: int
    seconds: float


@dataclass(frozen=True)
class ForkRule:
    """Says when to fork and who goes on.

    Doubling forks are those of Merrill et al. 2025 (arXiv 2505.23971): from one state, B and 2B at the rate that
    belongs to it; as long as 2B keeps up, B is below the critical batch size.

    Attributes:
        task: the task; without its cost table nothing is tried.
        plan: when the rate falls and training ends.
        most: forks at most.
        share: share of the training's time that they may cost, by the cost table.
        growth: how the batch grows while the rate falls, as ``grown`` takes it.
    """

    task: TaskInfo
    plan: Plan
    most: int
    share: float
    growth: tuple[float, float] = (1.0, 0.5)

    def proposed(self, epoch: int, batch_size: int, lr: float, tried: Sequence[Tried]) -> Fork | None:
        """Return what to try in a period, where that is worth it.

        While the rate is constant the next rung of the ladder is tried, at a rate that keeps the noise of the updates:
        in proportion to the batch size, to its root where the optimizer scales its steps itself; three digits of it.

        Args:
            epoch: finished periods.
            batch_size: global batch size in force.
            lr: base learning rate in force.
            tried: the forks so far.

        Returns:
            The fork; None in the first period, once the rate falls, soon after another fork, on the ladder's top, and
            where what it could spare is not ``LONG_ODDS`` times its cost or its cost is beyond the share.
        """
        task = self.task
        larger = [rung for rung in task.batch_sizes if rung >= 2 * batch_size]
        if not 1 <= epoch < self.plan.decay_from or not larger or len(tried) >= self.most or task.costs is None:
            return None
        if tried and epoch < 2 * tried[-1].epoch:
            return None
        size = larger[0]
        cost = self.cost(batch_size, size)
        stays, forked = (plan_seconds(task, self.plan, one, self.growth, epoch) for one in (batch_size, size))
        spared = stays - forked
        whole = plan_seconds(task, self.plan, batch_size, self.growth)
        allowed = self.share * whole - math.fsum(one.seconds for one in tried)
        if spared < LONG_ODDS * cost or cost > allowed:
            return None
        return Fork(size, float(f"{lr * (size / batch_size) ** (0.5 if task.adaptive else 1.0):.3g}"))

    def cost(self, batch_size: int, fork_size: int) -> float:
        """Return what a fork costs at most: the longer of the two periods, of which one is thrown away."""
        return max(period_seconds(self.task, size) for size in (batch_size, fork_size))

    @staticmethod
    def choice(batch_size: int, lr: float, fork: Fork, outcome: ForkOutcome) -> ForkChoice:
        """Choose: the fork goes on where its loss is not higher by ``TOLERANCE``, by a one-sided paired test at 95 %.

        A fork is proposed only where its size takes less time, so a loss that is no higher is reached sooner.

        Args:
            batch_size: global batch size in force.
            lr: base learning rate in force.
            fork: what was tried beside it.
            outcome: what both came to.

        Returns:
            The choice.
        """
        tried, stays = configuration(fork.batch_size, fork.lr), configuration(batch_size, lr)
        if outcome.failed is not None:
            return ForkChoice(False, f"{tried} was tried for an epoch and {outcome.failed}: {stays} stays")
        taken = no_worse(outcome.loss, outcome.difference, outcome.standard_error)  # NaN is no reason to change
        measured = (
            f"{tried} was tried for an epoch beside {stays}: validation loss "
            f"{figure(outcome.loss + outcome.difference)} against {figure(outcome.loss)} (averaged weights, "
            f"difference {outcome.difference:+.2g} ± {ONE_SIDED * outcome.standard_error:.2g})"
        )
        if taken:
            faster = " and faster" if fork.batch_size > batch_size else ""
            return ForkChoice(True, f"{measured}, no more than {percent(TOLERANCE)} above{faster}: it goes on")
        return ForkChoice(False, f"{measured}; that it is not {percent(TOLERANCE)} above cannot be said: {stays} stays")


def no_worse(loss: Any, difference: Any, standard_error: Any) -> Any:
    """Say whether a loss is not higher by ``TOLERANCE``, by a one-sided paired test at 95 %.

    Args:
        loss: what it is compared with, any shape.
        difference: by how much it is higher, of the same shape.
        standard_error: of the difference, of the same shape.

    Returns:
        True or False, of the same shape; False of NaN.
    """
    return difference + ONE_SIDED * standard_error <= TOLERANCE * loss


def tried_to_list(tried: Sequence[Tried]) -> list[list[Any]]:
    """Return forks as JSON-able values; ``tried_from_list`` reads them back."""
    return [[one.epoch, one.seconds] for one in tried]


def tried_from_list(state: Sequence[Sequence[Any]]) -> list[Tried]:
    """Read back what ``tried_to_list`` wrote."""
    return [Tried(int(epoch), float(seconds)) for epoch, seconds in state]

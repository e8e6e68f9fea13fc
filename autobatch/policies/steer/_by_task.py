"""``steer`` with a plan for each task: how far batches grow, chosen by what short trainings of other tasks came to."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product, starmap
from typing import NamedTuple

from pydantic import Field, field_validator

from autobatch.beacons import BeaconLibrary
from autobatch.policies._protocol import Decision, Observation, TaskInfo
from autobatch.policies._registry import register_policy
from autobatch.policies._wording import percent
from autobatch.policies.steer._plan import Plan, plan_seconds
from autobatch.policies.steer._policy import MANY_STEPS, SEESAW, SteerParameters, SteerPolicy
from autobatch.policies.steer._search import many_steps, start_without_scouts


class PlanChoice(NamedTuple):
    """How a training of ``steer`` goes on after its scouts; names are those of its parameters.

    Attributes:
        growth: times that the batch may be larger, once the rate falls, than where it doubles as the rate halves.
        growth_power: power of the batch's growth by which the rate is higher in return.
        length: share of the task's length that is trained.
    """

    growth: float
    growth_power: float
    length: float


RULE = PlanChoice(*SEESAW, 0.7)
"""What ``steer`` does where an epoch has few steps."""

CHOICES = tuple(starmap(PlanChoice, product((1.0, 2.0, 4.0), (0.5, 1.0), (0.7, 0.8, 0.9))))
FEATURES = 6
SEEN = (30.0, 520.0)
"""Fewest and most steps of an epoch, at the size of scouts, in the trainings that were learned from."""


def described(task: TaskInfo, choice: PlanChoice) -> list[float]:
    """Return what the loss may depend on, each 0 for the rule.

    Args:
        task: the task.
        choice: the plan.

    Returns:
        Log length; doublings of growth; whether the rate grows in proportion; the product of these two; and the
        doublings, and that product, by how many steps an epoch has (0 at ``MANY_STEPS``, 1 at four times as many).
    """
    doublings, proportional = math.log2(choice.growth / RULE.growth), 2.0 * (choice.growth_power - RULE.growth_power)
    steps = math.log2(_steps(task) / MANY_STEPS) / 2.0
    both = doublings * proportional
    return [math.log(choice.length / RULE.length), doublings, proportional, both, doublings * steps, both * steps]


def _steps(task: TaskInfo) -> float:
    return task.train_size / start_without_scouts(task)[0]


def choice_seconds(task: TaskInfo, choice: PlanChoice, decay: float) -> float:
    """Return what a choice takes by the task's cost table, from the size that scouts have, s."""
    plan, start = Plan.of(task.epochs, choice.length, decay, task.periods), start_without_scouts(task)[0]
    return plan_seconds(task, plan, start, (choice.growth, choice.growth_power))


class ByTaskParameters(SteerParameters):
    """Parameters of the kind ``steer-by-task``."""

    effects: tuple[float, ...] = Field(
        min_length=FEATURES,
        max_length=FEATURES,
        description="By how much each feature of a plan changes the natural logarithm of the loss, as learned.",
    )
    covariance: tuple[tuple[float, ...], ...] = Field(description="Of the effects, 6 rows of 6 numbers.")
    price: float = Field(
        ge=0, description="What a factor of time is worth as a factor of the loss, as the power it is raised to."
    )

    @field_validator("covariance")
    @classmethod
    def _square(cls, value: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, ...], ...]:
        if [len(row) for row in value] != [FEATURES] * FEATURES:
            raise ValueError(f"{FEATURES} rows of {FEATURES} numbers are expected")
        return value


def expected(features: Sequence[float], effects: Sequence[float], covariance: Sequence[Sequence[float]]) -> list[float]:
    """Return the change of the log loss that a plan's features promise, and its standard error."""
    change = math.fsum(x * effect for x, effect in zip(features, effects, strict=True))
    variance = math.fsum(
        x * y * own for x, row in zip(features, covariance, strict=True) for y, own in zip(features, row, strict=True)
    )
    return [change, math.sqrt(max(variance, 0.0))]


def best_plan(
    task: TaskInfo, effects: Sequence[float], covariance: Sequence[Sequence[float]], price: float, decay: float
) -> tuple[PlanChoice | None, str]:
    """Return the plan that gains most on a task, by one standard error at least, where no more loss is expected of it.

    Args:
        task: the task; without its cost table nothing can be gained.
        effects: of the features on the log loss.
        covariance: of the effects.
        price: of time, as a power.
        decay: share of what is trained over which the rate falls.

    Returns:
        The plan, and what is expected of it in words, empty where the rule is as good; None where nothing can be said,
        and why.
    """
    if task.costs is None:
        return None, "as steer: without a cost table nothing says what larger batches spare"
    if many_steps(task):
        return None, "as steer: no training that was learned from has so many steps"
    steps, (fewest, most) = _steps(task), SEEN
    if not fewest <= steps <= most:
        apart = fewest / steps if steps < fewest else steps / most
        less = "less" if steps < fewest else "more"
        return None, f"as steer: an epoch has {steps:.0f} steps, {apart:.1f} times {less} than any learned from"
    usual = choice_seconds(task, RULE, decay)
    told = {}
    for choice in CHOICES:
        change, error = expected(described(task, choice), effects, covariance)
        time = math.log(choice_seconds(task, choice, decay) / usual)
        if change <= 0.0:
            told[choice] = (-change - error - price * time, change, error, time)
    best = max(told, key=lambda choice: told[choice][0])
    if best == RULE:
        return RULE, ""
    _, change, error, time = told[best]
    return best, (
        f"on tasks like this one batches that grow up to {best.growth:g} times as far leave a loss "
        f"{100 * math.expm1(change):+.1f} ± {100 * error:.1f} % of what they would, in {percent(math.exp(time))} of "
        "the time"
    )


@register_policy(
    "steer-by-task",
    ByTaskParameters,
    blind=True,
    changes="rate, batch size, end",
    when="To see what was learned; steer does as well.",
)
class ByTaskPolicy(SteerPolicy):
    """Steer, with the growth of batches and the length that were learned for tasks of this size and cost."""

    parameters: ByTaskParameters

    def __init__(self, parameters: ByTaskParameters) -> None:
        super().__init__(parameters)
        self._given = parameters
        self._told = ""

    def reset(self, task: TaskInfo, library: BeaconLibrary | None) -> None:
        """Choose the plan for the task, then do as ``steer``.

        Args:
            task: the task about to start.
            library: not used.
        """
        own = self._given
        choice, self._told = best_plan(task, own.effects, own.covariance, own.price, own.decay)
        self.parameters = own if choice is None else own.model_copy(update=choice._asdict())
        super().reset(task, library)

    def decide(self, observation: Observation) -> Decision:
        """Say what the coming epoch uses, and why batches grow as they do.

        Args:
            observation: where the run stands.

        Returns:
            The decision.
        """
        decision = super().decide(observation)
        if not self._told or decision.stop:
            return decision
        return replace(decision, reason=f"{decision.reason}; {self._told}")

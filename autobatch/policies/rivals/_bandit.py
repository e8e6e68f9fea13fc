"""RMGD: the batch size of each epoch is an arm of a bandit that the validation loss rewards (arXiv 1711.06424).

With K batch sizes and M epochs, every size starts at probability 1/K. An epoch at the drawn size k costs y = 0 where
the validation loss went down and y = 1 where it did not. Its probability is then multiplied by ``exp(-beta y / p_k)``,
the cost being divided by the probability that it was drawn with, and all of them are brought back to a sum of one:
exponential weights, or online mirror descent with the entropy. ``beta = sqrt(2 ln K / (K M))`` minimises the bound on
the regret against the best single size, ``ln K / beta + beta K M / 2``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from autobatch._errors import CheckpointError, ConfigError
from autobatch._plain import Plain
from autobatch.beacons import BeaconLibrary
from autobatch.policies._parameters import BaseRate, PolicyParameters, after_reset
from autobatch.policies._protocol import Decision, Observation, TaskInfo
from autobatch.policies._registry import register_policy
from autobatch.policies._wording import configuration, percent

_PURPOSE = 0x726D6764
"""Sets these draws apart from every other generator that is derived from the run's seed."""


class RmgdParameters(PolicyParameters):
    """Parameters of the kind ``rmgd``."""

    beta: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="How fast a size loses probability. By default sqrt(2 ln K / (K M)) for K sizes and M epochs.",
    )
    floor: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Least probability that every size keeps; K times it must stay below 1. 0: exponential weights.",
    )
    lr: BaseRate = None


def after_epoch(probabilities: Sequence[float], arm: int, cost: float, beta: float, floor: float) -> tuple[float, ...]:
    """Return the weights of the arms after one epoch.

    Args:
        probabilities: the weights before, with a sum of one.
        arm: index of the arm that was drawn.
        cost: what the epoch cost, in [0, 1].
        beta: step of the update.
        floor: least probability of an arm when it is drawn, see ``drawing``.

    Returns:
        The weights after, with a sum of one.
    """
    drawn_with = drawing(probabilities, floor)[arm]
    weights = [
        weight * math.exp(-beta * cost / drawn_with) if index == arm else weight
        for index, weight in enumerate(probabilities)
    ]
    total = math.fsum(weights)
    # With one arm, or all the weight on one, the update cancels; without this it could vanish in round-off first.
    return tuple(weight / total for weight in weights) if total > 0.0 else tuple(probabilities)


def drawing(probabilities: Sequence[float], floor: float) -> tuple[float, ...]:
    """Return ``(1 - K floor) weight + floor`` for each of K arms, which they are drawn with."""
    share = 1.0 - len(probabilities) * floor
    return tuple(share * weight + floor for weight in probabilities)


@dataclass(frozen=True)
class _Drawn(Plain):
    """What is known when the epoch after ``epoch`` begins.

    Attributes:
        epoch: finished epochs.
        arm: index of the size that was drawn.
        weights: the weights that it was drawn by.
        loss: the validation loss that the epoch has to beat, None where there is none.
        told: what had become of the epoch before, in words.
    """

    epoch: int
    arm: int
    weights: tuple[float, ...]
    loss: float | None
    told: str


@register_policy("rmgd", RmgdParameters, blind=True, changes="batch size", when="To compare with a bandit.")
class RmgdPolicy:
    """Draw the batch size of each epoch with probabilities that earlier epochs have earned.

    A draw is a pure function of the run's seed, the epoch and the probabilities. The first epoch has no loss to beat
    and counts as a success, unless it ends without a finite loss.
    """

    needs_library = False

    def __init__(self, parameters: RmgdParameters) -> None:
        self.parameters = parameters
        self._task: TaskInfo | None = None
        self._beta = 0.0
        self._last: _Drawn | None = None

    def reset(self, task: TaskInfo, library: BeaconLibrary | None) -> None:
        """Start with equal probabilities of the ladder's sizes; the task's seed decides the draws."""
        sizes = len(task.batch_sizes)
        if self.parameters.floor * sizes >= 1.0:
            raise ConfigError(
                f"policy of kind 'rmgd': key 'floor': expected less than 1/{sizes} for the {sizes} batch sizes of task "
                f"'{task.name}', got {self.parameters.floor:g}"
            )
        best = math.sqrt(2.0 * math.log(sizes) / (sizes * task.epochs))
        self._beta = best if self.parameters.beta is None else self.parameters.beta
        self._task, self._last = task, None

    def decide(self, observation: Observation) -> Decision:
        """Reward the last draw and draw the coming epoch's batch size; asked twice in an epoch, the same twice."""
        task, last = after_reset(self._task), self._last
        if last is None or last.epoch != observation.epoch:
            weights, told = self._weights(task, last, observation)
            chances = drawing(weights, self.parameters.floor)
            generator = np.random.default_rng([task.seed, _PURPOSE, observation.epoch])
            arm = int(np.searchsorted(np.cumsum(chances)[:-1], generator.random(), side="right"))
            loss = observation.validation_loss
            last = _Drawn(observation.epoch, arm, weights, loss if math.isfinite(loss) else None, told)
            self._last = last
        batch_size = task.batch_sizes[last.arm]
        chance = drawing(last.weights, self.parameters.floor)[last.arm]
        reason = f"{configuration(batch_size, self.parameters.lr)}: drawn with probability {percent(chance)}{last.told}"
        return Decision(batch_size, self.parameters.lr, reason=reason)

    def _weights(self, task: TaskInfo, last: _Drawn | None, observation: Observation) -> tuple[tuple[float, ...], str]:
        """Return the weights for the coming epoch, and what has become of the last one in words."""
        if last is None:
            return (1.0 / len(task.batch_sizes),) * len(task.batch_sizes), ""
        loss = observation.validation_loss
        success = math.isfinite(loss) and (last.loss is None or loss < last.loss)
        weights = after_epoch(last.weights, last.arm, 0.0 if success else 1.0, self._beta, self.parameters.floor)
        outcome = "went down" if success else "did not go down"
        return weights, f"; the validation loss {outcome} at s{task.batch_sizes[last.arm]}"

    def state_dict(self) -> dict[str, Any]:
        """Return the last draw, the weights that it was made from and the loss it has to beat."""
        return {} if self._last is None else self._last.to_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the last draw, of the same ladder."""
        last = _Drawn.from_dict(state) if state else None
        if last is not None and self._task is not None and len(last.weights) != len(self._task.batch_sizes):
            raise CheckpointError(
                f"state of a policy of kind 'rmgd': expected weights of {len(self._task.batch_sizes)} batch sizes, got "
                f"{len(last.weights)}"
            )
        self._last = last

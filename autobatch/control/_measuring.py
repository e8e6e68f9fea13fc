"""Which steps of an epoch are measured.

A plan is asked before each epoch. No plan reads a clock: a budget becomes a number of samples through the cost table.
Where a plan takes few samples an epoch, each lies in the middle of the stretch of steps that it stands for: in a
training's first epochs C̄ rises tenfold within an epoch, and the first step says nothing of the others.
"""

import math
from typing import Any, Protocol

from autobatch._errors import ConfigError
from autobatch.beacons import CostTable


def stretches(steps: int, samples: int) -> list[tuple[int, int]]:
    """Split the steps of an epoch into stretches that are as long as each other, give or take one.

    Args:
        steps: steps of the epoch.
        samples: stretches, at most ``steps``.

    Returns:
        (start, stop) of each; together they cover [0, steps).
    """
    starts = [index * steps // samples for index in range(samples)]
    return list(zip(starts, [*starts[1:], steps], strict=True)) if samples else []


def middles(steps: int, samples: int) -> tuple[int, ...]:
    """Return the step in the middle of each stretch.

    Args:
        steps: steps that may be measured.
        samples: how many to choose, at most ``steps``.

    Returns:
        Ascending steps, from 0.
    """
    return tuple((start + stop - 1) // 2 for start, stop in stretches(steps, samples))


def at_interval(steps: int, interval: int, floor: int) -> tuple[int, ...]:
    """Return the steps that the paper measures, the epoch's first and every ``interval``-th, if they are enough.

    Args:
        steps: steps that may be measured.
        interval: the paper's sampling interval, 50 there.
        floor: samples an epoch at least, as far as it has the steps; where the interval gives fewer, so many are
            spread evenly.

    Returns:
        Ascending steps, from 0; at least one.
    """
    chosen = tuple(range(0, steps, interval))
    return chosen if len(chosen) >= floor else middles(steps, min(floor, steps))


class MeasuringPlan(Protocol):
    """How many steps of the next epoch are measured."""

    budget: float
    """Share of the training time that measuring may take, 0 where no budget rules it."""

    def choose(self, batch_size: int, steps: int, full_steps: int, *, changed: bool) -> tuple[int, ...]:
        """Return the steps of the next epoch that are measured, from 0; called once before each epoch.

        Args:
            batch_size: global batch size of the epoch.
            steps: optimizer steps of the epoch.
            full_steps: how many of them, from the first, may be measured.
            changed: whether the epoch is the first at this batch size since it last changed.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what must survive a restart, as JSON-able values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        ...


class NeverMeasure:
    """Measure nothing."""

    budget = 0.0

    def choose(self, batch_size: int, steps: int, full_steps: int, *, changed: bool) -> tuple[int, ...]:
        """Return no step."""
        return ()

    def state_dict(self) -> dict[str, Any]:
        """Return no state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore nothing."""


class MeasureAtInterval:
    """Measure the first batch of an epoch and then every ``interval``-th, as the paper does for its beacons.

    Args:
        interval: steps from one sample to the next, at most.
        floor: samples an epoch at least, as far as it has the steps; small datasets need one.

    Raises:
        ConfigError: ``interval`` or ``floor`` is not positive.
    """

    budget = 0.0

    def __init__(self, interval: int = 50, floor: int = 1) -> None:
        if interval < 1 or floor < 1:
            raise ConfigError(f"a measuring interval and floor must be at least 1, got {interval} and {floor}")
        self.interval = interval
        self.floor = floor

    def choose(self, batch_size: int, steps: int, full_steps: int, *, changed: bool) -> tuple[int, ...]:
        """Return the steps of the next epoch that are measured, see :func:`at_interval`."""
        return at_interval(full_steps, self.interval, self.floor)

    def state_dict(self) -> dict[str, Any]:
        """Return no state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore nothing."""


class MeasureWithinBudget:
    """Measure as often as a share of the training time allows.

    Every epoch earns ``budget`` times its modelled training time and pays the modelled time of its samples, so an epoch
    that cannot afford a sample has none and a later one has it. Two things may run into debt, which later epochs pay
    back: the first epoch after a change of batch size always has a sample, since what was measured at another batch
    size does not hold any more; and so have the first ``opening`` epochs, in which C̄ and the rate of L change most.

    Args:
        budget: measuring time / unmeasured training time.
        costs: modelled seconds by batch size.
        opening: epochs at the start of the training that always have a sample.

    Raises:
        ConfigError: an argument is negative or not finite.
    """

    def __init__(self, budget: float, costs: CostTable, opening: int = 1) -> None:
        for name, value in (("budget", budget), ("opening", opening)):
            if not 0.0 <= value < math.inf:
                raise ConfigError(f"the measuring {name} must be a finite number of at least 0, got {value}")
        self.budget = budget
        self.costs = costs
        self.opening = opening
        self._epochs = 0
        self._credit = 0.0

    def choose(self, batch_size: int, steps: int, full_steps: int, *, changed: bool) -> tuple[int, ...]:
        """Return the steps of the next epoch that are measured, and pay for them."""
        price = self.costs.measuring(batch_size)
        earned = self.budget * self.costs.training_seconds(batch_size, steps, epochs=1.0)
        self._credit += earned
        forced = changed or self._epochs < self.opening
        # The tiny allowance keeps a credit of exactly n prices, reached by adding up, from counting as n - 1.
        affordable = math.floor(self._credit / price + 1e-9)
        count = min(full_steps, max(affordable, 1 if forced else 0))
        # What an epoch could not use is not saved up: later epochs would measure in bursts.
        self._credit = min(self._credit - count * price, price)
        self._epochs += 1
        return middles(full_steps, count)

    def state_dict(self) -> dict[str, Any]:
        """Return the credit in seconds, and the epochs so far."""
        return {"credit": self._credit, "epochs": self._epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._credit = float(state["credit"])
        self._epochs = int(state["epochs"])

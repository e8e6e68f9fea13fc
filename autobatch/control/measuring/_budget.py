"""Measuring within a share of the training time: a cost table, not a clock, turns the share into samples."""

import math
from typing import Any

from autobatch._errors import ConfigError
from autobatch._ranges import check_number
from autobatch._steps import steps_per_epoch
from autobatch.beacons import CostTable
from autobatch.control.measuring._measuring import INTERVAL, MeasuringPlan, at_interval, check_interval, middles
from autobatch.policies import TaskInfo

BUDGET = 0.02
"""Share of the training time that measuring may take where nothing else is said."""

FLOOR = 4
"""Samples an epoch, where the budget allows them, of epochs that the interval would give fewer."""

KEPT = 0.5
"""Share of what the epochs left are sure to earn that only the first sample after a change of batch size may spend."""

_NOTHING_TIMED = CostTable("this loop", {}, {}, 0.0)
_ROUND_OFF = 1e-9


class MeasureWithinBudget(MeasuringPlan):
    """Measure by the paper's rule as far as a share of the training time allows.

    What is promised, in seconds of the cost table: at the end of the training, measuring has taken at most ``budget``
    times what the training has taken without it, whatever batch sizes were chosen. There is one exception: a training
    whose whole share is less than a single sample has that sample, in its first epoch, and no other. (A training that
    is stopped before the end that its policy planned may have spent some of what its missing epochs would have earned.)

    To keep the promise, no more is ever spent than what the epochs so far have earned and those left are sure to earn,
    which is the share of the ladder's shortest epoch. Within that,

    * an epoch has the samples of the paper's rule, or as many of them as it may, spread evenly over its steps;
    * a share sqrt(p) of the budget is spent by progress p, since C̄ and the rate of L change most at the start. The
      early epochs borrow from the late ones, but no more than half of what those are sure to earn;
    * the first epoch after a change of batch size has a sample, since what was measured at another size does not hold
      any more. It may borrow all that is sure. Where that is not enough, it waits for the epoch in which it is.

    Steps that the policy asks to have measured (``samples_wanted``) are measured whatever is left, and those to come
    pay for them, as far as there are any.

    Without a cost table the controller times the first epoch at each batch size. Those epochs have one sample whatever
    it costs, the first of all two, which is a further exception; and as long as a batch size of the ladder is not
    timed, nothing is borrowed. The table is part of the state, so that a resumed training goes on with it.

    Args:
        budget: measuring time / unmeasured training time; 0 measures nothing.
        costs: modelled seconds of every batch size of the ladder; None times the loop.
        interval: steps from one sample to the next, where the budget allows it.
        floor: samples an epoch, where the budget allows it, of epochs that the interval would give fewer.

    Raises:
        ConfigError: the budget is negative or not finite, or the interval or the floor is not positive.
    """

    def __init__(
        self, budget: float = BUDGET, costs: CostTable | None = None, *, interval: int = INTERVAL, floor: int = FLOOR
    ) -> None:
        if not 0.0 <= check_number(budget, "the measuring budget") < math.inf:
            raise ConfigError(f"the measuring budget must be a finite number of at least 0, got {budget}")
        check_interval(interval, floor)
        self.budget = budget
        self.measures = budget > 0.0
        self.interval = interval
        self.floor = floor
        self._given = costs
        self.costs = costs or _NOTHING_TIMED
        """Seconds by batch size, as given or as timed so far."""
        self._ladder: dict[int, int] = {}
        self._epochs = 0
        self._done = 0
        self._training = 0.0
        self._measuring = 0.0
        self._due = True
        self._timed: tuple[int, int, int] | None = None

    def reset(self, task: TaskInfo) -> None:
        """Start a new run of ``task``; a ConfigError where the cost table lacks a batch size of its ladder."""
        self.costs = self._given or _NOTHING_TIMED
        self._ladder = {size: steps_per_epoch(task.train_size, size) for size in task.batch_sizes}
        self._epochs, self._done = task.epochs, 0
        self._training, self._measuring, self._due = 0.0, 0.0, True
        if self._given is not None:
            self._shortest_epoch()

    @property
    def modelled_share(self) -> float | None:
        """Modelled measuring time / modelled training time of the epochs so far; None before the first."""
        return self._measuring / self._training if self._training else None

    def choose(self, batch_size: int, steps: int, full_steps: int, *, changed: bool) -> tuple[int, ...]:
        """Return the steps of the next epoch that are measured, and pay for them."""
        self._done += 1
        self._due = self._due or changed
        self.timing = False
        if not self.budget:
            return ()
        if self._given is None and batch_size not in self.costs.step_seconds:
            return self._choose_to_time(batch_size, steps, full_steps)
        epoch = self.costs.training_seconds(batch_size, steps, epochs=1.0)
        price = self.costs.measuring(batch_size)
        self._training += epoch
        wanted = at_interval(full_steps, self.interval, self.floor)
        count = min(len(wanted), self._routine(epoch, price))
        if self._due and not count and (self._sure(1.0) >= price * (1.0 - _ROUND_OFF) or not self._measuring):
            count = 1
        self._pay(count, price)
        return wanted if count == len(wanted) else middles(full_steps, count)

    def pay(self, batch_size: int, samples: int) -> None:
        """Pay for samples that the policy asks for."""
        self._measuring += samples * self.costs.measuring(batch_size)

    def learn(self, step_seconds: float, measuring_seconds: float) -> None:
        """Add the batch size that was timed to the table, and pay for its epoch."""
        assert self._timed is not None
        batch_size, steps, count = self._timed
        self.costs = CostTable(
            device=self.costs.device,
            step_seconds={**self.costs.step_seconds, batch_size: step_seconds},
            measuring_seconds={**self.costs.measuring_seconds, batch_size: measuring_seconds},
            epoch_seconds=0.0,
        )
        self._training += self.costs.training_seconds(batch_size, steps, epochs=1.0)
        self._pay(count, measuring_seconds)
        self._timed, self.timing = None, False

    def state_dict(self) -> dict[str, Any]:
        """Return the cost table and the account: epochs, seconds earned for and spent, whether a sample is due."""
        return {
            "costs": self.costs.to_dict(),
            "epochs": self._done,
            "training": self._training,
            "measuring": self._measuring,
            "due": self._due,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned, the cost table included."""
        self.costs = CostTable.from_dict(state["costs"])
        self._done = int(state["epochs"])
        self._training, self._measuring = float(state["training"]), float(state["measuring"])
        self._due = bool(state["due"])

    def _choose_to_time(self, batch_size: int, steps: int, full_steps: int) -> tuple[int, ...]:
        # The very first sample also warms things up, so a second one is timed.
        count = min(full_steps, 1 if self.costs.step_seconds else 2)
        self.timing, self._timed = True, (batch_size, steps, count)
        return middles(full_steps, count)

    def _routine(self, epoch: float, price: float) -> int:
        """Return how many samples the next epoch may have that no change of batch size asks for."""
        left = self._epochs - self._done
        planned = self.budget * (self._training + left * epoch) * math.sqrt(self._done / self._epochs)
        # A sample is taken when half of its price is due: it stands in the middle of what it stands for.
        due = (planned - self._measuring) / price + 0.5
        return max(0, math.floor(min(due, self._sure(1.0 - KEPT) / price) + _ROUND_OFF))

    def _sure(self, share: float) -> float:
        """Return the seconds that may be spent where ``share`` of what is sure to come may be borrowed."""
        to_come = (self._epochs - self._done) * self._shortest_epoch()
        return self.budget * (self._training + share * to_come) - self._measuring

    def _shortest_epoch(self) -> float:
        if self._given is None and not self._ladder.keys() <= self.costs.step_seconds.keys():
            return 0.0
        return min(self.costs.training_seconds(size, steps, epochs=1.0) for size, steps in self._ladder.items())

    def _pay(self, count: int, price: float) -> None:
        self._measuring += count * price
        self._due = self._due and not count

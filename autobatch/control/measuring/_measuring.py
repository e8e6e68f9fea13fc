"""Which steps of an epoch are measured: never, by the paper's rule, or within a budget (in ``_budget``).

A plan is asked before each epoch. Where fewer samples are taken than the paper's rule asks for, each lies in the middle
of the stretch of steps that it stands for: in a training's first epochs C̄ rises tenfold within an epoch, and the first
step says nothing of the others.
"""

from typing import Any

from autobatch._ranges import check_whole
from autobatch.policies import TaskInfo

INTERVAL = 50
"""Steps from one sample to the next where nothing else is said (paper, section 4)."""


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
    """Return the ``samples`` steps, from 0 and ascending, that lie in the middle of as many stretches."""
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


class MeasuringPlan:
    """Says which steps of the next epoch are measured; plans of your own override ``choose``."""

    budget: float = 0.0
    """Share of the training time that measuring may take, 0 where no budget rules it."""

    measures: bool = True
    """Whether steps that the policy asks for are measured."""

    timing: bool = False
    """Whether the controller shall time the epoch that ``choose`` has just planned, and call ``learn``."""

    def reset(self, task: TaskInfo) -> None:
        """Start a new run of ``task``, whose ``epochs`` are those that the policy plans to train; called once."""

    def choose(self, batch_size: int, steps: int, full_steps: int, *, changed: bool) -> tuple[int, ...]:
        """Return the steps of the next epoch that are measured, from 0, ascending; called once before each epoch.

        Args:
            batch_size: global batch size of the epoch.
            steps: optimizer steps of the epoch.
            full_steps: how many of them, from the first, may be measured.
            changed: whether the epoch is the first at this batch size since it last changed.
        """
        raise NotImplementedError

    def pay(self, batch_size: int, samples: int) -> None:
        """Take note of samples of the coming epoch beyond those chosen, which the policy asks for.

        Args:
            batch_size: global batch size of the epoch.
            samples: how many.
        """

    def learn(self, step_seconds: float, measuring_seconds: float) -> None:
        """Take in what the epoch that was to be timed has taken; called at its end.

        Args:
            step_seconds: seconds of a step that is not measured.
            measuring_seconds: extra seconds of one that is.
        """

    @property
    def modelled_share(self) -> float | None:
        """Modelled measuring time / modelled training time of the epochs so far; None where nothing is modelled."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what must survive a restart, as JSON-able values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned, after ``reset``."""


class MeasureAsked(MeasuringPlan):
    """Measure the steps that the policy asks for, and no others."""

    def choose(self, batch_size: int, steps: int, full_steps: int, *, changed: bool) -> tuple[int, ...]:
        """Return no step."""
        return ()


class NeverMeasure(MeasureAsked):
    """Measure nothing, whatever is asked for."""

    measures = False


class MeasureAtInterval(MeasuringPlan):
    """Measure the first batch of an epoch and then every ``interval``-th, as the paper does for its beacons.

    Args:
        interval: steps from one sample to the next, at most.
        floor: samples an epoch at least, as far as it has the steps; small datasets need one.

    Raises:
        ConfigError: ``interval`` or ``floor`` is not positive.
    """

    def __init__(self, interval: int = INTERVAL, floor: int = 1) -> None:
        check_interval(interval, floor)
        self.interval = interval
        self.floor = floor

    def choose(self, batch_size: int, steps: int, full_steps: int, *, changed: bool) -> tuple[int, ...]:
        """Return the steps of the next epoch that are measured, see ``at_interval``."""
        return at_interval(full_steps, self.interval, self.floor)


def check_interval(interval: int, floor: int) -> None:
    """Refuse an interval or a floor that is not positive."""
    check_whole(interval, "a measuring plan's interval")
    check_whole(floor, "a measuring plan's floor")

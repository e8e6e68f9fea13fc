"""Tasks as an episode may draw them: with another cost table, a part of the ladders, and another length."""

import math
from dataclasses import dataclass, replace

import numpy as np

from autobatch._arrays import Floats
from autobatch.policies import TaskInfo
from autobatch.policies.steer._search import start_without_scouts

_SHORTEST = 0.5
_OVERHEAD = (-2.0, 9.0)
"""log2 of the examples that take as long as what a step takes whatever its size, from small machines to large ones."""

_BETWEEN = 0.5
"""Doublings by which drawn rates lie off those that were recorded, at most."""


@dataclass(frozen=True, eq=False)
class Variation:
    """One episode's task.

    Attributes:
        task: the task as a policy would know it.
        lowest: lowest rung of the recorded ladder that it may use.
        highest: highest rung.
        seconds: what an epoch costs at each rung, shape (rungs,).
        start: rung and log2 of the rate that it begins with where no scouts go.
    """

    task: TaskInfo
    lowest: int
    highest: int
    seconds: Floats
    start: tuple[int, float]

    @classmethod
    def none(cls, task: TaskInfo, seconds: Floats) -> "Variation":
        """Return a task as it was recorded."""
        return cls(task, 0, len(task.batch_sizes) - 1, seconds, _start(task, task))


def varied(task: TaskInfo, seconds: Floats, generator: np.random.Generator) -> Variation:
    """Draw a task that is like a recorded one.

    Args:
        task: the recorded one.
        seconds: what an epoch of it costs at each rung, shape (rungs,).
        generator: what is drawn from.

    Returns:
        The task: half of the time with a cost table of its own, and at the same middle of the ladder; four rungs and
        three rates at least, where there are so many; half of its length at least.
    """
    lowest, highest = _part(len(task.batch_sizes), 4, generator)
    first, last = _part(len(task.learning_rates), 3, generator)
    off = 2.0 ** float(generator.uniform(-_BETWEEN, _BETWEEN))
    if generator.random() < 0.5:
        sizes = np.asarray(task.batch_sizes, dtype=np.float64)
        by_step = 1.0 + 2.0 ** float(generator.uniform(*_OVERHEAD)) / sizes
        seconds = seconds.mean() * by_step / by_step.mean()
    drawn = replace(
        task,
        batch_sizes=task.batch_sizes[lowest : highest + 1],
        learning_rates=tuple(off * lr for lr in task.learning_rates[first : last + 1]),
        epochs=int(generator.integers(math.ceil(_SHORTEST * task.epochs), task.epochs + 1)),
        costs=None,
    )
    return Variation(drawn, lowest, highest, seconds, _start(drawn, task))


def _part(count: int, least: int, generator: np.random.Generator) -> tuple[int, int]:
    """Draw the first and the last of some rungs in a row, of which the middle is always one."""
    length = int(generator.integers(min(least, count), count + 1))
    middle = (count - 1) // 2
    first = int(generator.integers(max(0, middle - length + 1), min(middle, count - length) + 1))
    return first, first + length - 1


def _start(task: TaskInfo, recorded: TaskInfo) -> tuple[int, float]:
    size, lr = start_without_scouts(task)
    return recorded.batch_sizes.index(size), math.log2(lr)

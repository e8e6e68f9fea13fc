"""What one may do to a training whose schedule one steers: move size and rate, let the rate fall, stop.

Trainings stand side by side, so that environments of many and policies of one take the same steps. Beside what is
chosen stands what the rule of ``steer`` would choose from here.
"""

from dataclasses import dataclass, fields
from functools import cache
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from autobatch._arrays import Floats
from autobatch.policies._moves import BATCH_MOVES, RATE_MOVES, STEERED_HEADS
from autobatch.policies.steer._plan import Plan
from autobatch.policies.steer._policy import SteerParameters
from autobatch.policies.steer._search import usual_length

Whole = NDArray[np.int64]
Flags = NDArray[np.bool_]

HEADS = STEERED_HEADS
AS_IT_IS = (2, 1, 0, 0)
"""The action that changes nothing."""

SIZE, RATE, FALL, STOP, TRY = range(5)
"""Places of an action's parts; the last is there where actions may be tried."""

_AN_EPOCH_LATER = 1.0 / (1.0 - SteerParameters().decay)
"""Epochs by which training ends later where the rate begins to fall an epoch later."""


@cache
def rule_plan(epochs: int, *, many: bool = False) -> Plan:
    """Return when the rule lets the rate fall and training end, where no scout says otherwise.

    Args:
        epochs: length of the task.
        many: whether the task has so many steps that scouts train with larger batches.

    Returns:
        The plan of ``steer`` with its usual parameters.
    """
    own = SteerParameters()
    return Plan.of(epochs, usual_length(own.length, epochs, many=many), own.decay)


@dataclass(eq=False)
class Rows:
    """Arrays of trainings side by side, a row each; those of ``shared`` are the same for all."""

    shared: ClassVar[frozenset[str]] = frozenset()

    def take(self, rows: NDArray[np.intp]) -> Self:
        """Return those of some of the trainings."""
        own = {one.name: getattr(self, one.name) for one in fields(self)}
        return type(self)(**{name: each if name in self.shared else each[rows] for name, each in own.items()})

    def put(self, rows: NDArray[np.intp], other: Self) -> None:
        """Replace those of some of the trainings."""
        for own in fields(self):
            if own.name not in self.shared:
                getattr(self, own.name)[rows] = getattr(other, own.name)


@dataclass(eq=False)
class Limits(Rows):
    """What binds trainings of one task, each array of shape (n, ...).

    Attributes:
        sizes: log2 of the batch sizes of the ladder, shape (rungs,).
        lowest: lowest rung that each may use.
        highest: highest rung that each may use.
        slowest: log2 of the lowest rate that each may use.
        fastest: log2 of the highest rate that each may use.
        epochs: length of each.
        rule_from: finished epochs from which the rule lets the rate fall.
        rule_end: finished epochs after which it ends training.
        seconds: what an epoch costs at each rung, shape (n, rungs).
    """

    shared: ClassVar[frozenset[str]] = frozenset({"sizes"})

    sizes: Floats
    lowest: Whole
    highest: Whole
    slowest: Floats
    fastest: Floats
    epochs: Whole
    rule_from: Floats
    rule_end: Whole
    seconds: Floats


@dataclass(eq=False)
class Course(Rows):
    """How trainings go on if nothing is changed, each array of shape (n,).

    Attributes:
        epoch: finished epochs.
        size: rung of the ladder.
        rate: log2 of the base learning rate.
        start_size: rung that each began with.
        start_rate: log2 of the rate that each began with.
        fall_from: finished epochs from which the rate falls; infinite where it does not yet.
        end: finished epochs after which training ends.
        fall_size: rung when the rate began to fall.
    """

    epoch: Whole
    size: Whole
    rate: Floats
    start_size: Whole
    start_rate: Floats
    fall_from: Floats
    end: Whole
    fall_size: Whole

    @classmethod
    def begun(cls, size: Whole, rate: Floats, epochs: Whole) -> "Course":
        """Return trainings before their first epoch.

        Args:
            size: their rungs of the ladder, shape (n,).
            rate: log2 of their base rates, shape (n,).
            epochs: their lengths, shape (n,).
        """
        return cls(
            np.zeros_like(size),
            size.copy(),
            rate.copy(),
            size.copy(),
            rate.copy(),
            np.full(len(size), np.inf),
            epochs.copy(),
            size.copy(),
        )

    @property
    def falling(self) -> Flags:
        """Whether the rate falls."""
        return np.isfinite(self.fall_from)

    @property
    def line(self) -> Floats:
        """What a falling rate is multiplied by in the coming epoch at the size that it began to fall with."""
        left = self.end - np.minimum(self.epoch, self.end - 1) - 0.5
        with np.errstate(invalid="ignore"):
            on_it = np.where(self.falling, left / (self.end - self.fall_from), 1.0)
        return np.clip(on_it, 1e-6, 1.0)

    def factor(self, sizes: Floats) -> Floats:
        """Return what the base rate is multiplied by in the coming epoch.

        A larger batch than the rate began to fall with does part of the fall (arXiv 2510.14717): the noise of the
        updates falls as it would have, so the rate falls by the square root of the ratio less.

        Args:
            sizes: log2 of the batch sizes of the ladder.

        Returns:
            In (0, 1], shape (n,).
        """
        wider = np.where(self.falling, sizes[self.size] - sizes[self.fall_size], 0.0)
        return np.minimum(self.line * np.exp2(wider / 2.0), 1.0)

    def advance(self, actions: Whole, limits: Limits) -> Flags:
        """Do what actions say, up to the coming epoch, which is then trained and counted by the caller.

        Args:
            actions: indices of the choices, shape (n, 4 or more).
            limits: what binds the trainings.

        Returns:
            Which trainings are stopped here; nothing of them changes. None is before its first epoch.
        """
        stopped: Flags = (actions[:, STOP] == 1) & (self.epoch > 0)
        moved = np.clip(self.size + np.array(BATCH_MOVES)[actions[:, SIZE]], limits.lowest, limits.highest)
        rate = np.clip(self.rate + np.array(RATE_MOVES)[actions[:, RATE]], limits.slowest, limits.fastest)
        told = (actions[:, FALL] == 1) & ~stopped
        begins, hastens = told & ~self.falling, told & self.falling
        # What a fall starts from is what the training had before it, and sizes grow from there.
        self.fall_size = np.where(begins, self.size, self.fall_size)
        end = end_of_fall(self.epoch, limits)
        height = np.where(hastens, np.minimum((self.end - self.epoch) / (self.end - self.fall_from), 1.0), 1.0)
        soon = self.epoch + 1
        self.fall_from = np.where(
            begins, self.epoch, np.where(hastens & (soon < self.end), soon - 1.0 / height, self.fall_from)
        )
        self.end = np.where(begins, end, np.where(hastens, np.minimum(soon, self.end), self.end))
        self.size = np.where(stopped, self.size, moved)
        self.rate = np.where(stopped, self.rate, rate)
        return stopped

    def suggested(self, limits: Limits) -> Whole:
        """Return what the rule of ``steer`` would do from here, early ends of trainings that overfit left out.

        Args:
            limits: what binds the trainings.

        Returns:
            Actions, shape (n, 4).
        """
        actions = np.tile(np.array(AS_IT_IS), (len(self.epoch), 1))
        begins = ~self.falling & (self.epoch >= limits.rule_from)
        actions[:, FALL] = begins
        falls = self.falling | begins
        if falls.any():
            ahead = Course(**{own.name: getattr(self, own.name) for own in fields(self)})
            ahead.advance(np.where(begins[:, None], np.array([2, 1, 1, 0]), np.array(AS_IT_IS)), limits)
            target = _grown(ahead, limits)
            move = np.where(falls, np.clip(target - self.size, BATCH_MOVES[0], BATCH_MOVES[-1]), 0)
            actions[:, SIZE] = move - BATCH_MOVES[0]
        return actions


def end_of_fall(epoch: Whole, limits: Limits) -> Whole:
    """Return when training ends where the rate begins to fall now, or at another time.

    Args:
        epoch: finished epochs when it begins, shape (n,).
        limits: what binds the trainings.

    Returns:
        Finished epochs, shape (n,): as the rule where the rule would begin, and later or sooner with the beginning, so
        that the same share of what is trained is spent falling.
    """
    later = limits.rule_end + (epoch - limits.rule_from) * _AN_EPOCH_LATER
    end: Whole = np.clip(np.rint(later), epoch + 1, limits.epochs).astype(np.int64)
    return end


def _grown(course: Course, limits: Limits) -> Whole:
    """Return the rung that the rule lets batches grow to, the fastest within the fall (``grown`` of ``steer``)."""
    rungs = np.arange(len(limits.sizes))
    own = limits.sizes[course.fall_size]
    within = (rungs >= course.fall_size[:, None]) & (rungs <= limits.highest[:, None])
    within &= limits.sizes[None] <= (own - np.log2(course.line))[:, None] + 1e-9
    within[np.arange(len(own)), course.fall_size] = True
    seconds = np.where(within, limits.seconds, np.inf)
    # Of sizes that take as long the largest.
    rung: Whole = len(rungs) - 1 - np.argmin(seconds[:, ::-1], axis=1)
    return rung

"""Schema 2 of the flat view: a training as its own first epochs and scouts make it known, without a library.

Every entry is relative to the training itself: to where it began, to guessing, to what an epoch costs where it stands,
or to what the rule of ``steer`` would do. So one policy can be asked on any task.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autobatch._arrays import Floats
from autobatch.policies._moves import BATCH_MOVES, FORKED_HEADS
from autobatch.policies.general._course import AS_IT_IS, FALL, HEADS, RATE, SIZE, Course, Limits, Rows
from autobatch.policies.learned import STEERED_SCHEMA
from autobatch.policies.steer._scouts import Scout, final_loss

SCHEMA = STEERED_SCHEMA

FAR = 0.25
"""Share of the range that an entry had in training by which it may lie beyond; farther out the rule decides."""

_LEAST_RANGE = 0.1

_LATELY = 3
"""Epochs over which a slope is taken."""

_ENTRIES = (
    ("progress", "epochs done / epochs of the task, from -1 to 1"),
    ("epochs left", "decades of epochs left, 3 at 1"),
    ("length", "decades of the task's epochs, 3 at 1"),
    ("share fallen", "share of the fall of the rate that is done"),
    ("to the rule's fall", "epochs since the rule would have let the rate fall / epochs of the task"),
    ("to the end", "epochs until the planned end / epochs of the task"),
    ("size", "doublings of the batch size since the start, 4 at 1"),
    ("rate", "doublings of the base rate since the start, 4 at 1"),
    ("noise", "doublings of effective rate / batch size since the start, 8 at 1"),
    ("room above", "rungs above, 8 at 1"),
    ("room below", "rungs below, 8 at 1"),
    ("learned", "decades of the training loss below that of guessing, 3 at 1"),
    ("validated", "decades of the validation loss below that of guessing, 3 at 1"),
    ("slope", "change of the log training loss in the last epoch, 0.5 at 1"),
    ("slope lately", "change of the log training loss an epoch over three, 0.25 at 1"),
    ("validated lately", "change of the log validation loss an epoch over three, 0.25 at 1"),
    ("slope against the start", "slope lately / mean slope since guessing"),
    ("generalisation gap", "log10 ratio of validation loss to training loss"),
    ("scatter", "deviation of single epochs' log validation loss, from second differences of five, 0.5 at 1"),
    ("above its best", "log of the validation loss above the lowest so far, 0.5 at 1"),
    ("since its best", "epochs since the lowest validation loss / epochs of the task"),
    ("cost so far", "cost so far / that of the whole task as it began, 0 at -1, 2 at 1"),
    ("cost one rung up", "log2 ratio of an epoch's cost one rung up to one here"),
    ("cost one rung down", "log2 ratio of an epoch's cost one rung down to one here"),
    ("cost at the top", "log2 ratio of an epoch's cost at the largest batch to one here, 4 at 1"),
    ("training set", "decades of training examples, 7 at 1"),
    ("steps of an epoch", "decades of steps of an epoch, 5 at 1"),
    ("guessing", "natural logarithm of the loss of guessing, 4 at 1"),
    ("scouts' margin", "share by which the best scout's loss is below the next one's"),
    ("scouts' edge", "-1 where the lowest rate that was tried was best, 1 where the highest was"),
    ("scouts' loss", "natural logarithm of the best scout's training loss over guessing, 4 at -1"),
    ("rule's size", "rungs that the rule would move by, 2 at 1"),
)
_MASKS = (
    ("falls", "1 while the rate falls"),
    ("scored", "1 where the validation loss is known"),
    ("moving", "1 where slopes are known"),
    ("scouted", "1 where scouts have gone"),
    ("smaller helped", "1 where a scout with half the batch was better"),
    ("adaptive", "1 where the optimizer scales its steps itself"),
    ("rule's fall", "1 where the rule would have the rate begin to fall"),
)

ENTRIES: tuple[tuple[str, str], ...] = (*_ENTRIES, *_MASKS)
"""(name, meaning) of every entry of schema 2, in order; one that is not known is 0."""

RULE_SIZE, RULE_FALL = len(_ENTRIES) - 1, len(ENTRIES) - 1
"""Places of what the rule would do."""


def lead(views: NDArray[np.float32], margin: float) -> NDArray[np.float32]:
    """Return by how much the logits of what the rule would do lead the others.

    Args:
        views: flat arrays, shape (..., size), with the entries of forks or without.
        margin: the lead.

    Returns:
        Shape (..., logits): ``margin`` at the rule's choice of each part of the action, 0 elsewhere; of what may be
        tried, that it is not.
    """
    heads = FORKED_HEADS if views.shape[-1] > len(ENTRIES) else HEADS
    size = np.rint(views[..., RULE_SIZE] * BATCH_MOVES[-1]).astype(np.int64) - BATCH_MOVES[0]
    fall = (views[..., RULE_FALL] > 0.5).astype(np.int64)
    chosen = (size, np.full_like(size, AS_IT_IS[RATE]), fall, *[np.zeros_like(size)] * (len(heads) - 3))
    parts: list[NDArray[np.float32]] = [
        np.eye(count, dtype=np.float32)[own] for count, own in zip(heads, chosen, strict=True)
    ]
    led: NDArray[np.float32] = margin * np.concatenate(parts, axis=-1)
    return led


def beyond(views: NDArray[np.float32], seen: Floats) -> Floats:
    """Return how far each entry lies beyond what was seen of it, above ``FAR`` so far that the rule decides.

    Args:
        views: flat arrays, shape (..., size).
        seen: lowest and highest of each entry, shape (..., size, 2).

    Returns:
        Shares of the entries' ranges, shape (..., size); not above 0 within them.
    """
    low, high = seen[..., 0], seen[..., 1]
    shares: Floats = np.maximum(low - views, views - high) / np.maximum(high - low, _LEAST_RANGE)
    return shares


@dataclass(eq=False)
class Seen(Rows):
    """What trainings have shown so far, each array of shape (n, ...); NaN where a figure is not known.

    Attributes:
        train: natural logarithm of the mean training loss by finished epochs, shape (n, epochs + 1).
        score: natural logarithm of the validation loss, likewise.
        spent: cost so far, scouts included.
        guessing: natural logarithm of the loss of guessing.
        margin: share by which the best scout's loss is below the next one's.
        edge: -1 where the lowest rate that was tried was best, 1 where the highest was, else 0.
        scout: natural logarithm of the best scout's loss over guessing.
        helped: 1 where a scout with half the batch was better, else 0.
    """

    train: Floats
    score: Floats
    spent: Floats
    guessing: Floats
    margin: Floats
    edge: Floats
    scout: Floats
    helped: Floats

    @classmethod
    def nothing(cls, count: int, epochs: int, guessing: float) -> "Seen":
        """Return what is known before the first epoch.

        Args:
            count: how many trainings.
            epochs: most that any of them has.
            guessing: natural logarithm of the loss of guessing; NaN where it is not known.
        """
        train, score = np.full((2, count, epochs + 1), np.nan)
        margin, edge, scout = np.full((3, count), np.nan)
        return cls(train, score, np.zeros(count), np.full(count, guessing), margin, edge, scout, np.zeros(count))

    def told_by(self, row: int, scouts: Sequence[Scout], chosen: int | None) -> None:
        """Take in what the scouts of one training came to.

        Args:
            row: which training.
            scouts: the scouts, in the order in which they trained.
            chosen: the one that goes on; None where none can.
        """
        if chosen is None:
            return
        best = scouts[chosen]
        losses = sorted(final_loss(one) for one in scouts if one is not best and math.isfinite(final_loss(one)))
        rates = [one.lr for one in scouts if one.batch_size == best.batch_size]
        if losses and losses[0] > 0.0:
            self.margin[row] = 1.0 - final_loss(best) / losses[0]
        if len(rates) > 1:
            self.edge[row] = float(best.lr == max(rates)) - float(best.lr == min(rates))
        self.scout[row] = math.log(max(final_loss(best), 1e-6)) - self.guessing[row]
        self.helped[row] = float(best.batch_size < max(one.batch_size for one in scouts))


class CourseView:
    """Turns trainings of one task into flat arrays of schema 2.

    Args:
        train_size: training examples of an epoch.
        adaptive: whether the optimizer scales its steps itself.
    """

    names: tuple[str, ...] = tuple(name for name, _ in ENTRIES)
    size = len(ENTRIES)

    def __init__(self, train_size: int, *, adaptive: bool) -> None:
        self._log_size = math.log10(train_size)
        self._adaptive = adaptive

    def arrays(self, course: Course, limits: Limits, seen: Seen) -> NDArray[np.float32]:
        """Return trainings as flat arrays.

        Args:
            course: how they go on.
            limits: what binds them.
            seen: what they have shown.

        Returns:
            float32, shape (n, size), in [-1, 1].
        """
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            flat = np.stack(np.broadcast_arrays(*self._columns(course, limits, seen)), axis=1)
        np.copyto(flat, 0.0, where=~np.isfinite(flat))
        clipped: NDArray[np.float32] = np.clip(flat, -1.0, 1.0).astype(np.float32)
        return clipped

    def _columns(self, course: Course, limits: Limits, seen: Seen) -> list[Floats]:
        rows, epoch, epochs = np.arange(len(course.epoch)), course.epoch, limits.epochs.astype(np.float64)
        rule = course.suggested(limits)
        started = epoch > 0
        guess = np.where(np.isfinite(seen.guessing), seen.guessing, seen.train[:, min(1, seen.train.shape[1] - 1)])

        def back(curve: Floats, by: int) -> Floats:
            """Return a figure of some epochs ago; that of guessing before the first."""
            value: Floats = np.where(epoch - by > 0, curve[rows, np.maximum(epoch - by, 0)], guess)
            return np.where(epoch - by >= 0, value, np.nan)

        train, score = back(seen.train, 0), back(seen.score, 0)
        over = np.minimum(epoch, _LATELY)
        lately = (train - back_by(seen.train, rows, epoch - over, guess)) / np.maximum(over, 1)
        scores = (score - back_by(seen.score, rows, epoch - over, guess)) / np.maximum(over, 1)
        since = (train - guess) / np.maximum(epoch, 1)
        bends = [back(seen.score, by) - 2.0 * back(seen.score, by + 1) + back(seen.score, by + 2) for by in range(3)]
        bends = [np.where(epoch - by - 2 >= 1, np.abs(bend), np.nan) for by, bend in enumerate(bends)]
        scatter = np.stack(bends).mean(axis=0) * math.sqrt(math.pi / 2.0) / math.sqrt(6.0)
        known = np.where(
            np.isfinite(seen.score) & (np.arange(seen.score.shape[1]) <= epoch[:, None]), seen.score, np.inf
        )
        best, best_epoch = known.min(axis=1), known.argmin(axis=1)
        here = limits.seconds[rows, course.size]
        whole = limits.seconds[rows, course.start_size] * epochs
        up, down = (
            np.log2(limits.seconds[rows, np.clip(course.size + step, limits.lowest, limits.highest)] / here)
            for step in (1, -1)
        )
        size = limits.sizes[course.size]
        wider = size - limits.sizes[course.start_size]
        faster = course.rate - course.start_rate
        fall = np.where(course.falling, (epoch - course.fall_from) / (course.end - course.fall_from), 0.0)
        effective = faster + np.log2(course.factor(limits.sizes)) - wider
        scored = started & np.isfinite(score)
        return [
            2.0 * epoch / epochs - 1.0,
            np.log10(np.maximum(epochs - epoch, 1.0)) / 3.0,
            np.log10(epochs) / 3.0,
            fall,
            (epoch - limits.rule_from) / epochs,
            (course.end - epoch) / epochs,
            wider / 4.0,
            faster / 4.0,
            effective / 8.0,
            (limits.highest - course.size) / 8.0,
            (course.size - limits.lowest) / 8.0,
            (guess - train) / math.log(1000.0),
            (guess - score) / math.log(1000.0),
            np.where(started, train - back(seen.train, 1), np.nan) / 0.5,
            np.where(started, lately, np.nan) / 0.25,
            np.where(started, scores, np.nan) / 0.25,
            np.where(started, lately / since, np.nan),
            (score - train) / math.log(10.0),
            scatter / 0.5,
            np.where(scored, score - best, np.nan) / 0.5,
            np.where(scored, epoch - best_epoch, np.nan) / epochs,
            seen.spent / whole - 1.0,
            up,
            down,
            np.log2(limits.seconds[rows, limits.highest] / here) / 4.0,
            np.full(len(rows), self._log_size / 7.0),
            np.log10(np.maximum(10.0**self._log_size / np.exp2(size), 1.0)) / 5.0,
            guess / 4.0,
            seen.margin,
            seen.edge,
            seen.scout / 4.0,
            (rule[:, SIZE] + BATCH_MOVES[0]) / BATCH_MOVES[-1],
            course.falling.astype(np.float64),
            scored.astype(np.float64),
            (scored & (epoch > 1)).astype(np.float64),
            np.isfinite(seen.scout).astype(np.float64),
            seen.helped,
            np.full(len(rows), float(self._adaptive)),
            rule[:, FALL].astype(np.float64),
        ]


def back_by(curve: Floats, rows: NDArray[np.intp], at: NDArray[np.int64], guess: Floats) -> Floats:
    """Return a figure after so many epochs, that of guessing before the first, shape (n,)."""
    value: Floats = np.where(at > 0, curve[rows, np.maximum(at, 0)], guess)
    return value

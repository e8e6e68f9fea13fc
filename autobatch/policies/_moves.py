"""What an agent does: moves of a few rungs on the batch-size ladder and on the learning rates."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

BATCH_MOVES = (-2, -1, 0, 1, 2)
"""Rungs that one action may move the batch size by."""

RATE_MOVES = (-1, 0, 1)
"""Rungs that one action may move the learning rate by."""


STEERED_HEADS = (len(BATCH_MOVES), len(RATE_MOVES), 2, 2)
"""Choices of an action that steers the schedule, too: rungs of batch size, doublings of the rate, fall, stop."""

FORKED_HEADS = (*STEERED_HEADS, 2)
"""The same, and whether all that is tried for an epoch beside what is in force."""

STEERING = ("steered", "forked")
"""Kinds of actions that depart from the rule of ``steer``."""


@dataclass(frozen=True)
class Moves:
    """A ladder of batch sizes and one of learning rates, and moves on both.

    Attributes:
        batch_sizes: the task's batch sizes, ascending.
        learning_rates: its base learning rates, ascending.
    """

    batch_sizes: tuple[int, ...]
    learning_rates: tuple[float, ...]

    @property
    def start(self) -> tuple[int, int]:
        """The rungs that the first move starts from: the middle of both ladders, the lower one of two."""
        return (len(self.batch_sizes) - 1) // 2, (len(self.learning_rates) - 1) // 2

    def at(self, batch_rung: int, rate_rung: int) -> tuple[int, float]:
        """Return batch size and learning rate of two rungs."""
        return self.batch_sizes[batch_rung], self.learning_rates[rate_rung]

    def rungs(self, batch_size: int, lr: float) -> tuple[int, int]:
        """Return the rungs nearest to a configuration, in logarithms.

        Args:
            batch_size: global batch size; 0 before the first decision.
            lr: base learning rate; NaN before the first decision.

        Returns:
            (batch rung, rate rung), those of ``start`` where nothing is decided yet.
        """
        start = self.start
        batch_rung = _nearest(self.batch_sizes, batch_size) if batch_size > 0 else start[0]
        rate_rung = _nearest(self.learning_rates, lr) if lr > 0.0 else start[1]
        return batch_rung, rate_rung

    def apply(
        self, batch_rung: ArrayLike, rate_rung: ArrayLike, batch_move: ArrayLike, rate_move: ArrayLike
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Move, no further than the ladders go.

        Args:
            batch_rung: rungs on the ladder, shape (n,) or ().
            rate_rung: rungs of the learning rates, the same shape.
            batch_move: rungs to move by on the ladder, the same shape.
            rate_move: rungs to move by on the learning rates, the same shape.

        Returns:
            The rungs after the move, the same shape.
        """
        moved_batch = np.clip(np.add(batch_rung, batch_move), 0, len(self.batch_sizes) - 1)
        moved_rate = np.clip(np.add(rate_rung, rate_move), 0, len(self.learning_rates) - 1)
        return moved_batch.astype(np.int64), moved_rate.astype(np.int64)


def decode(actions: str, action: ArrayLike) -> tuple[Any, Any]:
    """Translate actions into moves.

    Args:
        actions: ``"multidiscrete"``: pairs of indices into ``BATCH_MOVES`` and ``RATE_MOVES``, shape (..., 2);
            ``"discrete"``: one index of 9, batch move -1, 0, 1 (slow) by rate move -1, 0, 1 (fast), shape (...).
        action: the actions.

    Returns:
        (batch move, rate move) in rungs, shape (...).
    """
    chosen = np.asarray(action)
    if actions == "discrete":
        return chosen // 3 - 1, chosen % 3 - 1
    return np.asarray(BATCH_MOVES)[chosen[..., 0]], np.asarray(RATE_MOVES)[chosen[..., 1]]


def _nearest(values: tuple[float, ...], value: float) -> int:
    return min(range(len(values)), key=lambda index: abs(math.log(values[index] / value)))

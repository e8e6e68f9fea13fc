"""Scouts: which short trainings to make of a new task, and which of them goes on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autobatch.policies._protocol import TaskInfo
from autobatch.policies._wording import configuration, count, figure

SIZE = 32
"""Batch size that scouts train at, or the rung next to it: see ``docs/concepts/steer.md``."""

MOST = 4
"""Scouts where nobody says how many."""

CLEARLY_WORSE = 1.5
"""A scout ends early once its loss is above the best one's at the same place by this factor."""


@dataclass(frozen=True)
class ScoutPlan:
    """The scouts of a task.

    Attributes:
        configurations: (batch size, base learning rate) of each, in the order in which they train.
        epochs: how long each trains, in decision periods.
    """

    configurations: tuple[tuple[int, float], ...]
    epochs: int


@dataclass(frozen=True)
class Scout:
    """What a short training at a fixed configuration came to.

    Attributes:
        batch_size: global batch size.
        lr: base learning rate.
        train_losses: mean training loss of each period, as trained; NaN where it is not known.
        scores: the task's score after each period; NaN where it is not known.
        ended: why it ended before its time; None where it did not.
    """

    batch_size: int
    lr: float
    train_losses: tuple[float, ...]
    scores: tuple[float, ...]
    ended: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; ``from_dict`` reads it back."""
        return {
            "batch_size": self.batch_size,
            "lr": self.lr,
            "train_losses": [_known(loss) for loss in self.train_losses],
            "scores": [_known(score) for score in self.scores],
            "ended": self.ended,
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "Scout":
        """Read back what ``to_dict`` wrote.

        Args:
            state: the JSON-able form.

        Returns:
            The scout.
        """
        return cls(
            int(state["batch_size"]),
            float(state["lr"]),
            *(
                tuple(math.nan if value is None else float(value) for value in state[key])
                for key in ("train_losses", "scores")
            ),
            None if state["ended"] is None else str(state["ended"]),
        )


@dataclass(frozen=True)
class ScoutChoice:
    """Which scout goes on.

    Attributes:
        scout: its place in the order in which they trained.
        reason: why, in words a person reads.
    """

    scout: int
    reason: str

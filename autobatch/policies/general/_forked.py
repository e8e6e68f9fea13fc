"""Forks as an action: which trainings have something tried, and what agents see of what it came to."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autobatch._arrays import Floats
from autobatch.policies.general._course import TRY, Course, Flags, Rows

FORK_ENTRIES: tuple[tuple[str, str], ...] = (
    (
        "fork's difference",
        "by how much the loss of what was tried last was higher, as a share of the other's; 0.5 at 1",
    ),
    ("fork's error", "standard error of that, 0.1 at 1"),
    ("since the fork", "epochs since it began / epochs of the task"),
    ("forked", "1 where there was a fork"),
    ("fork taken", "1 where the last one was taken"),
)
"""(name, meaning) of the entries that forks add to an observation; those of a training without one are 0."""


@dataclass(eq=False)
class Forked(Rows):
    """The last fork of trainings side by side, each array of shape (n,); NaN where there was none.

    Attributes:
        epoch: finished epochs when it began.
        loss: validation loss of the weights averaged over the second half of the epoch, under what was in force.
        difference: by how much that of what was tried is higher; NaN where that has failed.
        error: standard error of it, over the validation examples.
        taken: 1 where the training has gone on with what was tried, else 0.
        cost: what the epoch that was thrown away has cost.
        steps: its optimizer steps.
    """

    epoch: Floats
    loss: Floats
    difference: Floats
    error: Floats
    taken: Floats
    cost: Floats
    steps: Floats

    @classmethod
    def none(cls, count: int) -> "Forked":
        """Return trainings that have not forked."""
        return cls(*np.full((7, count), np.nan))

    def arrays(self, course: Course, epochs: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return what agents see of it.

        Args:
            course: the trainings.
            epochs: their lengths, shape (n,).

        Returns:
            ``FORK_ENTRIES`` of each, float32, shape (n, 5), in [-1, 1].
        """
        forked = np.isfinite(self.epoch)
        difference = np.where(forked & np.isnan(self.difference), 1.0, self.difference / self.loss / 0.5)
        flat = [difference, self.error / self.loss / 0.1, (course.epoch - self.epoch) / epochs, forked, self.taken]
        entries = np.nan_to_num(np.stack(flat, axis=1))
        clipped: NDArray[np.float32] = np.clip(entries, -1.0, 1.0).astype(np.float32)
        return clipped

    def told(self, made: Flags) -> dict[str, NDArray[Any]]:
        """Return what info says of the forks that the last step has made, 0 for those of before.

        Args:
            made: which trainings have forked in it, shape (n,).
        """
        named = {"fork_loss": self.loss, "fork_difference": self.difference, "fork_standard_error": self.error}
        named |= {"fork_cost": self.cost, "fork_steps": self.steps}
        figures: dict[str, NDArray[Any]] = {"forked": made, "fork_taken": made & (self.taken == 1.0)}
        return figures | {name: np.where(made, values, 0.0) for name, values in named.items()}


def forking(parts: NDArray[np.int64], before: Course, after: Course, sizes: Floats) -> Flags:
    """Say which trainings fork: those told to try something else than what is in force.

    Args:
        parts: actions by their parts, shape (n, 5).
        before: the trainings.
        after: the same once the actions are done.
        sizes: log2 of the batch sizes of the ladder.

    Returns:
        Shape (n,).
    """
    other = (before.size != after.size) | (before.rate != after.rate) | (before.factor(sizes) != after.factor(sizes))
    forks: Flags = (parts[:, TRY] == 1) & other
    return forks

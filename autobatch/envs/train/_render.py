"""What an episode looks like: a few lines of text, or the plane with the beacons and the journey."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from autobatch.envs._pixels import plane_pixels
from autobatch.envs.train._setting import Setting
from autobatch.report import loss_words, percent_words, position_words
from autobatch.training import EpochRow


class Shared(Protocol):
    """What all episodes of an environment share."""

    @property
    def setting(self) -> Setting:
        """The task with its data and beacons."""
        ...


class Drawn(Protocol):
    """An episode as far as it is drawn."""

    seed: int
    rows: list[EpochRow]
    costs: list[float]
    rewards: list[float]

    @property
    def rules(self) -> Shared:
        """What all episodes share."""
        ...

    @property
    def configuration(self) -> tuple[int, float]:
        """Batch size and base learning rate in force."""
        ...

    @property
    def quality(self) -> float:
        """Its potential."""
        ...

    @property
    def reference(self) -> float:
        """Cost of the reference training."""
        ...

    @property
    def diverged(self) -> bool:
        """Whether it has diverged."""
        ...


def text(episode: Drawn) -> str:
    """Describe an episode in a few lines.

    Args:
        episode: the episode.

    Returns:
        Text without control characters.
    """
    task, (batch_size, lr) = episode.rules.setting.task, episode.configuration
    lines = [
        f"{task.name}, seed {episode.seed}: epoch {len(episode.rows)} of {task.epochs}",
        f"batch size {batch_size}, learning rate {lr:g}",
    ]
    if episode.rows:
        row = episode.rows[-1]
        place = f"C̄ {position_words(row.c_bar)}, L {position_words(row.l_cum)}" if row.samples else "nothing measured"
        lines += [
            place,
            f"validation loss {loss_words(row.validation_loss)}, error {percent_words(row.validation_error)}, "
            f"quality {episode.quality:.3f}",
            f"cost {percent_words(sum(episode.costs) / episode.reference)} of the reference training, "
            f"last reward {episode.rewards[-1]:+.4f}, so far {sum(episode.rewards):+.4f}",
        ]
    if episode.diverged:
        lines.append("the training has diverged")
    return "\n".join(lines)


def picture(episode: Drawn) -> NDArray[np.uint8]:
    """Draw an episode's journey through the plane; every picture of a task has the same size.

    Args:
        episode: the episode.

    Returns:
        uint8, shape (height, width, 3).
    """
    task = episode.rules.setting.task
    title = f"{task.name}, seed {episode.seed}: epoch {len(episode.rows)} of {task.epochs}"
    return plane_pixels(title, episode.rows, episode.rules.setting.library)

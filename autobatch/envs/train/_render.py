"""What an episode looks like: a few lines of text, or the plane with the beacons and the journey."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autobatch.envs._pixels import plane_pixels
from autobatch.envs.train._trained import TrainedEpisode
from autobatch.report import loss_words, percent_words, position_words


def text(episode: TrainedEpisode[Any]) -> str:
    """Describe an episode in a few lines.

    Args:
        episode: the episode.

    Returns:
        Text without control characters.
    """
    task, (batch_size, lr) = episode.setting.task, episode.configuration
    lines = [
        f"{task.name}, seed {episode.seed}: epoch {len(episode.rows)} of {task.epochs}",
        f"batch size {batch_size}, learning rate {lr:g}",
    ]
    if episode.rows:
        row = episode.rows[-1]
        place = f"C̄ {position_words(row.c_bar)}, L {position_words(row.l_cum)}" if row.samples else "nothing measured"
        rewards = episode.rewards  # none while only scouts have trained
        last = f", last reward {rewards[-1]:+.4f}, so far {sum(rewards):+.4f}" if rewards else ""
        lines += [
            place,
            f"validation loss {loss_words(row.validation_loss)}, error {percent_words(row.validation_error)}, "
            f"quality {episode.quality:.3f}",
            f"cost {percent_words(sum(episode.costs) / episode.reference)} of the reference training{last}",
        ]
    if episode.diverged:
        lines.append("the training has diverged")
    return "\n".join(lines)


def picture(episode: TrainedEpisode[Any]) -> NDArray[np.uint8]:
    """Draw an episode's journey through the plane; every picture of a task has the same size.

    Args:
        episode: the episode.

    Returns:
        uint8, shape (height, width, 3).
    """
    task = episode.setting.task
    title = f"{task.name}, seed {episode.seed}: epoch {len(episode.rows)} of {task.epochs}"
    return plane_pixels(title, episode.rows, episode.setting.library)

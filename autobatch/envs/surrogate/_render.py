"""What an episode on the surrogate looks like: a few lines of text, or the plane with the beacons and the journey."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autobatch.envs._pixels import plane_pixels
from autobatch.envs.surrogate._dynamics import Dynamics
from autobatch.report import position_words
from autobatch.training import EpochRow

Course = Sequence[Mapping[str, Any]]
"""The infos of an episode: that of ``reset``, then one for each step."""


def text(dynamics: Dynamics, course: Course, rewards: Sequence[float]) -> str:
    """Describe an episode, its infos and rewards, in a few lines without control characters."""
    last = course[-1]
    lines = [_title(dynamics, course), f"batch size {last['batch_size']}, learning rate {last['lr']:g}"]
    if rewards:
        lines += [
            f"C̄ {position_words(last['c_bar'])}, L {position_words(last['l_cum'])}",
            f"{dynamics.task.score.replace('_', ' ')} {last['score']:.4f}, quality {last['quality']:.3f}",
            f"last reward {rewards[-1]:+.4f}, so far {math.fsum(rewards):+.4f}",
        ]
        if last["diverged"]:
            lines.append("the training has diverged")
    return "\n".join(lines)


def picture(dynamics: Dynamics, course: Course) -> NDArray[np.uint8]:
    """Draw the journey of an episode, given its infos, through the plane: uint8, shape (height, width, 3)."""
    return plane_pixels(_title(dynamics, course), [_row(dynamics, info) for info in course[1:]], dynamics.library)


def _title(dynamics: Dynamics, course: Course) -> str:
    member = course[0]["member"]
    who = "mean of the ensemble" if member < 0 else f"member {member} of the ensemble"
    return f"{dynamics.task.name}, surrogate, {who}: epoch {course[-1]['epoch']} of {dynamics.epochs}"


def _row(dynamics: Dynamics, info: Mapping[str, Any]) -> EpochRow:
    """Return what the plane needs of an epoch; the other figures are not known."""
    unknown = dict.fromkeys((field.name for field in fields(EpochRow)), math.nan)
    known = {name: info[name] for name in ("epoch", "batch_size", "lr", "c_bar", "l_cum")}
    return EpochRow(**unknown | known | {"progress": info["epoch"] / dynamics.epochs, "samples": 1})

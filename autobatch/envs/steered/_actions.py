"""The actions of the environments whose schedule is the agent's: what they are, and which of them change something."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from autobatch.envs._spaces import action_masks, action_space, check_against
from autobatch.policies.general import AS_IT_IS, FALL, HEADS, STOP, Course, Limits

MOVES = 9
"""Numbers of the one-number action that move on the ladders; the next lets the rate fall, the last stops."""


def steered_space(actions: str) -> gymnasium.Space[Any]:
    """Return the space of one kind of action.

    Args:
        actions: the kind, ``"multidiscrete"`` or ``"discrete"``.

    Returns:
        ``MultiDiscrete([5, 3, 2, 2])`` or ``Discrete(11)``.

    Raises:
        ConfigError: there is no such kind.
    """
    action_space(actions)
    return spaces.Discrete(MOVES + 2) if actions == "discrete" else spaces.MultiDiscrete(np.array(HEADS))


def check_steered(actions: str, action: Any) -> NDArray[np.int64]:
    """Refuse what is no action of ``steered_space``.

    Args:
        actions: the kind of action.
        action: what an agent said.

    Returns:
        The action, int64, shape () or (4,).

    Raises:
        ConfigError: the action is of another type or shape, or out of range.
    """
    if actions == "discrete":
        return check_against(action, (), np.array(MOVES + 2), f"a whole number from 0 to {MOVES + 1}")
    tops = ", ".join(f"0 to {count - 1}" for count in HEADS)
    return check_against(action, (len(HEADS),), np.array(HEADS), f"{len(HEADS)} whole numbers, from {tops}")


def as_parts(actions: str, action: NDArray[np.int64]) -> NDArray[np.int64]:
    """Translate actions into choices of size, rate, fall and stop.

    Args:
        actions: the kind of action.
        action: n actions, shape (n,) or (n, 4).

    Returns:
        Shape (n, 4).
    """
    if actions != "discrete":
        return action
    parts = np.tile(np.array(AS_IT_IS), (len(action), 1))
    moves = action < MOVES
    parts[moves, 0], parts[moves, 1] = action[moves] // 3 + 1, action[moves] % 3
    parts[:, FALL], parts[:, STOP] = action == MOVES, action == MOVES + 1
    return parts


def steered_masks(actions: str, course: Course, limits: Limits) -> NDArray[np.bool_]:
    """Say which actions change what they say; the others stop at a limit, or come too early.

    Args:
        actions: the kind of action.
        course: n trainings.
        limits: what binds them.

    Returns:
        bool, shape (n, 11) for ``"discrete"``, else (n, 5 + 3 + 2 + 2), of each part one after the other.
    """
    # Rates move by doublings, not by rungs; what matters is how many of either way are left.
    below = np.floor(course.rate - limits.slowest + 1e-9).astype(np.int64)
    above = np.floor(limits.fastest - course.rate + 1e-9).astype(np.int64)
    rungs = np.stack([course.size - limits.lowest, below], axis=1)
    moves = action_masks(actions, rungs, np.stack([limits.highest - limits.lowest, below + above], axis=1))
    always = np.ones((len(rungs), 1), dtype=np.bool_)
    fall = ~course.falling | (course.end > course.epoch + 1)
    fall, stop = fall[:, None], (course.epoch > 0)[:, None]
    last = [fall, stop] if actions == "discrete" else [always, fall, always, stop]
    return np.concatenate([moves, *last], axis=1)

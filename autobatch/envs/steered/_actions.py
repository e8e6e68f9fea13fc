"""The actions of the environments whose schedule is the agent's: what they are, and which of them change something."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from autobatch.envs._spaces import action_masks, action_space, check_against
from autobatch.policies.general import AS_IT_IS, FALL, HEADS, STOP, TRY, Course, Limits

MOVES = 9
"""Numbers of the one-number action that move on the ladders; the next lets the rate fall, then comes stop."""

_STAYS = 4
"""The one of them that changes nothing, so that there is nothing to try."""


def steered_space(actions: str, *, forks: bool = False) -> gymnasium.Space[Any]:
    """Return the space of one kind of action.

    Args:
        actions: the kind, ``"multidiscrete"`` or ``"discrete"``.
        forks: whether an action may be tried.

    Returns:
        ``MultiDiscrete([5, 3, 2, 2])`` or ``Discrete(11)``; with forks ``MultiDiscrete([5, 3, 2, 2, 2])`` or
        ``Discrete(20)``.

    Raises:
        ConfigError: there is no such kind.
    """
    action_space(actions)
    if actions == "discrete":
        return spaces.Discrete(_count(forks))
    return spaces.MultiDiscrete(np.array(_heads(forks)))


def check_steered(actions: str, action: Any, *, forks: bool = False) -> NDArray[np.int64]:
    """Refuse what is no action of ``steered_space``.

    Args:
        actions: the kind of action.
        action: what an agent said.
        forks: whether it may be tried.

    Returns:
        The action, int64, shape () or (4,), with forks (5,).

    Raises:
        ConfigError: the action is of another type or shape, or out of range.
    """
    if actions == "discrete":
        count = _count(forks)
        return check_against(action, (), np.array(count), f"a whole number from 0 to {count - 1}")
    heads = _heads(forks)
    tops = ", ".join(f"0 to {count - 1}" for count in heads)
    return check_against(action, (len(heads),), np.array(heads), f"{len(heads)} whole numbers, from {tops}")


def as_parts(actions: str, action: NDArray[np.int64]) -> NDArray[np.int64]:
    """Translate actions into choices of size, rate, fall and stop, and of whether they are tried.

    Args:
        actions: the kind of action.
        action: n actions, shape (n,) or (n, 4 or more).

    Returns:
        Shape (n, 4 or more).
    """
    if actions != "discrete":
        return action
    parts = np.tile(np.array((*AS_IT_IS, 0)), (len(action), 1))
    parts[:, FALL], parts[:, STOP], parts[:, TRY] = action == MOVES, action == MOVES + 1, action > MOVES + 1
    move = np.where(parts[:, TRY] == 1, action - MOVES - 2, action)
    moves = move < MOVES
    parts[moves, 0], parts[moves, 1] = move[moves] // 3 + 1, move[moves] % 3
    return parts


def steered_masks(actions: str, course: Course, limits: Limits, *, forks: bool = False) -> NDArray[np.bool_]:
    """Say which actions change what they say; the others stop at a limit, or come too early.

    Args:
        actions: the kind of action.
        course: n trainings.
        limits: what binds them.
        forks: whether actions may be tried.

    Returns:
        bool, shape (n, 11) for ``"discrete"``, else (n, 5 + 3 + 2 + 2), of each part one after the other; with forks
        (n, 20) or (n, 5 + 3 + 2 + 2 + 2).
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
    if forks:
        last += [moves & (np.arange(MOVES) != _STAYS)] if actions == "discrete" else [always, always]
    return np.concatenate([moves, *last], axis=1)


def _heads(forks: bool) -> tuple[int, ...]:
    return (*HEADS, 2) if forks else HEADS


def _count(forks: bool) -> int:
    return MOVES + 2 + (MOVES if forks else 0)

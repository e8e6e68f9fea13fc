"""The spaces that the environments share, and what an action and the options of a reset have to be."""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from autobatch._errors import ConfigError, near_names
from autobatch.policies import BATCH_MOVES, RATE_MOVES
from autobatch.policies._moves import decode

ACTIONS = ("multidiscrete", "discrete")
"""Kinds of action space; see ``decode`` for what the numbers mean."""

_DISCRETE = 9
_COUNTS = np.array([len(BATCH_MOVES), len(RATE_MOVES)])


def observation_space(size: int) -> gymnasium.Space[Any]:
    """Return the space of the flat view.

    Args:
        size: entries of the view.

    Returns:
        float32, shape (size,), in [-1, 1].
    """
    return spaces.Box(-1.0, 1.0, (size,), np.float32)


def action_space(actions: str) -> gymnasium.Space[Any]:
    """Return the space of one kind of action.

    Args:
        actions: the kind, one of ``ACTIONS``.

    Returns:
        ``MultiDiscrete([5, 3])`` or ``Discrete(9)``.

    Raises:
        ConfigError: there is no such kind.
    """
    if actions not in ACTIONS:
        raise ConfigError(
            f"actions: no kind is called {actions!r}; {near_names(str(actions), ACTIONS)} "
            "(for continuous actions, put the wrapper BoxActions around 'multidiscrete')"
        )
    return spaces.Discrete(_DISCRETE) if actions == "discrete" else spaces.MultiDiscrete(_COUNTS)


def moves_of(actions: str, action: Any) -> tuple[int, int]:
    """Check an action and translate it.

    Args:
        actions: its kind, one of ``ACTIONS``.
        action: what an agent said: whole numbers, as an array, a sequence or a plain number.

    Returns:
        (batch move, rate move) in rungs.

    Raises:
        ConfigError: the action is of another type or shape, or out of range.
    """
    batch_move, rate_move = decode(actions, check_action(actions, action))
    return int(batch_move), int(rate_move)


def check_action(actions: str, action: Any) -> NDArray[np.int64]:
    """Refuse what is no action of a space.

    Args:
        actions: the kind of action, one of ``ACTIONS``.
        action: what an agent said.

    Returns:
        The action, int64, shape () or (2,).

    Raises:
        ConfigError: the action is of another type or shape, or out of range.
    """
    shape: tuple[int, ...]
    if actions == "discrete":
        shape, top, expected = (), np.array(_DISCRETE), f"a whole number from 0 to {_DISCRETE - 1}"
    else:
        shape, top = (2,), _COUNTS
        expected = f"two whole numbers, from 0 to {_COUNTS[0] - 1} and from 0 to {_COUNTS[1] - 1}"
    try:
        chosen = np.asarray(action)
    except ValueError:  # a ragged sequence
        raise ConfigError(f"action: expected {expected}, got {action!r}") from None
    if not np.issubdtype(chosen.dtype, np.integer) or chosen.shape != shape or ((chosen < 0) | (chosen >= top)).any():
        raise ConfigError(f"action: expected {expected}, got {action!r}")
    return chosen.astype(np.int64)


def check_options(options: Mapping[str, Any] | None, known: tuple[str, ...] = ()) -> None:
    """Refuse what ``reset`` does not know.

    Args:
        options: the options of ``reset``.
        known: names of those that there are.

    Raises:
        ConfigError: there is another one.
    """
    unknown = [str(name) for name in options or () if name not in known]
    if unknown:
        raise ConfigError(f"options: no option is called {unknown[0]!r}; {near_names(unknown[0], known)}")

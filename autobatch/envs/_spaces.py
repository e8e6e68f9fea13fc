"""The spaces that the environments share, and what an action, a task and the options of a reset have to be."""

from collections.abc import Iterable, Mapping
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
_DEFAULT_TASK = "digits-resnet8"
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
    return check_against(action, shape, top, expected)


def check_against(action: Any, shape: tuple[int, ...], top: NDArray[np.int64], expected: str) -> NDArray[np.int64]:
    """Refuse what are not whole numbers of a shape, from 0 to below a bound.

    Args:
        action: what an agent said.
        shape: the shape.
        top: the bounds, of that shape or one for all.
        expected: what was expected, in words.

    Returns:
        The action, int64.

    Raises:
        ConfigError: it is of another type or shape, or out of range.
    """
    try:
        chosen = np.asarray(action)
    except ValueError:  # a ragged sequence
        raise ConfigError(f"action: expected {expected}, got {action!r}") from None
    if not np.issubdtype(chosen.dtype, np.integer) or chosen.shape != shape or ((chosen < 0) | (chosen >= top)).any():
        raise ConfigError(f"action: expected {expected}, got {action!r}")
    return chosen.astype(np.int64)


def action_masks(actions: str, rungs: NDArray[np.integer], tops: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Say which actions lead where they say; the others would go beyond the end of a ladder, and stop there.

    Args:
        actions: the kind of action, one of ``ACTIONS``.
        rungs: where moves start, on the ladder and on the learning rates, shape (n, 2).
        tops: the highest rungs, shape (n, 2).

    Returns:
        bool, shape (n, 9) for ``"discrete"``, else (n, 5 + 3): of each part of the action one after the other, as
        maskable algorithms take it.
    """

    def stays(side: int, moves: NDArray[np.integer]) -> NDArray[np.bool_]:
        after = rungs[:, side, None] + moves
        inside: NDArray[np.bool_] = (after >= 0) & (after <= tops[:, side, None])
        return inside

    if actions == "discrete":
        batch_moves, rate_moves = decode(actions, np.arange(_DISCRETE))
        return stays(0, batch_moves) & stays(1, rate_moves)
    return np.concatenate([stays(0, np.array(BATCH_MOVES)), stays(1, np.array(RATE_MOVES))], axis=1)


def check_flags(**flags: Any) -> None:
    """Refuse arguments that are neither True nor False.

    Args:
        flags: the arguments by name.

    Raises:
        ConfigError: one is something else.
    """
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ConfigError(f"{name}: expected True or False, got {value!r}")


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


def task_of(env: Any, task: Any) -> Any:
    """Return what was given as ``env`` or as ``task``, or else the default.

    Args:
        env: what was given as ``env``; None where nothing was.
        task: what was given as ``task``; None where nothing was.

    Returns:
        What was given.

    Raises:
        ConfigError: both were.
    """
    if env is not None and task is not None:
        raise ConfigError(f"env and task are two names of one argument: got {env!r} and {task!r}")
    return next((given for given in (env, task) if given is not None), _DEFAULT_TASK)


def refuse_unknown(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse arguments of an environment that it does not have.

    Args:
        given: names of the arguments.
        known: names of those that there are.

    Raises:
        ConfigError: one is none of them; the message names it, and those that come near.
    """
    known = set(known)
    for name in given:
        if name not in known:
            raise ConfigError(f"{name}: there is no such argument; {near_names(name, known)}")

"""What comes from a user, held to the kind and the range that is stated for it."""

import inspect
import math
import operator
from collections.abc import Iterable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from autobatch._errors import ConfigError, near_names

_ROUND_OFF = 1e-6

Made = TypeVar("Made")


def check_whole(value: Any, what: str, least: int = 1) -> int:
    """Return an integer of any kind; a ConfigError names ``what`` is none, or smaller than ``least``."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise ConfigError(f"{what}: expected a whole number of at least {least}, got {value!r}")
    return number


def check_number(value: Any, what: str) -> float:
    """Return a number, finite or not, or that in a tensor; a ConfigError names ``what`` is none."""
    number = None
    if not isinstance(value, str | bool):
        with suppress(TypeError, ValueError, RuntimeError):
            number = float(value)
    if number is None:
        raise ConfigError(f"{what}: expected a number, got {value!r}")
    return number


def check_share(value: Any, what: str) -> float:
    """Return a share; it may be one that is not finite, as of a training that has diverged.

    Args:
        value: what was given.
        what: its name, for the message.

    Returns:
        The share; what is outside of [0, 1] by round-off only is at its border.

    Raises:
        ConfigError: it is no number, or lies outside [0, 1] by more than round-off.
    """
    share = check_number(value, what)
    if not math.isfinite(share):
        return share
    if not -_ROUND_OFF <= share <= 1.0 + _ROUND_OFF:
        hint = " (per cent? divide by 100)" if 1.0 < share <= 100.0 else ""
        raise ConfigError(f"{what}: expected a share in [0, 1], got {share:g}{hint}")
    return min(1.0, max(0.0, share))


def check_path(value: Any, what: str) -> Path:
    """Return a path; a ConfigError names ``what`` is none, or empty."""
    if not isinstance(value, str | Path) or not str(value).strip():
        raise ConfigError(f"{what}: expected a path, got {value!r}")
    return Path(value)


def check_several(value: Any, what: str) -> None:
    """Refuse what holds no values of its own, a single text among that; None, where nothing was given, is taken."""
    if value is not None and (isinstance(value, str) or not isinstance(value, Iterable)):
        raise ConfigError(f"{what}: expected several values, such as a tuple, got {value!r}")


def check_kind(value: Any, kinds: tuple[type, ...], what: str) -> None:
    """Refuse an object of none of these classes; None, where nothing was given, is taken."""
    if value is not None and not isinstance(value, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise ConfigError(f"{what}: expected {names}, got {value!r}")


def names_arguments(made: type[Made]) -> type[Made]:
    """Have a class name what comes near an argument that it does not have: a ConfigError in place of a TypeError."""
    own, known = made.__init__, tuple(inspect.signature(made).parameters)

    @wraps(own)
    def checked(self: Any, *given: Any, **named: Any) -> None:
        for name in named:
            if name not in known:
                raise ConfigError(f"{made.__name__}: no argument is called '{name}'; {near_names(name, known)}")
        own(self, *given, **named)

    made.__init__ = checked  # type: ignore[method-assign]
    return made

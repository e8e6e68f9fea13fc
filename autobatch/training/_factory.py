"""Factories of the user's own code, which a task names as ``package.module:factory``."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autobatch._errors import ConfigError


def trusted_factory(key: str, name: str, *, trust_code: bool) -> Callable[..., Any]:
    """Import a factory that a task names.

    Args:
        key: the key that names it, for messages.
        name: ``package.module:factory``; the module is looked for in the working directory too.
        trust_code: whether its code may be imported and run.

    Returns:
        What calls it, with a ConfigError that names the key where it raises anything.

    Raises:
        ConfigError: its code is not trusted, it cannot be imported, or is nothing that can be called.
    """
    if not trust_code:
        raise ConfigError(
            f"key '{key}': {name!r} imports and runs code; say --trust-code on the command line, or "
            f"trust_code=True in Python, if you trust it"
        )
    factory = _imported(key, name)

    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return factory(*arguments, **named)
        except Exception as error:  # the user's code
            raise ConfigError(f"key '{key}': {name} failed: {type(error).__name__}: {error}") from error

    return call


def _imported(key: str, name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:  # a console script does not have the working directory on its path, where users keep their code
        sys.path.insert(0, here)
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # the user's code runs on import
        raise ConfigError(f"key '{key}': cannot import {name}: {type(error).__name__}: {error}") from error
    finally:
        if added:
            sys.path.remove(here)
    if not callable(factory):
        raise ConfigError(f"key '{key}': {name} is {type(factory).__name__}, expected a callable")
    return factory  # type: ignore[no-any-return]

"""Trackers are imported when one of their loggers is made, and not before."""

from importlib import import_module
from typing import Any

from autobatch._errors import ConfigError


def import_tracker(module: str, package: str, logger: str) -> Any:
    """Import a tracker's module; where it cannot be, say what to install."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{logger} needs the package '{package}', which cannot be imported ({error}); "
            "install it with: pip install 'autobatch[track]'"
        ) from error

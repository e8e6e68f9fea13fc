"""What a library says of the software that recorded it."""

import importlib.metadata
import platform

import torch


def software_versions() -> dict[str, str]:
    """Return the versions of what shapes a beacon's figures, by name."""
    return {"autobatch": _version("autobatch"), "torch": torch.__version__, "python": platform.python_version()}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"

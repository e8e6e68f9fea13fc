"""What a library says of the software that recorded it."""

import hashlib
import importlib.metadata
import platform
from functools import cache
from pathlib import Path

import torch

DEVICE = "device"
"""Key of a library's versions under which the kind of device stands, where no cost table says it."""

_PACKAGE = Path(__file__).resolve().parent.parent
_TRAINING = ("fisher", "policies", "control", "training")


def software_versions() -> dict[str, str]:
    """Return the versions of what shapes a beacon's figures, by name."""
    return {"autobatch": _version("autobatch"), "torch": torch.__version__, "python": platform.python_version()}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@cache
def code_version() -> str:
    """Return a hash of the code that decides what a training comes to."""
    digest = hashlib.sha256()
    files = [path for room in _TRAINING for path in sorted((_PACKAGE / room).rglob("*.py"))]
    for path in (_PACKAGE / "_steps.py", *files):
        digest.update(f"{path.relative_to(_PACKAGE).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]

"""Names and rooms of a package that are imported on first use (PEP 562).

A package states its public names once, as imports under ``if TYPE_CHECKING``, where type checkers and editors find
them. These are read here, so that no second list says where each comes from.
"""

import ast
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any


def on_first_use(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of the package of that ``__name__``."""

    def resolve(name: str) -> Any:
        home = _homes(package).get(name)
        if home is None:
            if name.isidentifier() and not name.startswith("_") and _folder(package).joinpath(name).is_dir():
                return import_module(f"{package}.{name}")
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(home), name)

    return resolve, lambda: sorted(sys.modules[package].__all__)


@cache
def _homes(package: str) -> dict[str, str]:
    """Return the module of each name that a package imports under ``if TYPE_CHECKING``."""
    text = (_folder(package) / "__init__.py").read_text(encoding="utf-8")
    blocks = [part for part in ast.parse(text).body if isinstance(part, ast.If)]
    stated = [line for block in blocks for line in block.body if isinstance(line, ast.ImportFrom)]
    return {alias.name: str(line.module) for line in stated for alias in line.names}


def _folder(package: str) -> Path:
    return Path(str(sys.modules[package].__file__)).parent

"""How things show themselves in a notebook. What draws them stands in a room above theirs and is imported then."""

from importlib import import_module
from typing import Any

_DRAWN_BY = "autobatch.report._notebook"


def drawn(how: str, thing: object) -> Any:
    """Have something drawn, as ``"html"`` or as a matplotlib ``"figure"``."""
    return getattr(import_module(_DRAWN_BY), how)(thing)


class Shown:
    """Something that notebooks show as more than its ``repr``."""

    def _repr_html_(self) -> str:
        html: str = drawn("html", self)
        return html

"""HTML put together from parts, of which everything is text until it is said to be markup."""

import base64
import html
import json
import zlib
from typing import Any

_HARMLESS = str.maketrans("<>&", ".,:")
"""Characters of base 85 that mean something in HTML, and what stands for them."""


class Html(str):
    """Markup, as ``tag`` returns it; any other text is escaped where it goes into a page."""

    __slots__ = ()


def tag(name: str, /, *content: str, **attributes: str | int | bool | None) -> Html:
    """Return an element.

    Args:
        name: the element's name.
        *content: what is inside: markup stays, other text is escaped.
        **attributes: attributes; ``class_`` stands for ``class``, ``data_run`` for ``data-run``. None and False leave
            one out, True gives it without a value.

    Returns:
        The element.
    """
    given = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in {"meta", "input", "br"}:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{joined(*content)}</{name}>")


def joined(*content: str) -> Html:
    """Return parts one after the other: markup stays, other text is escaped."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in content))


def data_block(element: str, value: Any) -> Html:
    """Return data for a script to read, in which nothing can end the block; numbers must be finite."""
    return packed(element, json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")))


def packed(element: str, text: str) -> Html:
    """Return text for a script to unpack: deflated and in base 85, a third of what it takes as it is, or less."""
    coded = base64.b85encode(zlib.compress(text.encode(), 9)).decode().translate(_HARMLESS)
    return Html(f'<script type="text/plain" id="{element}">{coded}</script>')


def hover_text(*lines: str) -> str:
    """Return lines as plotly shows them: it reads a few tags and entities in any text, so these are escaped."""
    return "<br>".join(html.escape(line, quote=False) for line in lines)


def _attribute(key: str, value: str | int | bool | None) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'

"""Lines on a console, and on a terminal a bar below them that shows how far things are."""

from typing import Any, Self

from rich.console import Console
from rich.progress import Progress, ProgressColumn
from rich.text import Text


class Bar:
    """Prints lines above a bar; use it as a context."""

    def __init__(self, console: Console, *columns: ProgressColumn, **fields: Any) -> None:
        self._console = console
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=None, **fields)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def note(self, message: str) -> None:
        """Print a line."""
        self._say(message)

    def _say(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)

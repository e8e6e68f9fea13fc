"""A hook of MkDocs: tables of the reference that the code has already, put where ``<!-- table: NAME -->`` stands."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import typer
from pydantic import BaseModel

from autobatch.beacons._columns import COLUMNS
from autobatch.cli import app
from autobatch.policies import ENTRIES, PolicyCard, general
from autobatch.policies.learned import PolicyTraining
from autobatch.training import Summary


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the tables into a page.

    Args:
        markdown: the page's text.

    Returns:
        The text with a table in the place of each mark.

    Raises:
        KeyError: there is no such table or command.
    """
    return re.sub(r"<!-- table: (.+) -->", lambda found: made(found[1]), markdown)


def made(name: str) -> str:
    """Return the table of that name; one of ``TABLES``, or the options of a command."""
    return TABLES[name]() if name in TABLES else options(dict(commands(typer.main.get_command(app), "autobatch"))[name])


def fields(model: type[BaseModel]) -> str:
    """Return the table of a model's fields."""
    return table(
        ("key", "holds"), ((f"`{name}`", field.description or "") for name, field in model.model_fields.items())
    )


TABLES: dict[str, Callable[[], str]] = {
    "summary": lambda: fields(Summary),
    "card": lambda: fields(PolicyCard),
    "card, training": lambda: fields(PolicyTraining),
    "columns": lambda: table(
        ("column", "type", "unit", "meaning"),
        ((f"`{column.name}`", column.kind, column.unit or "-", column.meaning) for column in COLUMNS),
    ),
    "entries": lambda: table(
        ("number", "entry", "meaning"), ((str(number), *entry) for number, entry in enumerate(ENTRIES))
    ),
    "steered entries": lambda: table(
        ("place", "entry", "meaning"), ((str(number), *entry) for number, entry in enumerate(general.ENTRIES))
    ),
}


def commands(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every command below a group of the command line that is not hidden, with its full name."""
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} {word}")
        elif not command.hidden:
            yield f"{name} {word}", command


def options(command: Any) -> str:
    """Return the table of a command's options, as ``--help`` has them."""
    rows = []
    for each in command.params:
        name = "/".join([each.opts[0], *each.secondary_opts]) if each.param_type_name == "option" else each.metavar
        if name != "--help":
            # On a terminal, a bracket that is no markup has a backslash before it.
            rows.append((f"`{name}`", (each.help or "").replace("\\[", "[")))
    return table(("option", ""), rows)


def table(heading: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in [heading, ("---",) * len(heading), *rows])
    return "\n".join(f"| {line} |" for line in lines)

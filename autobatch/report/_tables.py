"""Tables on a console, all of one look: rows below headings, and facts beside their names."""

from collections.abc import Collection

from rich.box import SIMPLE_HEAD
from rich.table import Table


def headed(
    *headings: str, words: Collection[str] = (), title: str | None = None, style: str = "bold", note: str | None = None
) -> Table:
    """Return a table without rows yet, whose first column is never broken over lines.

    Args:
        *headings: one for each column.
        words: headings of columns that hold words, which go to the left; figures go to the right.
        title: what stands above it.
        style: how that looks.
        note: what stands below it.

    Returns:
        The table.
    """
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, title_justify="left", caption_justify="left")
    table.title, table.title_style, table.caption = title, style, note
    for heading in headings:
        side = "left" if heading in words else "right"
        table.add_column(heading, justify=side, overflow="fold", no_wrap=not table.columns)  # type: ignore[arg-type]
    return table


def named_facts(style: str = "bold") -> Table:
    """Return a table without rows yet: names, which look so, and words beside them."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style=style, no_wrap=True)
    table.add_column(overflow="fold")
    return table

"""Where commands print: rich on a terminal, plain and uncut text elsewhere."""

import sys

from rich.console import Console

PLAIN_WIDTH = 160
"""Columns of a table that goes to a file or pipe, where rich would assume 80 and cut."""


def console(stderr: bool = False) -> Console:
    """Return a console on stdout, or on stderr.

    Args:
        stderr: whether to print to stderr.

    Returns:
        A console that wraps at the terminal's width, or at ``PLAIN_WIDTH`` where there is no terminal.
    """
    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, width=None if is_terminal else PLAIN_WIDTH)

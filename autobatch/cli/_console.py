"""Where commands print: rich on a terminal, plain and uncut text elsewhere; and what they say after Ctrl-C."""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

PLAIN_WIDTH = 160
"""Columns of a table that goes to a file or pipe, where rich would assume 80 and cut."""


def console() -> Console:
    """Return a console on stdout that wraps at the terminal's width, or at ``PLAIN_WIDTH`` where there is none."""
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def command_line() -> str:
    """Return the command as it was given."""
    return shlex.join(["autobatch", *sys.argv[1:]])


@contextmanager
def interruptible(kept: Callable[[], str]) -> Iterator[None]:
    """End the command after Ctrl-C, once it is said what is kept and how to go on.

    Args:
        kept: returns what to say.
    """
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"\nautobatch: interrupted; {kept()}", err=True)
        raise typer.Exit(INTERRUPTED) from None


def same_command() -> str:
    """Return what ``interruptible`` says where the same command goes on."""
    return f"finished runs are kept, the same command goes on: {command_line()}"

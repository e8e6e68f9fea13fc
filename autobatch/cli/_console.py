"""Where commands print: rich on a terminal, plain and uncut text elsewhere; and what they say after Ctrl-C."""

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import typer
from rich.console import Console

from autobatch._artefacts import told_path

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

PLAIN_WIDTH = 160
"""Columns of a table that goes to a file or pipe, where rich would assume 80 and cut."""


def console() -> Console:
    """Return a console on stdout that wraps at the terminal's width, or at ``PLAIN_WIDTH`` where there is none."""
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)


@contextmanager
def streams() -> Iterator[None]:
    """Have standard streams that anything can be written to, also where there are none (a service, >&-)."""
    with ExitStack() as stack:
        for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
            stream = getattr(sys, name)
            if stream is None:
                _take_closed_descriptors()
                stack.callback(setattr, sys, name, None)
                setattr(sys, name, stack.enter_context(open(os.devnull, mode, encoding="utf-8")))
            elif mode == "w" and hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a terminal that cannot show "C̄" is no reason to lose a run
        yield


def _take_closed_descriptors() -> None:
    """Keep the descriptors of closed standard streams from files, which what libraries print would be written into."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def command_line() -> str:
    """Return the command as it was given."""
    return shlex.join(["autobatch", *sys.argv[1:]])


def recorded_command() -> str:
    """Return the command as it is kept in files that are passed on: no absolute path in it tells of the machine."""
    return shlex.join(["autobatch", *map(_told, sys.argv[1:])])


def _told(word: str) -> str:
    option, equals, text = word.rpartition("=")
    return f"{option}{equals}{told_path(Path(text))}" if text.startswith(os.sep) else word


@contextmanager
def interruptible(kept: Callable[[], str]) -> Iterator[None]:
    """End the command after Ctrl-C, once it is said what is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"\nautobatch: interrupted; {kept()}", err=True)
        raise typer.Exit(INTERRUPTED) from None


def same_command() -> str:
    """Return what ``interruptible`` says where the same command goes on."""
    return f"finished runs are kept, the same command goes on: {command_line()}"

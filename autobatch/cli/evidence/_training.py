"""What the commands share that train many runs: lists on the command line, a line an event, and Ctrl-C."""

import math
import shlex
import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from autobatch.evidence import BenchObserver

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

_MOST_SEEDS = 10_000


def interrupted() -> typer.Exit:
    """Return the exit after Ctrl-C, once it is said how to go on."""
    again = shlex.join(["autobatch", *sys.argv[1:]])
    typer.echo(f"\nautobatch: interrupted; finished runs are kept, the same command goes on: {again}", err=True)
    return typer.Exit(INTERRUPTED)


def lines(*, quiet: bool) -> "BenchObserver":
    """Return an observer that prints a line an event.

    Args:
        quiet: whether stdout is for something else, so that the lines go to stderr.

    Returns:
        The observer.
    """
    from autobatch.evidence import BenchObserver, BenchProgress
    from autobatch.report import loss_words, percent_words, seconds_words
    from autobatch.training import Summary

    class Lines(BenchObserver):
        """A line an event; on stderr where stdout is for JSON."""

        def note(self, message: str) -> None:
            self._say(message)

        def started(self, progress: BenchProgress) -> None:
            self._say(f"{progress.total} runs, {progress.done} of them are there already{self._left(progress)}")

        def run_finished(self, name: str, summary: Summary, progress: BenchProgress) -> None:
            width = len(str(progress.total))
            ended = "" if summary.stopped_because == "finished" else f" {summary.stopped_because};"
            self._say(
                f"{progress.done:{width}d}/{progress.total}  {name}:{ended} validation loss "
                f"{loss_words(summary.validation_loss)}, error {percent_words(summary.validation_error)}, "
                f"{seconds_words(summary.seconds)}{self._left(progress)}"
            )

        def run_failed(self, name: str, message: str) -> None:
            typer.echo(f"failed: {name}: {message}", err=True)

        def _left(self, progress: BenchProgress) -> str:
            if not math.isfinite(progress.seconds_left) or progress.done == progress.total:
                return ""
            return f"; about {seconds_words(progress.seconds_left)} left"

        def _say(self, text: str) -> None:
            typer.echo(text, err=quiet)

    return Lines()


def names(text: str) -> list[str]:
    """Return the parts of a list with commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def seed_numbers(text: str) -> list[int]:
    """Read the seeds of ``--seeds``.

    Args:
        text: numbers and ranges with commas, such as ``100-104,110``.

    Returns:
        The numbers, as they come.

    Raises:
        BadParameter: it is something else.
    """
    found: list[int] = []
    for part in names(text):
        first, dash, last = part.partition("-")
        try:
            low, high = int(first), int(last) if dash else int(first)
        except ValueError:
            low, high = 1, 0
        if not 0 <= low <= high < 2**63 or high - low >= _MOST_SEEDS:
            raise typer.BadParameter(
                f"expected whole numbers and ranges such as 100-109 or 100,105, got {part!r}", param_hint="--seeds"
            )
        found += range(low, high + 1)
    if not found:
        raise typer.BadParameter("expected at least one seed, such as 100-109", param_hint="--seeds")
    return found

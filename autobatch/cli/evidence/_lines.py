"""A line for every event of trainings that a command carries out."""

import math
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from autobatch.evidence import BenchObserver


def lines(*, quiet: bool) -> "BenchObserver":
    """Return an observer that prints a line an event; on stderr where ``quiet`` keeps stdout for something else."""
    from autobatch.evidence import BenchObserver, BenchProgress
    from autobatch.report import loss_words, percent_words, seconds_words
    from autobatch.training import Summary

    class Lines(BenchObserver):
        """A line an event."""

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

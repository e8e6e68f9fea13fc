"""``autobatch watch``: follow a run while it trains."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autobatch.cli._console import INTERRUPTED, console
from autobatch.cli._options import RunDirectory

if TYPE_CHECKING:
    from rich.console import Console

    from autobatch.report import RunRecord
    from autobatch.report._follow import RunWatch


def watch(
    run: RunDirectory,
    interval: Annotated[float, typer.Option(help="Seconds from one look to the next.", min=0.1, max=3600)] = 1.0,
    wait: Annotated[
        float, typer.Option(help="Seconds to wait for the run to begin, where the directory holds none yet.", min=0)
    ] = 0.0,
) -> None:
    """Follow a run while it trains: where it stands, what changed and why; at the end its summary.

    It only reads, so any number may watch. Without a terminal it prints one line an epoch. Ctrl-C leaves; the run goes
    on.

    Example:
        autobatch watch runs/digits-resnet8-beacon-follow-s0
    """
    from autobatch.report._follow import RunWatch

    try:
        _wait_for(run, wait)
        follow(RunWatch(run), console(), interval)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def follow(
    watched: "RunWatch", screen: "Console", interval: float, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Show a run until it has ended, then its summary.

    Args:
        watched: the run.
        screen: where to show it; a terminal gets one screen that changes, anything else a line an epoch.
        interval: seconds from one look to the next.
        sleep: what waits.
    """
    from autobatch.report import summary_view

    record = watched.look()
    if screen.is_terminal and not screen.is_dumb_terminal:
        if record.summary is None:
            record = _follow_on_screen(watched, screen, interval, sleep)
    else:
        record = _follow_in_lines(watched, screen, interval, sleep)
    screen.print(summary_view(record))


def _follow_on_screen(
    watched: "RunWatch", screen: "Console", interval: float, sleep: Callable[[float], None]
) -> "RunRecord":
    from rich.live import Live

    from autobatch.report._watch import watch_view

    with Live(console=screen, auto_refresh=False) as live:
        while (record := watched.look()).summary is None:
            live.update(watch_view(record, watched.silence(), screen.height), refresh=True)
            sleep(interval)
        live.transient = True  # the summary takes its place
    return record


def _follow_in_lines(
    watched: "RunWatch", screen: "Console", interval: float, sleep: Callable[[float], None]
) -> "RunRecord":
    from rich.text import Text

    from autobatch.report._follow import RunLines

    record, lines = watched.look(), RunLines()
    screen.print(Text(record.title), soft_wrap=True)
    while True:
        for line in lines.new(record, watched.silence()):
            screen.print(Text(line), soft_wrap=True)
        if record.summary is not None:
            return record
        sleep(interval)
        record = watched.look()


def _wait_for(run: Path, wait: float) -> None:
    """Return once a directory holds a run; refused after ``wait`` seconds."""
    from autobatch._errors import CheckpointError
    from autobatch.control.run import CONFIG, no_run

    until = time.monotonic() + wait
    if wait and not (run / CONFIG).exists():
        typer.echo(f"waiting up to {wait:g} s for a run in {run}", err=True)
    while not (run / CONFIG).exists():
        if time.monotonic() >= until:
            raise CheckpointError(f"{no_run(run)}; --wait SECONDS waits for one that is about to begin")
        time.sleep(min(0.2, wait))

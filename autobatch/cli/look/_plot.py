"""``autobatch plot``: the journey of a run as a picture."""

from pathlib import Path
from typing import Annotated

import typer

from autobatch.cli._options import RunDirectory


def plot(
    run: RunDirectory,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write: .png, .pdf or .svg. \\[default: RUN/plane.png]"),
    ] = None,
) -> None:
    """Draw a run's journey through the (C̄, L) plane over the landscape of its task's beacons.

    Example:
        autobatch plot runs/digits-resnet8-beacon-follow-s0 -o journey.pdf
    """
    from autobatch.report import check_format, read_run, save_plane

    target = output or run / "plane.png"
    check_format(target)
    record = read_run(run)
    save_plane(target, record, record.library)
    typer.echo(str(target))

"""``autobatch report``: runs as one page for a browser."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autobatch._errors import CheckpointError

if TYPE_CHECKING:
    from autobatch.report import RunRecord


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Run directories, finished or not, or folders of runs.", metavar="RUN")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write: .html. \\[default: report.html in RUN; here for several arguments]",
        ),
    ] = None,
) -> None:
    """Write runs into one HTML page: verdict, figures, the plane, curves, and every decision with its reason.

    Runs of the same task are drawn into one plane and compared; those of other tasks follow in sections of their own.
    The page needs a browser and nothing else, no network either; it holds plotly.js and so takes almost 2 MB.

    Examples:
        autobatch report runs/digits-resnet8-beacon-follow-s0

        autobatch report runs/digits-resnet8-* -o comparison.html

        autobatch report runs
    """
    from autobatch.report import check_page, save_html

    target = output or (runs[0] / "report.html" if len(runs) == 1 else Path("report.html"))
    check_page(target)
    save_html(target, _read(list(dict.fromkeys(one for run in runs for one in _found(run))), runs))
    typer.echo(str(target))


def _read(found: Sequence[Path], named: Sequence[Path]) -> "list[RunRecord]":
    """Read runs; of those in a folder one that is damaged is left out and told, unless it is the only one."""
    from autobatch.report import read_run

    records = []
    for path in found:
        try:
            records.append(read_run(path))
        except CheckpointError as error:
            if path in named or len(found) == 1:
                raise
            typer.echo(f"left out: {error}", err=True)
    if not records:
        raise CheckpointError(f"{named[0]}: every run in it is damaged")
    return records


def _found(run: Path) -> list[Path]:
    """Return a run directory or those below a folder, or name those that come near."""
    from autobatch.control.run import no_run
    from autobatch.report import find_runs

    if found := find_runs(run):
        return found
    raise CheckpointError(no_run(run))

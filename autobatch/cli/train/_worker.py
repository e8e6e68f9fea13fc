"""``autobatch worker`` and ``autobatch cells``: train what others have put in, and see where it stands."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autobatch.cli._console import console, interruptible
from autobatch.cli._options import DataDir, Device, FiguresAsJson, TrustCode

if TYPE_CHECKING:
    from autobatch.cells import Cell, Event

_LOOK_EVERY = 2.0

CellsFolder = Annotated[Path, typer.Argument(help="Folder of cells, or the env folder that it lies in.", metavar="DIR")]


def worker(
    folder: CellsFolder,
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds after which it ends and gives back what it has in hand.", min=1.0)
    ] = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    trust_code: TrustCode = False,
    ranks: Annotated[
        int, typer.Option(help="Processes of this machine that train each cell together, as torchrun has it.", min=1)
    ] = 1,
) -> None:
    """Train the cells of a folder, together with any number of others on any machines that share it.

    A recording with [bold]--jobs 0[/bold] puts cells in. What a dead worker has left goes on from its checkpoint;
    SIGTERM and SIGUSR2 end a worker with its cell given back.

    Example:
        autobatch worker envs/leaves --time-limit 3500
    """
    from autobatch.cells import Identity, Worker, find_cells
    from autobatch.evidence._workers import maker_for
    from autobatch.training._engine import resolve_device

    cells = find_cells(folder)
    make = maker_for(cells, device=device, data_dir=data_dir, trust_code=trust_code, ranks=ranks)
    identity = Identity(cells.workers, device=str(resolve_device(device)))
    at = Worker(cells, make, identity, tell=_told, seconds=time_limit)
    with interruptible(lambda: "what it had in hand is given back, the same command goes on"), at.signals():
        end = at.run()
    why = "ended as asked" if end.stopped else "nothing is left to take"
    status = "all cells are done" if cells.clear() else why
    typer.echo(f"{status}; {end.done} done and {end.failed} failed here, in {cells.folder}")


def cells(
    folder: CellsFolder,
    as_json: FiguresAsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it until all are done.")] = False,
) -> None:
    """Show where the cells of a folder stand: done, running where and since when, failed and why, waiting, time left.

    Example:
        autobatch cells envs/leaves
    """
    from rich.live import Live

    from autobatch._plain import plain
    from autobatch.cells import find_cells, status_of
    from autobatch.report import cells_lines

    found = find_cells(folder)
    status = status_of(found)
    if as_json:
        typer.echo(json.dumps(plain(status.to_dict()), indent=2))
        return
    if not watch:
        typer.echo("\n".join(cells_lines(status)))
        return
    with (
        interruptible(lambda: "nothing was changed"),
        Live("\n".join(cells_lines(status)), console=console(), auto_refresh=False) as live,
    ):
        while status.done + len(status.failed) < status.total and found.home.is_dir():
            time.sleep(_LOOK_EVERY)
            status = status_of(found)
            live.update("\n".join(cells_lines(status)), refresh=True)


def _told(cell: "Cell", event: "Event", value: object) -> None:
    if event == "done":
        typer.echo(f"{cell.name}: {getattr(value, 'stopped_because', value)}")
    elif event == "failed":
        typer.echo(f"failed: {cell.name}: {value}", err=True)
    elif event == "left":
        typer.echo(f"{cell.name}: given back")

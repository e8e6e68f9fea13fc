"""``autobatch figures``: the paper's figures, drawn from what is on disk."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    import pyarrow as pa

    from autobatch.beacons import BeaconLibrary

app = typer.Typer(no_args_is_help=True, help="Draw the paper's figures from beacons and comparisons.")


Format = Literal["png", "svg", "pdf"]
"""Formats that pictures are written in."""


@app.callback()
def _figures() -> None:
    """Draw the paper's figures from beacons and comparisons."""


@app.command()
def paper(
    out: Annotated[Path, typer.Option(help="Folder to write to; every task gets a folder in it.")],
    env: Annotated[
        list[str] | None,
        typer.Option(
            help="Beacons: a name, a folder or a Parquet file; again for more. "
            "\\[default: the tasks of the comparisons, else every library that is found]"
        ),
    ] = None,
    compare: Annotated[
        list[Path] | None,
        typer.Option(
            help="Directory of a comparison, or of several, for journeys of dynamic sampling; again for more."
        ),
    ] = None,
    picture: Annotated[Format, typer.Option("--format", help="Format of the pictures.")] = "png",
) -> None:
    """Draw our counterparts of the paper's figures 1 to 7, and judge its claims; nothing is trained.

    Example:
        autobatch figures paper --env digits-resnet8 --compare runs/compare --out figures
    """
    from autobatch._artefacts import find_library, library_names
    from autobatch.beacons import BeaconLibrary

    runs, epochs = _comparisons(compare or [])
    names = env or list(epochs) or library_names()
    libraries = [BeaconLibrary.load(find_library(name)) for name in names]
    for name in epochs.keys() - {library.task_name for library in libraries}:
        typer.echo(f"{name}: its comparison is left out, for no --env is that task")
    for library in libraries:
        _draw(library, runs.get(library.task_name), epochs.get(library.task_name), out / library.task_name, picture)


def _draw(
    library: "BeaconLibrary", runs: "pa.Table | None", epochs: "pa.Table | None", out: Path, picture: Format
) -> None:
    from autobatch._files import write_whole
    from autobatch.evidence import claims_json, claims_markdown, paper_claims
    from autobatch.report import draw_paper_figures
    from autobatch.report.paper import save_paper_figure

    for number, figure, reason in draw_paper_figures(library, epochs):
        if figure is None:
            typer.echo(f"{library.task_name}: no figure {number}: {reason}")
        else:
            typer.echo(str(save_paper_figure(figure, out / f"figure-{number}.{picture}")))
    claims = paper_claims(library, runs, epochs)
    for name, text in (("claims.md", claims_markdown(claims)), ("claims.json", claims_json(claims))):
        write_whole(out / name, text.encode())
        typer.echo(str(out / name))


def _comparisons(folders: list[Path]) -> tuple[dict[str, "pa.Table"], dict[str, "pa.Table"]]:
    """Return the runs and the epochs of comparisons by task; a folder may be one or hold one in each subfolder."""
    from autobatch._errors import ConfigError
    from autobatch._files import seen_in
    from autobatch.evidence import load_epochs_table, load_runs, tables_by_task

    runs: dict[str, pa.Table] = {}
    epochs: dict[str, pa.Table] = {}
    for folder in folders:
        inner = [path.parent for path in seen_in(folder, "*/runs.parquet")]
        for each in [folder] if (folder / "runs.parquet").is_file() or not inner else inner:
            of_epochs = tables_by_task(load_epochs_table(each))
            for name, table in tables_by_task(load_runs(each)).items():
                if name in runs:
                    raise ConfigError(
                        f"--compare {each}: another directory holds a comparison on '{name}' as well; name one"
                    )
                runs[name], epochs[name] = table, of_epochs[name]
    return runs, epochs

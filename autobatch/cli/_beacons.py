"""``autobatch beacons``: record the fixed runs that others are steered by, and look at them."""

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autobatch._artefacts import find_artefact, find_library
from autobatch.cli._console import console

if TYPE_CHECKING:
    from autobatch.training import RecordingResult

app = typer.Typer(no_args_is_help=True, help="Record beacons (runs at fixed batch size and rate) and look at them.")

Env = Annotated[
    str, typer.Argument(help="Library: a name (see 'autobatch beacons list') or a folder of beacons.", metavar="ENV")
]


@app.command()
def record(
    env: Annotated[str, typer.Option(help="Task: a name (see 'autobatch envs') or a path.")],
    batch_sizes: Annotated[
        str | None, typer.Option(help="Batch sizes of the grid, such as 8,16,32. [default: the task's ladder]")
    ] = None,
    lrs: Annotated[
        str | None, typer.Option(help="Base learning rates, such as 0.05,0.1. [default: the task's]")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, such as 0,1,2. [default: the task's]")] = None,
    jobs: Annotated[int, typer.Option(help="Trainings side by side.", min=1)] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or auto.")] = "auto",
    data_dir: Annotated[
        Path | None, typer.Option(help="Where datasets lie or are downloaded to. [default: data]")
    ] = None,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Allow the task to import the model factory that it names.")
    ] = False,
) -> None:
    """Train the grid of fixed runs of a task; finished ones are kept and not trained again.

    Example:
        autobatch beacons record --env digits-mlp --batch-sizes 16,64,256 --lrs 0.1 --seeds 0,1,2 --jobs 2
    """
    from autobatch.cli._recording import RecordingProgressBar
    from autobatch.training import load_task, record_task_beacons

    task, folder = load_task(env), _writable_folder(env)
    try:
        with RecordingProgressBar(console()) as progress:
            result = record_task_beacons(
                task,
                folder,
                batch_sizes=_integers(batch_sizes, "--batch-sizes"),
                learning_rates=_numbers(lrs, "--lrs"),
                seeds=_integers(seeds, "--seeds"),
                jobs=jobs,
                device=device,
                data_dir=data_dir,
                trust_code=trust_code,
                command=shlex.join(["autobatch", *sys.argv[1:]]),
                observer=progress,
            )
    except KeyboardInterrupt:
        typer.echo("\nautobatch: interrupted; finished beacons are kept, the same command goes on", err=True)
        raise typer.Exit(130) from None
    _tell(result, env, folder)


@app.command("list")
def list_() -> None:
    """List the beacon libraries that were found, with the best fixed configuration of each."""
    from autobatch.report import libraries_table

    console().print(libraries_table())


@app.command()
def show(
    env: Env,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Picture: .png, .pdf or .svg. [default: ENV-plane.png]")
    ] = None,
) -> None:
    """Show every configuration's final figures, best first, and draw where the beacons end in the plane."""
    from autobatch.beacons import BeaconLibrary
    from autobatch.report import check_format, library_table, save_plane

    library = BeaconLibrary.load(find_library(env))
    target = output or Path(f"{library.task_name}-plane.png")
    check_format(target)
    console().print(library_table(library))
    save_plane(target, None, library)
    typer.echo(f"The plane: {target}")


@app.command()
def compact(env: Env) -> None:
    """Gather the files that recorders wrote, one a beacon, into one file beacons.parquet."""
    from autobatch.beacons import BeaconLibrary
    from autobatch.beacons import compact as gather

    path = gather(find_library(env))
    typer.echo(f"{path}: {len(BeaconLibrary.load(path).beacons)} beacons")


def _writable_folder(env: str) -> Path:
    """Return the task's folder; for one that came with an installed package, a copy in ./envs."""
    folder = find_artefact("envs", env).parent
    if "_assets" not in folder.parts:
        return folder
    own = Path("envs") / folder.name
    own.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        if file.is_file() and not (own / file.name).exists():
            shutil.copyfile(file, own / file.name)
    return own


def _tell(result: "RecordingResult", env: str, folder: Path) -> None:
    from autobatch.report import seconds_words

    typer.echo(
        f"{result.recorded} beacons recorded in {seconds_words(result.seconds)}, {result.found} were there, in {folder}"
    )
    for name, message in result.failed.items():
        typer.echo(f"failed: {name}: {message}", err=True)
    typer.echo(f"Next: autobatch beacons show {shlex.quote(env)}\n      autobatch beacons compact {shlex.quote(env)}")
    if result.failed:
        raise typer.Exit(1)


def _integers(text: str | None, option: str) -> list[int] | None:
    numbers = _numbers(text, option)
    if numbers is None:
        return None
    if any(number != int(number) or number < 0 for number in numbers):
        raise typer.BadParameter(f"expected whole numbers such as 8,16,32, got {text!r}", param_hint=option)
    return [int(number) for number in numbers]


def _numbers(text: str | None, option: str) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise typer.BadParameter(f"expected numbers separated by commas, got {text!r}", param_hint=option) from None

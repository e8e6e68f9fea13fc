"""``autobatch beacons``: record the fixed runs that others are steered by, and look at them."""

import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autobatch._artefacts import expand_home, find_artefact, find_library, holds_beacons
from autobatch._remote import Place, is_url, place_of
from autobatch.cli._console import console, interruptible, recorded_command
from autobatch.cli._lists import integers, numbers
from autobatch.cli._options import CellJobs, DataDir, Device, Engine, TrustCode

if TYPE_CHECKING:
    from autobatch.beacons import BeaconLibrary
    from autobatch.cli.train._recording import RecordingProgressBar
    from autobatch.training import RecordingResult

app = typer.Typer(no_args_is_help=True, help="Record beacons (runs at fixed batch size and rate) and look at them.")

Env = Annotated[
    str,
    typer.Argument(
        help="Library: a name (see 'autobatch beacons list'), a folder of beacons, or its URL in object storage.",
        metavar="ENV",
    ),
]


@app.command()
def record(
    env: Annotated[str, typer.Option(help="Task: a name (see 'autobatch envs') or a path.")],
    batch_sizes: Annotated[
        str | None, typer.Option(help="Batch sizes of the grid, such as 8,16,32. \\[default: the task's ladder]")
    ] = None,
    lrs: Annotated[
        str | None, typer.Option(help="Base learning rates, such as 0.05,0.1. \\[default: the task's]")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, such as 0-2 or 0,5. \\[default: the task's]")] = None,
    jobs: CellJobs = 1,
    on: Engine = "local",
    device: Device = "auto",
    data_dir: DataDir = None,
    trust_code: TrustCode = False,
) -> None:
    """Train the grid of fixed runs of a task; finished ones are kept and not trained again.

    Example:
        autobatch beacons record --env digits-mlp --batch-sizes 16,64,256 --lrs 0.1 --seeds 0,1,2 --jobs 2
    """
    from autobatch.training import load_task, record_task_beacons

    task, folder = load_task(env), _writable_folder(env)
    with _watched("beacons", "beacons") as progress:
        result = record_task_beacons(
            task,
            folder,
            batch_sizes=integers(batch_sizes, "--batch-sizes", "8,16,32"),
            learning_rates=numbers(lrs, "--lrs"),
            seeds=integers(seeds, "--seeds", "0-2 or 0,5"),
            jobs=jobs,
            on=on,
            device=device,
            data_dir=data_dir,
            trust_code=trust_code,
            command=recorded_command(),
            observer=progress,
        )
    name = shlex.quote(env)
    following = f"Next: autobatch beacons show {name}\n      autobatch beacons compact {name}"
    _tell(result, "beacons", folder, trained=jobs > 0, following=following)


@app.command()
def branch(
    env: Annotated[str, typer.Option(help="Task with beacons: a name (see 'autobatch beacons list') or a path.")],
    batch_sizes: Annotated[
        str | None, typer.Option(help="Batch sizes of the trunks, such as 8,32,128. \\[default: the task's ladder]")
    ] = None,
    lrs: Annotated[
        str | None, typer.Option(help="Base learning rates of the trunks, such as 0.05,0.2. \\[default: the task's]")
    ] = None,
    epochs_at: Annotated[
        str | None,
        typer.Option(
            help="Finished epochs after which branches leave. \\[default: early, and about the schedule's milestones]",
            metavar="EPOCHS",
        ),
    ] = None,
    targets: Annotated[int, typer.Option(help="Branches at each of these; 0 trains no trunks.", min=0)] = 3,
    length: Annotated[int, typer.Option(help="Epochs of a branch.", min=1)] = 2,
    journeys: Annotated[
        int, typer.Option(help="Whole trainings that change size and rate at random epochs.", min=0)
    ] = 0,
    follow: Annotated[
        str | None,
        typer.Option(
            help="Policy that the journeys follow, but for one epoch in five; give another --seed.", metavar="POLICY"
        ),
    ] = None,
    least_sure: Annotated[
        bool,
        typer.Option("--least-sure", help="Of ten times as many journeys, those where the surrogate is least sure."),
    ] = False,
    jobs: CellJobs = 1,
    on: Engine = "local",
    seed: Annotated[
        int | None,
        typer.Option(help="First of the seeds, one a training. \\[default: 1000, above the beacons']", min=0),
    ] = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    trust_code: TrustCode = False,
    out: Annotated[Path | None, typer.Option(help="Folder that gets the branch runs. \\[default: the task's]")] = None,
) -> None:
    """Record what a change of size or rate does midway: continue fixed runs from the same state in other ways.

    Example:
        autobatch beacons branch --env digits-mlp --epochs-at 2,8,19,21,31 --targets 3 --journeys 20 --jobs 2

        autobatch beacons branch --env digits-mlp --targets 0 --journeys 10 --follow runs/mine/mine.yaml --seed 3000

        autobatch beacons branch --env digits-mlp --targets 0 --journeys 6 --least-sure --seed 2000
    """
    from autobatch.envs.surrogate import doubts_of
    from autobatch.policies import load_policy_spec
    from autobatch.training import load_task, record_task_branches, task_info

    task, library = load_task(env), _library_of(env, out)
    folder = out if out is not None else _writable_folder(env)
    doubts = doubts_of(library, find_artefact("envs", env).parent, task_info(task, library), folder)
    with _watched("trunks and journeys", "trunks") as progress:
        result = record_task_branches(
            task,
            folder,
            library,
            batch_sizes=integers(batch_sizes, "--batch-sizes", "8,16,32"),
            learning_rates=numbers(lrs, "--lrs"),
            epochs_at=integers(epochs_at, "--epochs-at", "2,8,19"),
            targets=targets,
            length=length,
            journeys=journeys,
            follow=load_policy_spec(follow) if follow is not None else None,
            doubts=doubts if least_sure else None,
            seed=seed,
            jobs=jobs,
            on=on,
            device=device,
            data_dir=data_dir,
            trust_code=trust_code,
            command=recorded_command(),
            observer=progress,
        )
    _tell(result, "trunks and journeys", folder, trained=jobs > 0)


@app.command("list")
def list_() -> None:
    """List the beacon libraries that were found, with the best fixed configuration of each."""
    from autobatch.report import libraries_table

    console().print(libraries_table())


@app.command()
def show(
    env: Env,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Picture: .png, .pdf or .svg. \\[default: ENV-plane.png]")
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
def compact(
    env: Env,
    runs: Annotated[
        Path | None,
        typer.Option(
            help="Run directory, or a folder of them: what scouts and forks trained joins the branch runs.",
            metavar="DIR",
        ),
    ] = None,
) -> None:
    """Gather the files that recorders wrote into one beacons.parquet, those of branch runs into branches.parquet.

    Examples:
        autobatch beacons compact digits-mlp

        autobatch beacons compact digits-mlp --runs runs/digits-mlp-steer-s0
    """
    from autobatch.beacons import BeaconLibrary, Branches, compact_branches, holds_branches
    from autobatch.beacons import compact as gather

    further = _found_runs(runs) if runs is not None else []
    folder: Place = place_of(env) if is_url(env) else expand_home(env)
    branches_alone = holds_branches(folder) and not holds_beacons(folder)
    if not branches_alone:
        folder = find_library(env)
        if further and isinstance(folder, Path):
            folder = _own(folder)
    before = len(Branches.load(folder).journeys) if further and holds_branches(folder) else 0
    if further:  # before anything else, as runs of another task are refused
        compact_branches(folder, further)
    if not branches_alone:
        path = gather(folder)
        typer.echo(f"{path}: {len(BeaconLibrary.load(path).beacons)} beacons")
    if holds_branches(folder):
        path = compact_branches(folder)
        now = len(Branches.load(path).journeys)
        new = f", {now - before} of them new" if further else ""
        typer.echo(f"{path}: {now} branches and journeys{new}")


def _found_runs(folder: Path) -> list[Path]:
    from autobatch.training.running import runs_with_branches  # takes a while, as it imports torch

    return runs_with_branches(folder)


def _writable_folder(env: str) -> Path:
    """Return the task's folder; for one that came with an installed package, a copy in ./envs."""
    return _own(find_artefact("envs", env).parent)


def _own(folder: Path) -> Path:
    if "_assets" not in folder.parts:
        return folder
    own = Path("envs") / folder.name
    own.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        if file.is_file() and not (own / file.name).exists():
            shutil.copyfile(file, own / file.name)
    return own


def _library_of(env: str, out: Path | None) -> "BeaconLibrary":
    """Return a task's beacons: those in the folder that gets the branch runs, or else in the task's own."""
    from autobatch.beacons import BeaconLibrary

    return BeaconLibrary.load(out if out is not None and holds_beacons(out) else find_artefact("envs", env).parent)


@contextmanager
def _watched(what: str, kept: str) -> "Iterator[RecordingProgressBar]":
    """Show how a recording goes, and say after Ctrl-C what is kept."""
    from autobatch.cli.train._recording import RecordingProgressBar

    with (
        interruptible(lambda: f"finished {kept} are kept, the same command goes on"),
        RecordingProgressBar(console(), what) as progress,
    ):
        yield progress


def _tell(result: "RecordingResult", what: str, folder: Path, *, trained: bool, following: str = "") -> None:
    """Say what was recorded, or where nothing was ``trained`` what waits for workers."""
    from autobatch.report import seconds_words

    if not trained:
        typer.echo(f"{result.elsewhere} wait to be trained, {result.found} were there, in {folder}")
        if result.elsewhere:
            place = shlex.quote(str(folder))
            typer.echo(
                f"Next, on any machines that share it: autobatch worker {place}\n"
                f"and to see where they stand: autobatch cells {place}"
            )
        return
    elsewhere = f", {result.elsewhere} left to another process" if result.elsewhere else ""
    typer.echo(
        f"{result.recorded} {what} recorded in {seconds_words(result.seconds)}, {result.found} were there{elsewhere}, "
        f"in {folder}"
    )
    if following:
        typer.echo(following)
    for name, message in result.failed.items():
        typer.echo(f"failed: {name}: {message}", err=True)
    if result.failed:
        raise typer.Exit(1)

"""``autobatch reproduce``: the paper's experiments, each with one command."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autobatch.cli._console import console, interruptible, recorded_command, same_command
from autobatch.cli._lists import whole_numbers
from autobatch.cli._options import DataDir, Device, Engine, SharedJobs
from autobatch.cli.evidence._lines import lines

if TYPE_CHECKING:
    from rich.table import Table

    from autobatch.evidence._reproduce import Reproduction, ReproductionObserver


def reproduce(
    name: Annotated[
        str | None,
        typer.Argument(help="Experiment: a name (without one, they are listed) or a YAML file.", metavar="NAME"),
    ] = None,
    size: Annotated[
        str, typer.Option(help="reduced: for two processor cores; full: as in the paper, for a GPU.", metavar="SIZE")
    ] = "reduced",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Directory of all that comes of it; what is there goes on. \\[default: runs/paper/NAME-SIZE]"
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="Seeds of the runs under policies, such as 100-104. \\[default: the experiment's]"),
    ] = None,
    jobs: SharedJobs = 1,
    on: Engine = "local",
    device: Device = "auto",
    data_dir: DataDir = None,
    list_only: Annotated[bool, typer.Option("--list", help="List the experiments and their runs.")] = False,
) -> None:
    """Carry out an experiment of the paper: record its beacons, train its policies, draw its figures, check its claims.

    Whatever is finished is kept, so the command can be stopped at any time and given again.

    Example:
        autobatch reproduce mnist-resnet --jobs 2

        autobatch reproduce cifar10-resnet --size full --device cuda --data-dir data
    """
    if name is None or list_only:
        console().print(_listing())
        return
    from autobatch.evidence._reproduce import load_paper_experiment, plan_experiment
    from autobatch.evidence._reproduce import reproduce as carry_out

    experiment = load_paper_experiment(name)
    plan = plan_experiment(
        experiment, size, None if seeds is None else whole_numbers(seeds, "--seeds", "100-109 or 100,105")
    )
    with interruptible(same_command):
        result = carry_out(
            plan,
            out or Path("runs") / "paper" / f"{experiment.name}-{size}",
            jobs=jobs,
            on=on,
            device=device,
            data_dir=data_dir,
            command=recorded_command(),
            observer=_observer(),
        )
    _tell(result)


def _observer() -> "ReproductionObserver":
    from autobatch.cli.train._recording import RecordingProgressBar
    from autobatch.evidence import BenchObserver
    from autobatch.evidence._reproduce import ReproductionObserver
    from autobatch.training import RecordingObserver

    class Stages(ReproductionObserver):
        """A line a stage; within it, the lines of its trainings."""

        def stage(self, number: int, stages: int, what: str) -> None:
            typer.echo(f"stage {number} of {stages}: {what}")

        def note(self, message: str) -> None:
            typer.echo(message)

        @contextmanager
        def recording(self) -> Iterator[RecordingObserver]:
            with RecordingProgressBar(console()) as progress:
                yield progress

        def comparing(self) -> BenchObserver:
            return lines(quiet=False)

    return Stages()


def _tell(result: "Reproduction") -> None:
    if result.failed:
        for name, message in result.failed.items():
            typer.echo(f"failed: {name}: {message}", err=True)
        typer.echo("The same command tries them again.", err=True)
    if result.claims:
        console().print(_verdicts(result))
        typer.echo(
            f"\nFiles are in {result.out}: claims.md (every claim with its figures), claims.json, "
            f"{len(result.figures)} pictures in figures, beacons in envs, runs and their tables in compare."
        )
    if result.failed:
        raise typer.Exit(1)


def _verdicts(result: "Reproduction") -> "Table":
    from rich.text import Text

    from autobatch.report._tables import named_facts

    table = named_facts()
    for claim in result.claims:
        table.add_row(claim.verdict, Text(f"{claim.name}: {claim.statement} ({claim.section})"))
    return table


def _listing() -> "Table":
    from autobatch.evidence._reproduce import ExperimentPlan, experiment_names, load_paper_experiment, plan_experiment
    from autobatch.report._tables import headed

    def cell(plan: ExperimentPlan) -> str:
        runs = f", {plan.runs} runs" if plan.runs else ""
        return f"{plan.task.name}\n{plan.beacons} beacons{runs}"

    headings = ("experiment", "sections", "--size full", "--size reduced")
    table = headed(*headings, words=headings)
    for name in experiment_names():
        experiment = load_paper_experiment(name)
        full, reduced = plan_experiment(experiment, "full"), plan_experiment(experiment, "reduced")
        table.add_row(name, experiment.section, cell(full), cell(reduced))
    return table

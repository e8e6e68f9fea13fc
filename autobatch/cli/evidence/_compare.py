"""``autobatch compare``: train policies beside the best fixed beacon of a task, with equal budgets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autobatch.cli.evidence._evaluating import interrupted, lines, names, seed_numbers

if TYPE_CHECKING:
    from autobatch.evidence import PolicyComparison


def compare(
    policies: Annotated[
        str,
        typer.Option(
            help="Policies, such as beacon-follow,s16-to-64-ms: names (see 'autobatch policies') or paths. The best "
            "fixed beacon is always among them."
        ),
    ],
    env: Annotated[
        str, typer.Option(help="Task that has beacons: a name (see 'autobatch envs') or path.")
    ] = "digits-resnet8",
    seeds: Annotated[
        str, typer.Option(help="Seeds that nothing was chosen by, such as 100-104 or 100,105.")
    ] = "100-104",
    out: Annotated[
        Path | None,
        typer.Option(help="Directory of runs and report; what is there goes on. \\[default: runs/compare-ENV]"),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Trainings side by side; their times by the clock are shared.", min=1)] = 1,
    measure_all: Annotated[
        bool, typer.Option("--measure-all", help="Measure runs too whose policy cannot look at it.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or auto.")] = "auto",
    data_dir: Annotated[
        Path | None, typer.Option(help="Where datasets lie or are downloaded to. \\[default: data]")
    ] = None,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Allow a task to import the model factory that it names.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON and nothing else.")] = False,
) -> None:
    """Train policies on fresh seeds beside the best fixed beacon: error, time, t-tests, and what the beacons cost.

    Every run is kept and none is trained twice, so the command can be stopped at any time and given again.

    Example:
        autobatch compare --env digits-mlp --policies beacon-follow,s16-to-64-ms --seeds 100-104
    """
    from autobatch.evidence import compare_policies
    from autobatch.evidence.compare import json_text
    from autobatch.training import load_task

    try:
        comparison = compare_policies(
            names(policies),
            env,
            seed_numbers(seeds),
            out=out or Path("runs") / f"compare-{load_task(env).name}",
            jobs=jobs,
            device=device,
            data_dir=data_dir,
            trust_code=trust_code,
            measure_all=measure_all,
            observer=lines(quiet=as_json),
        )
    except KeyboardInterrupt:
        raise interrupted() from None
    typer.echo(json_text(comparison) if as_json else f"\n{comparison.report()}\n{_files(comparison)}", nl=not as_json)
    if comparison.failed:
        raise typer.Exit(1)


def _files(comparison: "PolicyComparison") -> str:
    return (
        f"Files are in {comparison.out}: comparison.md (this), comparison.csv (one row a policy), comparison.json, "
        "comparison.png, runs.parquet, epochs.parquet, and every run."
    )

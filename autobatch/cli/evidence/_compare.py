"""``autobatch compare``: train policies beside baselines, with equal budgets, on any number of tasks."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autobatch.cli._console import interruptible, same_command
from autobatch.cli._lists import names, whole_numbers
from autobatch.cli._options import DataDir, Device, Engine, FiguresAsJson, SharedJobs
from autobatch.cli.evidence._lines import lines

if TYPE_CHECKING:
    from autobatch.beacons import CostTable


def compare(
    policies: Annotated[
        str,
        typer.Option(help="Policies, such as beacon-follow,s16-to-64-ms: names (see 'autobatch policies') or paths."),
    ],
    envs: Annotated[
        str,
        typer.Option(
            "--envs", "--env", help="Tasks, such as digits-mlp,digits-resnet8: names (see 'autobatch envs') or paths."
        ),
    ] = "digits-resnet8",
    against: Annotated[
        str,
        typer.Option(
            help="What to compare with, besides the best fixed beacon of each task: any of best-fixed, fixed, random, "
            "stages, beacon-follow, bandit, or other policies; or none."
        ),
    ] = "best-fixed",
    seeds: Annotated[
        str, typer.Option(help="Seeds that nothing was chosen by, such as 100-104 or 100,105.")
    ] = "100-104",
    epochs: Annotated[int | None, typer.Option(help="Length of every training, instead of the tasks'.", min=1)] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory of runs and report; what is there goes on. \\[default: runs/compare-TASKS]"),
    ] = None,
    jobs: SharedJobs = 1,
    on: Engine = "local",
    costs: Annotated[
        Path | None,
        typer.Option(help="Cost table in JSON to count and decide by. \\[default: the beacons', or timed here]"),
    ] = None,
    margin: Annotated[
        float, typer.Option(help="Relative difference of final test figures up to which a policy is no worse.")
    ] = 0.05,
    measure_all: Annotated[
        bool, typer.Option("--measure-all", help="Measure runs too whose policy cannot look at it.")
    ] = False,
    note_cards: Annotated[
        bool, typer.Option("--note-cards", help="Write what came of learned policies on their cards.")
    ] = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Allow a task to import the factories that it names.")
    ] = False,
    as_json: FiguresAsJson = False,
) -> None:
    """Train policies beside baselines on fresh seeds: error, time, tests, and whether they are no worse.

    Every run is kept and none is trained twice, so the command can be stopped at any time and given again.

    Example:
        autobatch compare --envs digits-mlp --policies beacon-follow,s16-to-64-ms --seeds 100-104
    """
    from autobatch.evidence.bench import compare_policies, comparison_json, comparison_markdown
    from autobatch.training import load_task

    tasks = names(envs)
    with interruptible(same_command):
        comparison = compare_policies(
            names(policies),
            tasks,
            whole_numbers(seeds, "--seeds", "100-109 or 100,105"),
            out=out or Path("runs") / "-".join(["compare", *(load_task(task).name for task in tasks)]),
            against=names(against),
            epochs=epochs,
            costs=None if costs is None else _cost_table(costs),
            margin=margin,
            jobs=jobs,
            on=on,
            device=device,
            data_dir=data_dir,
            trust_code=trust_code,
            measure_all=measure_all,
            note_cards=note_cards,
            observer=lines(quiet=as_json),
        )
    files = (
        f"Files are in {comparison.out}: comparison.md (this), comparison.csv (one row a task and policy), runs.csv, "
        "comparison.json, comparison.png, a comparison-TASK.png each, runs.parquet, epochs.parquet, and every run."
    )
    typer.echo(
        comparison_json(comparison) if as_json else f"\n{comparison_markdown(comparison)}\n{files}", nl=not as_json
    )
    if comparison.failed:
        raise typer.Exit(1)


def _cost_table(path: Path) -> "CostTable":
    """Read a cost table, as ``CostTable.to_dict`` writes it."""
    import json

    from autobatch._errors import ConfigError
    from autobatch.beacons import CostTable

    try:
        return CostTable.from_dict(json.loads(path.read_bytes()))
    except OSError as error:
        raise ConfigError(f"--costs {path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ConfigError(f"--costs {path}: expected a cost table in JSON: {error}") from None
    except ConfigError as error:
        raise ConfigError(
            f"--costs {path}: {error}; expected the keys device, step_seconds, measuring_seconds, epoch_seconds"
        ) from None

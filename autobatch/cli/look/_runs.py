"""``autobatch runs``: every run below a folder."""

import json
from pathlib import Path
from typing import Annotated

import typer

from autobatch.cli._console import console
from autobatch.cli._lists import names, whole_numbers
from autobatch.cli._options import FiguresAsJson


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder to look in.", metavar="[DIR]")] = Path("runs"),
    envs: Annotated[str | None, typer.Option(help="Only these tasks, such as digits-mlp,mnist-mlp.")] = None,
    policies: Annotated[str | None, typer.Option(help="Only these policies.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Only these seeds, such as 0-4,10.")] = None,
    states: Annotated[
        str | None, typer.Option(help="Only these: finished, stopped, diverged, interrupted, running, damaged.")
    ] = None,
    as_json: FiguresAsJson = False,
) -> None:
    """List every run below a folder: task, policy, seed, state and figures, a line each.

    Stopped runs were ended by their policy; interrupted ones go on with 'autobatch run --resume'.

    Examples:
        autobatch runs

        autobatch runs --policies steer --states finished,stopped

        autobatch runs comparison --json
    """
    from autobatch.report import chosen_runs, facts_dicts, load_run_facts, runs_table

    found = load_run_facts(folder)
    chosen = chosen_runs(
        found,
        envs=names(envs or ""),
        policies=names(policies or ""),
        seeds=whole_numbers(seeds, "--seeds", "0-4,10") if seeds is not None else (),
        states=names(states or ""),
    )
    if as_json:
        typer.echo(json.dumps(facts_dicts(chosen), indent=2, allow_nan=False))
    elif chosen:
        console().print(runs_table(chosen))
    else:
        fits = f"none of the {len(found)} runs in {folder} fits" if found else f"{folder}: holds no run"
        typer.echo(fits, err=True)

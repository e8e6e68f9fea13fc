"""``autobatch eval-policy``: train policies for real beside baselines, and say which is better."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autobatch.cli.evidence import interrupted, lines, names, seed_numbers

if TYPE_CHECKING:
    from autobatch.evidence import Evaluation


def eval_policy(
    policies: Annotated[
        list[str], typer.Argument(help="Policies: names (see 'autobatch policies') or paths.", metavar="POLICY...")
    ],
    envs: Annotated[
        str, typer.Option(help="Tasks, such as digits-mlp,digits-resnet8: names (see 'autobatch envs') or paths.")
    ] = "digits-resnet8",
    seeds: Annotated[
        str, typer.Option(help="Seeds that nothing was chosen by, such as 100-109 or 100,105.")
    ] = "100-109",
    baselines: Annotated[
        str,
        typer.Option(help="What to compare with: any of fixed, random, stages, beacon-follow, bandit; or none."),
    ] = "fixed,random,stages,beacon-follow,bandit",
    out: Annotated[
        Path, typer.Option(help="Directory of runs and report; an earlier evaluation there goes on.")
    ] = Path("runs/evaluation"),
    jobs: Annotated[int, typer.Option(help="Trainings side by side; their times by the clock are shared.", min=1)] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or auto.")] = "auto",
    data_dir: Annotated[
        Path | None, typer.Option(help="Where datasets lie or are downloaded to. \\[default: data]")
    ] = None,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Allow a task to import the model factory that it names.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON and nothing else.")] = False,
) -> None:
    """Train policies and baselines for real on fresh seeds, and compare them with intervals and tests.

    Every run is kept and none is trained twice, so the command can be stopped at any time and given again.

    Example:
        autobatch eval-policy beacon-follow --envs digits-mlp --seeds 100-104 --baselines fixed,random
    """
    from autobatch.evidence import evaluate_policies
    from autobatch.evidence.evaluate import json_text

    try:
        evaluation = evaluate_policies(
            policies,
            names(envs),
            seed_numbers(seeds),
            out=out,
            baselines=names(baselines),
            jobs=jobs,
            device=device,
            data_dir=data_dir,
            trust_code=trust_code,
            observer=lines(quiet=as_json),
        )
    except KeyboardInterrupt:
        raise interrupted() from None
    typer.echo(json_text(evaluation) if as_json else f"\n{evaluation.report()}\n{_files(evaluation)}", nl=not as_json)
    if evaluation.failed:
        raise typer.Exit(1)


def _files(evaluation: "Evaluation") -> str:
    return (
        f"Files are in {evaluation.out}: report.md (this), results.csv (one row a run), evaluation.json, "
        "evaluation.png, and every run."
    )

"""``autobatch eval-policy``: train policies for real beside baselines, and say which is better."""

import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from autobatch.learn import Evaluation, EvaluationObserver

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

_MOST_SEEDS = 10_000


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
    from autobatch.learn import evaluate_policies
    from autobatch.learn._evaluate_report import json_text

    try:
        evaluation = evaluate_policies(
            policies,
            _names(envs),
            _numbers(seeds),
            out=out,
            baselines=_names(baselines),
            jobs=jobs,
            device=device,
            data_dir=data_dir,
            trust_code=trust_code,
            observer=_observer(quiet=as_json),
        )
    except KeyboardInterrupt:
        again = shlex.join(["autobatch", *sys.argv[1:]])
        typer.echo(f"\nautobatch: interrupted; finished runs are kept, the same command goes on: {again}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(json_text(evaluation) if as_json else f"\n{evaluation.report()}\n{_files(evaluation)}", nl=not as_json)
    if evaluation.failed:
        raise typer.Exit(1)


def _observer(*, quiet: bool) -> "EvaluationObserver":
    from autobatch.learn import EvaluationObserver, EvaluationProgress
    from autobatch.report import loss_words, percent_words, seconds_words
    from autobatch.training import Summary

    class Lines(EvaluationObserver):
        """A line an event; on stderr where stdout is for JSON."""

        def note(self, message: str) -> None:
            self._say(message)

        def started(self, progress: EvaluationProgress) -> None:
            self._say(f"{progress.total} runs, {progress.done} of them are there already{self._left(progress)}")

        def run_finished(self, name: str, summary: Summary, progress: EvaluationProgress) -> None:
            width = len(str(progress.total))
            ended = "" if summary.stopped_because == "finished" else f" {summary.stopped_because};"
            self._say(
                f"{progress.done:{width}d}/{progress.total}  {name}:{ended} validation loss "
                f"{loss_words(summary.validation_loss)}, error {percent_words(summary.validation_error)}, "
                f"{seconds_words(summary.seconds)}{self._left(progress)}"
            )

        def run_failed(self, name: str, message: str) -> None:
            typer.echo(f"failed: {name}: {message}", err=True)

        def _left(self, progress: EvaluationProgress) -> str:
            if not math.isfinite(progress.seconds_left) or progress.done == progress.total:
                return ""
            return f"; about {seconds_words(progress.seconds_left)} left"

        def _say(self, text: str) -> None:
            typer.echo(text, err=quiet)

    return Lines()


def _files(evaluation: "Evaluation") -> str:
    return (
        f"Files are in {evaluation.out}: report.md (this), results.csv (one row a run), evaluation.json, "
        "evaluation.png, and every run."
    )


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str) -> list[int]:
    found: list[int] = []
    for part in _names(text):
        first, dash, last = part.partition("-")
        try:
            low, high = int(first), int(last) if dash else int(first)
        except ValueError:
            low, high = 1, 0
        if not 0 <= low <= high < 2**63 or high - low >= _MOST_SEEDS:
            raise typer.BadParameter(
                f"expected whole numbers and ranges such as 100-109 or 100,105, got {part!r}", param_hint="--seeds"
            )
        found += range(low, high + 1)
    if not found:
        raise typer.BadParameter("expected at least one seed, such as 100-109", param_hint="--seeds")
    return found

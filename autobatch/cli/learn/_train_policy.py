"""``autobatch train-policy``: learn a policy by reinforcement learning."""

import re
import shlex
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from autobatch.cli._console import console

if TYPE_CHECKING:
    from autobatch.learn import LearnedResult, LearningObserver, LearningPlan

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

_LINES_A_SEED = 12

_MOST = 10_000
"""Numbers that a range may stand for."""


def train_policy(
    env: Annotated[
        str, typer.Option(help="Tasks, such as digits-resnet8,digits-mlp: names (see 'autobatch envs') or paths.")
    ] = "digits-resnet8",
    on: Annotated[
        str, typer.Option(help="surrogate (fitted to beacons and branch runs), or train (real trainings).")
    ] = "surrogate",
    algorithm: Annotated[
        str, typer.Option("--algo", help="cem, dqn or ppo; the last two need the extra 'rl'.")
    ] = "cem",
    steps: Annotated[
        int | None,
        typer.Option(
            help="Steps of each seed, an epoch each. \\[default: 3000000 on surrogates, 20000 in training]", min=1
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, such as 0-2 or 0,5; the best policy is kept.")] = "0",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the policy and its checkpoints. \\[default: runs/ALGO-ENV]")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the learning that --out holds.")] = False,
    actions: Annotated[
        str | None, typer.Option(help="multidiscrete or discrete. \\[default: discrete for dqn, else multidiscrete]")
    ] = None,
    hidden: Annotated[str, typer.Option(help="Widths of the network's hidden layers, such as 32,32.")] = "16",
    cost: Annotated[
        str, typer.Option(help="Cost unit: modelled, examples, flops, or measured (in training).")
    ] = "modelled",
    cost_weight: Annotated[
        float, typer.Option(help="Quality that a training as dear as the best fixed beacon's is worth.")
    ] = 0.05,
    pessimism: Annotated[float, typer.Option(help="Weight of the surrogate's disagreement in the reward.")] = 0.0,
    jobs: Annotated[int, typer.Option(help="Real trainings side by side.", min=1)] = 1,
    epochs: Annotated[int | None, typer.Option(help="Length of real trainings, instead of the task's.", min=1)] = None,
    device: Annotated[str, typer.Option(help="Device of real trainings: cpu, cuda, cuda:1 or auto.")] = "auto",
    data_dir: Annotated[
        Path | None, typer.Option(help="Where datasets lie or are downloaded to. \\[default: data]")
    ] = None,
) -> None:
    """Learn a policy that chooses batch size and learning rate, and write it for 'autobatch run --policy'.

    With several tasks, each episode draws one, and the policy runs on any ladder.

    Examples:
        autobatch train-policy --env digits-resnet8 --out runs/mine

        autobatch train-policy --env digits-resnet8,digits-mlp --algo ppo --actions discrete --steps 500000

        autobatch train-policy --env digits-mlp --on train --epochs 10 --jobs 2 --steps 4000
    """
    from autobatch._artefacts import find_artefact
    from autobatch.learn import STEPS, LearningPlan
    from autobatch.learn import train_policy as learn

    names = tuple(name for name in (part.strip() for part in env.split(",")) if name)
    for name in names:
        find_artefact("envs", name)
    plan = LearningPlan(
        envs=names,
        on=cast("Literal['surrogate', 'train']", on),
        algorithm=algorithm,
        steps=steps if steps is not None else STEPS.get(on, 1),
        seeds=_numbers(seeds, "--seeds"),
        actions=cast(
            "Literal['multidiscrete', 'discrete']", actions or ("discrete" if algorithm == "dqn" else "multidiscrete")
        ),
        hidden=_numbers(hidden, "--hidden"),
        cost=cost,
        cost_weight=cost_weight,
        pessimism=pessimism,
        jobs=jobs,
        epochs=epochs,
        device=device,
    )
    place = out if out is not None else Path("runs") / f"{algorithm}-{'-'.join(Path(name).name for name in names)}"
    command = shlex.join(["autobatch", *sys.argv[1:]])
    try:
        with _Watcher() as watcher:
            result = learn(plan, place, watcher.observer(), resume=resume, data_dir=data_dir, command=command)
    except KeyboardInterrupt:
        typer.echo(f"\nautobatch: interrupted; go on with the same command and --resume (kept in {place})", err=True)
        raise typer.Exit(INTERRUPTED) from None
    _tell(plan, result)


def _tell(plan: "LearningPlan", result: "LearnedResult") -> None:
    for seed, score in result.returns.items():
        kept = "  (kept)" if seed == result.best_seed and len(result.returns) > 1 else ""
        typer.echo(f"seed {seed}: mean return {score:.4f} on new episodes{kept}")
    typer.echo(f"{plan.steps * len(plan.seeds)} steps in {result.seconds:.0f} s; the policy is {result.policy}")
    env = shlex.quote(plan.envs[0])
    policy = shlex.quote(str(result.policy))
    typer.echo(f"Next: autobatch compare --policies {policy} --envs {env} --against beacon-follow,fixed")
    typer.echo(f"      autobatch run --env {env} --policy {policy}")


class _Watcher:
    """Prints a few lines a seed; on a terminal, a bar below shows the rest."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[score]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console(),
            transient=True,
            disable=not console().is_terminal,
        )
        self._task = self._bar.add_task("", total=None, score="")
        self._told: tuple[int, int] = (-1, -1)
        self._clock = time.monotonic()

    def __enter__(self) -> "_Watcher":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def observer(self) -> "LearningObserver":
        """Return what the learning calls."""
        from autobatch.learn import LearningObserver, LearningProgress

        watcher = self

        class Observer(LearningObserver):
            def progressed(self, progress: LearningProgress) -> None:
                watcher._progressed(progress.seed, progress.steps, progress.total, progress.score)

            def seed_finished(self, seed: int, score: float) -> None:
                console().print(f"seed {seed}: done, mean return {score:.4f} on new episodes", highlight=False)

        return Observer()

    def _progressed(self, seed: int, steps: int, total: int, score: float) -> None:
        steps = min(steps, total)  # the last round may go beyond the end
        self._bar.update(
            self._task, description=f"seed {seed}", total=total, completed=steps, score=f"mean return {score:.3f}"
        )
        part = (seed, steps * _LINES_A_SEED // total)
        if part != self._told:
            self._told = part
            console().print(f"seed {seed}: {steps:>9,} of {total:,} steps, mean return {score:.4f}", highlight=False)


def _numbers(text: str, option: str) -> tuple[int, ...]:
    """Return the numbers of a list such as ``0-2,7``.

    Raises:
        BadParameter: it is no such list.
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if not first <= last < first + _MOST:
            raise typer.BadParameter(f"expected numbers such as 0-2 or 0,5, got {text!r}", param_hint=option)
        found += range(first, last + 1)
    return tuple(found)

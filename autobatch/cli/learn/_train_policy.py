"""``autobatch train-policy``: learn a policy by reinforcement learning."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from autobatch.cli._console import console, interruptible, recorded_command
from autobatch.cli._lists import names, whole_numbers
from autobatch.cli._options import DataDir

if TYPE_CHECKING:
    from autobatch.learn import LearnedResult, LearningPlan


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
    hidden: Annotated[
        str | None, typer.Option(help="Widths of the network's hidden layers, such as 32,32. \\[default: 16]")
    ] = None,
    begin: Annotated[
        str | None,
        typer.Option(
            help="A learned policy to begin with (cem), whose network and kind of actions are taken over, such as one "
            "of the surrogate's that goes on to learn on real trainings.",
            metavar="POLICY",
        ),
    ] = None,
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
    engine: Annotated[
        str,
        typer.Option(
            help="What starts the workers of real trainings (cem): local, slurm or ray, with its own settings after a "
            "colon, such as slurm:partition=gpu."
        ),
    ] = "local",
    data_dir: DataDir = None,
) -> None:
    """Learn a policy that chooses batch size and learning rate, and write it for 'autobatch run --policy'.

    With several tasks, each episode draws one, and the policy runs on any ladder.

    Examples:
        autobatch train-policy --env digits-resnet8 --out runs/mine

        autobatch train-policy --env digits-resnet8,digits-mlp --algo ppo --actions discrete --steps 500000

        autobatch train-policy --env digits-mlp --on train --epochs 10 --jobs 2 --steps 4000

        autobatch train-policy --env digits-mlp --on train --begin learned-digits-mlp --steps 8000
    """
    from autobatch._artefacts import find_artefact
    from autobatch.cli.learn._progress import LearningProgressBar
    from autobatch.learn import STEPS, LearningPlan, begun_with
    from autobatch.learn import train_policy as learn

    envs = tuple(names(env))
    for name in envs:
        find_artefact("envs", name)
    known = None if begin is None else begun_with(begin)
    widths = known.sizes[1:-1] if known and not hidden else tuple(whole_numbers(hidden or "16", "--hidden", "32,32"))
    kind = actions or (known.actions if known else "discrete" if algorithm == "dqn" else "multidiscrete")
    plan = LearningPlan(
        envs=envs,
        on=cast("Literal['surrogate', 'train']", on),
        algorithm=algorithm,
        steps=steps if steps is not None else STEPS.get(on, 1),
        seeds=tuple(whole_numbers(seeds, "--seeds", "0-2 or 0,5")),
        actions=cast("Literal['multidiscrete', 'discrete']", kind),
        hidden=widths,
        cost=cost,
        cost_weight=cost_weight,
        pessimism=pessimism,
        jobs=jobs,
        epochs=epochs,
        device=device,
        begin=begin,
    )
    place = out if out is not None else Path("runs") / f"{algorithm}-{'-'.join(Path(name).name for name in envs)}"
    with (
        interruptible(lambda: f"go on with the same command and --resume (kept in {place})"),
        LearningProgressBar(console()) as progress,
    ):
        result = learn(
            plan, place, progress, resume=resume, data_dir=data_dir, command=recorded_command(), engine=engine
        )
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

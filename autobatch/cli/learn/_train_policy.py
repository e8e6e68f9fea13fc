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

ALL = "all"


def train_policy(
    env: Annotated[
        str,
        typer.Option(
            help="Tasks, such as digits-resnet8,digits-mlp: names (see 'autobatch envs') or paths; or all that have "
            "been recorded: all."
        ),
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
        str | None,
        typer.Option(
            help="multidiscrete or discrete: moves on the ladders of a task with beacons. steered: departures from "
            "steer on any task (cem). forked: the same, and a change may be tried for an epoch first. \\[default: "
            "discrete for dqn, else multidiscrete]"
        ),
    ] = None,
    hidden: Annotated[
        str | None,
        typer.Option(
            help="Widths of the network's hidden layers, such as 32,32. \\[default: 16; none for steered and forked]"
        ),
    ] = None,
    begin: Annotated[
        str | None,
        typer.Option(
            help="A learned policy to begin with (cem), whose network and kind of actions are taken over, such as one "
            "of the surrogate's that goes on to learn on real trainings; it is kept where nothing better is found.",
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

    With several tasks, each episode draws one, and the policy runs on any ladder. One of steered or forked actions runs
    on any task, and where nothing better than the rule is found it is the rule.

    Examples:
        autobatch train-policy --env digits-resnet8 --out runs/mine

        autobatch train-policy --env digits-resnet8,digits-mlp --algo ppo --actions discrete --steps 500000

        autobatch train-policy --env digits-mlp --on train --epochs 10 --jobs 2 --steps 4000

        autobatch train-policy --env digits-mlp --on train --begin learned-digits-mlp --steps 8000

        autobatch train-policy --env all --actions steered --out runs/general

        autobatch train-policy --env mnist10k-mlp --on train --begin learned-general --jobs 2 --steps 3200
    """
    from autobatch._artefacts import find_artefact
    from autobatch.cli.learn._progress import LearningProgressBar
    from autobatch.learn import STEPS, LearningPlan, begun_with
    from autobatch.learn import train_policy as learn
    from autobatch.policies._moves import STEERING

    known = None if begin is None else begun_with(begin)
    kind = actions or (known.actions if known else "discrete" if algorithm == "dqn" else "multidiscrete")
    envs = tuple(names(env)) if env != ALL else _recorded(branched=on == "surrogate" and kind not in STEERING)
    for name in envs:
        find_artefact("envs", name)
    widths: tuple[int, ...] = () if kind in STEERING else (16,)
    if hidden:
        widths = tuple(whole_numbers(hidden, "--hidden", "32,32"))
    elif known:
        widths = known.sizes[1:-1]
    plan = LearningPlan(
        envs=envs,
        on=cast("Literal['surrogate', 'train']", on),
        algorithm=algorithm,
        steps=steps if steps is not None else STEPS.get(on, 1),
        seeds=tuple(whole_numbers(seeds, "--seeds", "0-2 or 0,5")),
        actions=cast("Literal['multidiscrete', 'discrete', 'steered', 'forked']", kind),
        hidden=widths,
        cost=cost,
        cost_weight=cost_weight,
        pessimism=pessimism,
        jobs=jobs,
        epochs=epochs,
        device=device,
        begin=begin,
    )
    told = [ALL] if env == ALL else [Path(name).name for name in envs]
    place = out if out is not None else Path("runs") / f"{algorithm}-{'-'.join(told)}"
    with (
        interruptible(lambda: f"go on with the same command and --resume (kept in {place})"),
        LearningProgressBar(console()) as progress,
    ):
        result = learn(
            plan, place, progress, resume=resume, data_dir=data_dir, command=recorded_command(), engine=engine
        )
    _tell(plan, result)


def _recorded(*, branched: bool) -> tuple[str, ...]:
    """Return the names of all tasks with beacons, and, where that is asked, branch runs."""
    from autobatch._artefacts import artefact_names, find_artefact, holds_beacons
    from autobatch.beacons import holds_branches

    folders = {name: find_artefact("envs", name).parent for name in artefact_names("envs")}
    return tuple(name for name, own in folders.items() if holds_beacons(own) and (holds_branches(own) or not branched))


def _tell(plan: "LearningPlan", result: "LearnedResult") -> None:
    from autobatch.policies._moves import STEERING

    for seed, score in result.returns.items():
        kept = "  (kept)" if seed == result.best_seed and len(result.returns) > 1 else ""
        typer.echo(f"seed {seed}: mean return {score:.4f} on new episodes{kept}")
    typer.echo(f"{plan.steps * len(plan.seeds)} steps in {result.seconds:.0f} s; the policy is {result.policy}")
    if result.above_rule is not None:
        mean, error = result.above_rule
        typer.echo(f"return above the rule's: {mean:+.4f} ± {error:.4f}, on the same new episodes")
    if result.nothing_better:
        typer.echo(f"nothing better than {plan.begin or 'the rule of steer'} was found: it is kept")
    env = shlex.quote(plan.envs[0])
    policy = shlex.quote(str(result.policy))
    against = "steer" if plan.actions in STEERING else "beacon-follow,fixed"
    typer.echo(f"Next: autobatch compare --policies {policy} --envs {env} --against {against}")
    typer.echo(f"      autobatch run --env {env} --policy {policy}")

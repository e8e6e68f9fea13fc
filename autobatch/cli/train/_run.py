"""``autobatch run``: train one network under a policy."""

import json
import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autobatch._files import seen_in
from autobatch.cli._console import console, interruptible
from autobatch.cli._options import DataDir, TrustCode
from autobatch.cli.train._place import reserved
from autobatch.training.running._launched import begun_before, joined, launched

if TYPE_CHECKING:
    from autobatch.training import RunConfig

DIVERGED = 1
"""Exit code of a training that has diverged."""


def run(
    config: Annotated[
        str | None, typer.Option(help="Experiment to start from: a name in configs/ or a YAML file.", metavar="NAME")
    ] = None,
    env: Annotated[
        str | None, typer.Option(help="Task: a name (see 'autobatch envs') or a path. \\[default: digits-resnet8]")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="Policy: a name (see 'autobatch policies') or a path. \\[default: beacon-follow]")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Length of the training, instead of the task's.", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random. \\[default: 0]", min=0)] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or auto. \\[default: auto]")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run directory. \\[default: runs/ENV-POLICY-SET-sSEED, numbered where taken]"),
    ] = None,
    data_dir: DataDir = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue the run in this directory, bit-identically.", metavar="DIR")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change one key of the task or policy, such as task.epochs=20; repeatable.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    scouts: Annotated[
        str | None,
        typer.Option(
            help="Short trainings made first: how many rates at most (2 or more), auto (3, or 5 where no rates are "
            "named) or none.",
            metavar="N",
        ),
    ] = None,
    scout_share: Annotated[
        float | None,
        typer.Option(
            help="Share of the training that each of them takes; more, up to 0.1, until it has taken 60 steps. "
            "\\[default: 0.05]",
            min=0.001,
            max=0.25,
        ),
    ] = None,
    measure: Annotated[bool | None, typer.Option("--measure/--no-measure", help="Measure C̄ and L.")] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Time this machine rather than trust a recorded cost table.")
    ] = False,
    trust_code: TrustCode = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be trained, how long it takes and what it needs; no more.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the run directory.")] = False,
) -> None:
    """Train a network while a policy chooses batch size and learning rate, and keep every record.

    Examples:
        autobatch run --policy steer

        autobatch run --policy s32-to-128 --seed 1 --out runs/dynamic

        autobatch run --env mnist-resnet8 --policy s64-lr0.1 --set task.dataset.subset=10000 --epochs 10

        autobatch run --env mnist-mlp --policy '0:32 5e:128' --dry-run

        autobatch run --resume runs/dynamic
    """
    given = {
        "--epochs": [] if epochs is None else [f"task.epochs={epochs}"],
        "--set": assignments or [],
    }
    options = {"env": env, "policy": policy, "seed": seed, "device": device}
    named = {key: value for key, value in options.items() if value is not None}
    if resume is None:
        settings = _new(config, named, given)
    else:
        if out is not None or config is not None:
            raise typer.BadParameter("--resume continues in its own directory with its own configuration")
        settings = _stored(resume, named, given)
    settings = _with_scouts(settings, scouts, scout_share)
    ignored = _ignored_beside_beacons(settings, scouts, scout_share)
    changes: dict[str, object] = {"calibrate": calibrate, "trust_code": trust_code}
    if data_dir is not None:
        changes["data_dir"] = data_dir.absolute()
    if measure is not None:
        changes["measure"] = measure
    settings = settings.model_copy(update=changes)
    if dry_run and resume is not None:
        raise typer.BadParameter("--dry-run is for a run that has not begun", param_hint="--resume")
    place = resume or out
    if place is None and launched() and not dry_run:
        raise typer.BadParameter(
            "torchrun starts processes that share a run directory, and starts them again when one dies: say which it "
            "is, --out DIR",
            param_hint="--out",
        )
    with reserved(settings, given) if place is None else nullcontext(place) as directory:
        if dry_run:
            _rehearse(settings, directory, as_json=as_json, ignored=ignored)
        else:
            again = resume is not None or begun_before(directory)
            with joined(settings.device) as leads:
                _train(settings, directory, resume=again, as_json=as_json, quiet=quiet, leads=leads, ignored=ignored)


def _new(config: str | None, named: dict[str, Any], given: dict[str, list[str]]) -> "RunConfig":
    from autobatch.training import ExperimentSpec, load_experiment, resolve

    experiment = load_experiment(config) if config is not None else ExperimentSpec()
    return resolve(experiment.model_copy(update=named), given)


def _stored(resume: Path, named: dict[str, Any], given: dict[str, list[str]]) -> "RunConfig":
    """Return the stored configuration with what was asked for on top; the run refuses what differs."""
    from autobatch.policies import load_policy_spec
    from autobatch.training import load_run_config, load_task, override

    stored = load_run_config(resume)
    task = load_task(named.pop("env")) if "env" in named else stored.task
    policy = load_policy_spec(named.pop("policy")) if "policy" in named else stored.policy
    task, policy = override(task, policy, given)
    return stored.model_copy(update={"task": task, "policy": policy, **named})


def _with_scouts(config: "RunConfig", scouts: str | None, share: float | None) -> "RunConfig":
    """Return the configuration with the scouts that were asked for."""
    from autobatch.policies import policy_kinds
    from autobatch.training import override

    asked = {
        "--scouts": [] if scouts is None else [f"scouts={_number_of_scouts(scouts)}"],
        "--scout-share": [] if share is None else [f"scout_share={share}"],
    }
    place = _place_of_scouting(config.policy.kind)
    for option, some in asked.items():
        if some and place is None:
            raise typer.BadParameter(
                f"policy '{config.policy.name}' makes no scouts; policies of the kinds "
                f"{', '.join(repr(kind) for kind in policy_kinds() if _place_of_scouting(kind) is not None)} do, those "
                "that follow beacons where a task has none",
                param_hint=option,
            )
    placed = {option: [f"{place}.{one}" for one in some] for option, some in asked.items() if some}
    task, policy = override(config.task, config.policy, placed)
    return config.model_copy(update={"task": task, "policy": policy})


def _ignored_beside_beacons(config: "RunConfig", scouts: str | None, share: float | None) -> str:
    """Return what to say, should there be beacons, of scouts that were asked for; empty where none were."""
    from autobatch.policies import make_policy

    asked = share is not None or (scouts is not None and _number_of_scouts(scouts) > 0)
    if not asked or not make_policy(config.policy).needs_library:
        return ""
    option = "--scout-share" if scouts is None else "--scouts"
    return (
        f"{option} is ignored: '{config.policy.name}' follows the beacons of this task, which say more than scouts do; "
        "--policy steer makes scouts"
    )


def _place_of_scouting(kind: str) -> str | None:
    """Return where a kind of policy has the parameters of its scouts, its own or those of ``steer``; None without."""
    from autobatch.policies import SteerParameters, policy_kind

    fields = policy_kind(kind).parameters.model_fields
    if "scout_share" in fields:
        return "policy.parameters"
    inner = (name for name, field in fields.items() if field.annotation is SteerParameters)
    return next((f"policy.parameters.{name}" for name in inner), None)


def _number_of_scouts(scouts: str) -> int:
    from autobatch.policies.steer import MOST

    if scouts in _WORDS:
        return {"auto": MOST, "none": 0}[scouts]
    if scouts.isdecimal() and int(scouts) <= SCOUTS_AT_MOST:
        return int(scouts)
    raise typer.BadParameter(
        f"expected auto, none or a number up to {SCOUTS_AT_MOST}, got {scouts!r}", param_hint="--scouts"
    )


_WORDS = ("auto", "none")
SCOUTS_AT_MOST = 16


def _train(
    config: "RunConfig", place: Path, *, resume: bool, as_json: bool, quiet: bool, leads: bool, ignored: str
) -> None:
    from autobatch.training import RunObserver
    from autobatch.training import run as train

    again = f"what is finished is kept; continue with: autobatch run --resume {shlex.quote(str(place))}"
    with interruptible(lambda: again if seen_in(place, "*") else "nothing had begun"):
        if quiet or as_json or not leads:
            summary = train(config, place, RunObserver(), resume=resume)
        else:
            from autobatch.cli.train._progress import RunProgress

            with RunProgress(console(), ignored=ignored) as progress:
                summary = train(config, place, progress, resume=resume)
    if leads:
        from autobatch.report import read_run, save_plane, summary_view

        record = read_run(place)
        save_plane(place / "plane.png", record, record.library)
        if as_json:
            typer.echo(summary.model_dump_json(indent=2))
        elif quiet:
            typer.echo(str(place))
        else:
            console().print(summary_view(record))
    if summary.stopped_because != "finished":
        raise typer.Exit(DIVERGED)


def _rehearse(config: "RunConfig", place: Path, *, as_json: bool, ignored: str) -> None:
    from autobatch.training.running import rehearse, told_rehearsal

    rehearsal = rehearse(config, place)
    if as_json:
        told = dict(rehearsal.facts) | {"seconds": rehearsal.seconds, "missing": rehearsal.missing}
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        followed = ignored and rehearsal.missing is None and "scouts" not in dict(rehearsal.facts)
        typer.echo("\n".join([*told_rehearsal(rehearsal), *([ignored] if followed else [])]))

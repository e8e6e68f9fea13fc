"""``autobatch surrogate``: how far a task's surrogate dynamics can be trusted."""

import math
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autobatch.cli._options import FiguresAsJson

if TYPE_CHECKING:
    from autobatch.evidence import Fidelity, PolicyAgreement
    from autobatch.policies import PolicySpec


def surrogate(
    env: Annotated[str, typer.Argument(help="Task with beacons and branch runs: a name or a path.", metavar="ENV")],
    runs: Annotated[
        Path | None,
        typer.Option(help="Folder of real runs, such as compare's OUT/TASK; policies are compared with these."),
    ] = None,
    as_json: FiguresAsJson = False,
) -> None:
    """Measure how far the surrogate of a task can be trusted, on journeys it was not fitted to.

    Examples:
        autobatch surrogate digits-resnet8

        autobatch surrogate digits-resnet8 --runs runs/compare/digits-resnet8
    """
    from dataclasses import asdict

    from autobatch._artefacts import find_artefact
    from autobatch._plain import to_json
    from autobatch.beacons import BeaconLibrary, Branches
    from autobatch.envs.surrogate import alike, load_dynamics
    from autobatch.evidence import measure_fidelity, policy_agreement
    from autobatch.training import load_task, task_info

    folder = find_artefact("envs", env).parent
    library, branches = BeaconLibrary.load(folder), Branches.load(folder)
    real, specs = ({}, {}) if runs is None else _read(runs, library.score)
    fidelity = measure_fidelity(library, branches, task_info(load_task(folder), library), alike(library, folder))
    agreement = policy_agreement(load_dynamics(folder), real, specs) if runs is not None else None
    if as_json:
        found = {"env": library.task_name, "fidelity": asdict(fidelity)}
        if agreement is not None:
            found["policies"] = {
                **asdict(agreement),
                "real": agreement.real.tolist(),
                "surrogate": agreement.surrogate.tolist(),
            }
        typer.echo(to_json(found, indent=1))
        return
    typer.echo(_fidelity_table(fidelity, library.task_name))
    if agreement is not None:
        typer.echo("\n" + _agreement_table(agreement))


def _read(folder: Path, score: str) -> "tuple[dict[str, list[float]], dict[str, PolicySpec]]":
    """Return the final scores of the finished runs below a folder, and their policies, by name."""
    from autobatch._errors import ConfigError
    from autobatch._files import seen_in
    from autobatch.control.run import SUMMARY
    from autobatch.training import load_run_config, load_summary

    real: dict[str, list[float]] = defaultdict(list)
    specs: dict[str, PolicySpec] = {}
    for path in seen_in(folder, f"*/{SUMMARY}"):
        config, summary = load_run_config(path.parent), load_summary(path.parent)
        value = summary.validation_loss if score == "validation_loss" else summary.validation_error
        sound = value is not None and summary.stopped_because == "finished"
        real[config.policy.name].append(float(value) if sound and value is not None else float("nan"))
        specs[config.policy.name] = config.policy
    if not real:
        raise ConfigError(
            f"{folder}: expected run directories, found no finished run; make some with 'autobatch compare'"
        )
    return dict(real), specs


def _fidelity_table(fidelity: "Fidelity", name: str) -> str:
    lines = [
        f"Surrogate of {name}: {fidelity.journeys} journeys, each predicted without having been fitted to it.",
        "Errors are root mean squares of natural logarithms: 0.1 is about 10 %.",
        "",
        "| one epoch ahead | surrogate | nothing changes |",
        "| --- | --- | --- |",
    ]
    for output, error in fidelity.one_step.items():
        still = fidelity.persistence[output]
        lines.append(f"| {output.replace('_', ' ')} | {error:.3f} | {'-' if math.isnan(still) else f'{still:.3f}'} |")
    lines += [
        "",
        "| final validation loss, from the schedule alone | error | rank correlation |",
        "| --- | --- | --- |",
        f"| surrogate | {fidelity.whole:.3f} (bias {fidelity.bias:+.3f}) | {fidelity.rank:.2f} |",
        f"| forecast and landscape of the beacons | {fidelity.landscape:.3f} | {fidelity.landscape_rank:.2f} |",
        f"| mean of the other journeys | {fidelity.constant:.3f} | - |",
        "",
        f"The 90 % interval of its noisy rollouts holds {fidelity.coverage:.0%} of them. Final C̄ is missed by "
        f"{fidelity.position[0]:.3f}, final L by {fidelity.position[1]:.3f}.",
    ]
    return "\n".join(lines)


def _agreement_table(agreement: "PolicyAgreement") -> str:
    lines = ["| policy | runs | real quality | surrogate |", "| --- | --- | --- | --- |"]
    rows = zip(agreement.policies, agreement.real_runs, agreement.real, agreement.surrogate, strict=True)
    for name, count, real, guessed in sorted(rows, key=lambda row: -row[2]):
        lines.append(f"| {name} | {count} | {real:.3f} | {guessed:.3f} |")
    if not math.isnan(agreement.rank):
        chance = "" if math.isnan(agreement.p_value) else f" (p = {agreement.p_value:.2g})"
        lines += ["", f"Rank correlation over {len(agreement.policies)} policies: {agreement.rank:.2f}{chance}."]
    return "\n".join(lines)

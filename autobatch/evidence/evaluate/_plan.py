"""What an evaluation trains: which policies and baselines meet on which tasks."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autobatch._artefacts import find_artefact, holds_beacons
from autobatch._errors import ConfigError, LibraryError, UnknownNameError, near_names
from autobatch.beacons import BeaconLibrary
from autobatch.policies import PolicySpec, load_policy_spec, make_policy, policy_kind
from autobatch.report._words import configuration_words
from autobatch.training import TaskSpec, load_task

BASELINES = ("fixed", "random", "stages", "beacon-follow", "bandit")
"""What a policy can be set beside: every rung of the ladder, and the policies that a name stands for."""

NO_BASELINES = "none"

STAGES = ("s32-to-128", "s16-to-64-ms")
"""The dynamic schedules of the paper that ``stages`` stands for."""

BEST_FIXED = "best fixed beacon"
"""What the recorded configuration with the lowest mean score is called beside policies."""

TRAIN, UNSEEN = "train", "unseen"
"""Splits: the tasks that a learned policy's card names, and all others."""

_SINGLE = {"random": "random", "beacon-follow": "beacon-follow", "bandit": "rmgd"}


@dataclass(frozen=True)
class Contestant:
    """One policy on one task.

    Attributes:
        spec: the policy.
        labels: the names under which its runs count over all tasks; a fixed configuration may be both the best beacon
            and a rung of the ladder.
        judged: whether it is one of the policies that are evaluated, not only a baseline.
        fixed: whether it is one of the baselines that keep one configuration.
        split: ``"train"`` where a learned policy was trained on this task, ``"unseen"`` where it was not; None for
            policies that do not say what they were trained on.
        weights: SHA-256 of a learned policy's weights.
        always_measured: whether its runs measure although the policy cannot look at what is measured.
    """

    spec: PolicySpec
    labels: tuple[str, ...]
    judged: bool = False
    fixed: bool = False
    split: str | None = None
    weights: str | None = None
    always_measured: bool = False

    @property
    def name(self) -> str:
        """The policy's name on this task, which its run directories carry."""
        return self.spec.name

    @property
    def measures(self) -> bool:
        """Whether its runs pay for measuring: those of a policy blind to it do not, unless asked to."""
        return self.always_measured or not policy_kind(self.spec.kind).blind


@dataclass(frozen=True)
class Arena:
    """One task and all that train on it.

    Attributes:
        name: the task's name.
        task: the task.
        folder: its env folder.
        library: its beacons; None where it has none.
        contestants: who trains on it; the judged first.
    """

    name: str
    task: TaskSpec
    folder: Path
    library: BeaconLibrary | None
    contestants: tuple[Contestant, ...]


@dataclass(frozen=True)
class Plan:
    """An evaluation before anything is trained.

    Attributes:
        arenas: the tasks.
        seeds: the seeds of every contestant on every task.
        notes: what was left out, and why.
    """

    arenas: tuple[Arena, ...]
    seeds: tuple[int, ...]
    notes: tuple[str, ...]


def make_plan(
    policies: Sequence[str | Path | PolicySpec],
    envs: Sequence[str | Path],
    seeds: Sequence[int],
    baselines: Sequence[str],
) -> Plan:
    """Look up everything that an evaluation names.

    Args:
        policies: names, paths or policies.
        envs: names or paths of tasks.
        seeds: the seeds.
        baselines: names of ``BASELINES``; ``"none"`` alone, or nothing, for none.

    Returns:
        The plan.

    Raises:
        ConfigError: there are no seeds, envs or contestants, or two of them share a name.
        UnknownNameError: no such policy, env or baseline.
        LibraryError: the beacons of an env are damaged or of another task, or missing where a policy needs them.
    """
    wanted = _checked_baselines(baselines)
    if not seeds:
        raise ConfigError("seeds: expected at least one, such as 100-109")
    if min(seeds) < 0:
        raise ConfigError(f"seeds: expected numbers from 0 on, got {min(seeds)}")
    if not envs:
        raise ConfigError("envs: expected at least one; see 'autobatch envs'")
    specs = [policy if isinstance(policy, PolicySpec) else load_policy_spec(policy) for policy in policies]
    if not specs and not wanted:
        raise ConfigError("policies: expected at least one policy or baseline")
    notes: list[str] = []
    arenas = [_arena(env, specs, wanted, notes) for env in dict.fromkeys(map(str, envs))]
    _refuse_twice([arena.name for arena in arenas], "envs")
    return Plan(tuple(arenas), tuple(dict.fromkeys(seeds)), tuple(notes))


def load_beacons(env: str | Path) -> BeaconLibrary | None:
    """Load the beacons of a task.

    Args:
        env: its name or path.

    Returns:
        The library; None where nothing is recorded.

    Raises:
        UnknownNameError: no such env.
        LibraryError: the beacons are damaged or of another task.
    """
    return _library(load_task(env), find_artefact("envs", env).parent)


def fixed_spec(batch_size: int, lr: float) -> PolicySpec:
    """Return the policy that keeps one configuration.

    Args:
        batch_size: global batch size.
        lr: base learning rate.

    Returns:
        The policy, named as the paper does.
    """
    parameters = {"batch_size": batch_size, "lr": lr}
    return PolicySpec(name=configuration_words(batch_size, lr), kind="fixed", parameters=parameters)


def folder_name(name: str) -> str:
    """Return the name of a policy as a part of a directory's name."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def _checked_baselines(names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        if name not in (*BASELINES, NO_BASELINES):
            raise UnknownNameError(f"unknown baseline '{name}'; {near_names(name, (*BASELINES, NO_BASELINES))}")
    if NO_BASELINES in names and len(set(names)) > 1:
        raise ConfigError(f"baselines: '{NO_BASELINES}' stands alone, got {', '.join(names)}")
    return tuple(name for name in dict.fromkeys(names) if name != NO_BASELINES)


def _arena(env: str, specs: Sequence[PolicySpec], wanted: Sequence[str], notes: list[str]) -> Arena:
    task = load_task(env)
    folder = find_artefact("envs", env).parent.absolute()
    library = _library(task, folder)
    judged = [_judged(spec, task, library) for spec in specs]
    _refuse_twice([folder_name(contestant.name) for contestant in judged], "policies")
    if library is None and wanted:
        note = f"{task.name} has no beacons"
        if "fixed" in wanted:
            note += f": its fixed runs are at the task's own rate, {task.optimizer.base_lr:g}"
        if "beacon-follow" in wanted:
            note += ", and beacon-follow is left out" if "fixed" in wanted else ": beacon-follow is left out"
        notes.append(note)
    contestants = {contestant.name: contestant for contestant in judged}
    for baseline in _baselines(wanted, task, library, notes):
        there = contestants.get(baseline.name)
        if there is None:
            contestants[baseline.name] = baseline
        elif (there.spec.kind, there.spec.parameters) == (baseline.spec.kind, baseline.spec.parameters):
            labels = tuple(dict.fromkeys((*there.labels, *baseline.labels)))
            contestants[baseline.name] = replace(there, labels=labels, fixed=there.fixed or baseline.fixed)
        else:
            raise ConfigError(
                f"policies: '{baseline.name}' is another policy than the baseline of that name; rename it"
            )
    return Arena(task.name, task, folder, library, tuple(contestants.values()))


def _library(task: TaskSpec, folder: Path) -> BeaconLibrary | None:
    if not holds_beacons(folder):
        return None
    library = BeaconLibrary.load(folder)
    recorded = library.task
    library.check_task(
        task.fingerprint_payload(str(recorded.get("data_fingerprint")), int(recorded.get("num_classes") or 0))
    )
    return library


def _judged(spec: PolicySpec, task: TaskSpec, library: BeaconLibrary | None) -> Contestant:
    policy = make_policy(spec)
    if library is None and policy.needs_library:
        raise LibraryError(
            f"policy '{spec.name}' needs beacons, and task '{task.name}' has none; record some with 'autobatch beacons "
            f"record --env {task.name}', or leave the task out"
        )
    card = getattr(policy, "card", None)
    if card is None:
        return Contestant(spec, (spec.name,), judged=True)
    split = TRAIN if task.name in card.training.tasks else UNSEEN
    return Contestant(spec, (spec.name,), judged=True, split=split, weights=card.sha256)


def _baselines(
    wanted: Sequence[str], task: TaskSpec, library: BeaconLibrary | None, notes: list[str]
) -> list[Contestant]:
    found: list[Contestant] = []
    for name in wanted:
        if name == "fixed":
            found += _fixed(task, library)
        elif name == "stages":
            found += _stages(task, notes)
        elif library is not None or name != "beacon-follow":
            spec = load_policy_spec(_SINGLE[name])
            found.append(Contestant(spec, (spec.name,)))
    return found


def _fixed(task: TaskSpec, library: BeaconLibrary | None) -> list[Contestant]:
    """Return every rung at its best recorded rate; the best of them is the best fixed beacon."""
    rates = dict.fromkeys(task.batch_sizes, task.optimizer.base_lr)
    best: tuple[int, float] | None = None
    if library is not None:
        sound = sorted(
            (result for result in library.results() if not result.diverged and result.batch_size in rates),
            key=lambda result: result.mean[library.score],
            reverse=True,
        )
        rates |= {result.batch_size: result.lr for result in sound}
        best = (sound[-1].batch_size, sound[-1].lr) if sound else None
    labels = {(size, lr): [f"fixed s{size}"] for size, lr in rates.items()}
    if best is not None:
        labels.setdefault(best, []).insert(0, BEST_FIXED)
    return [Contestant(fixed_spec(size, lr), tuple(names), fixed=True) for (size, lr), names in labels.items()]


def _stages(task: TaskSpec, notes: list[str]) -> list[Contestant]:
    found = []
    for name in STAGES:
        spec = load_policy_spec(name)
        missing = sorted({*spec.parameters["batch_sizes"]} - {*task.batch_sizes})
        if missing:
            sizes = ", ".join(map(str, missing))
            notes.append(f"{task.name}: {name} is left out, for its ladder has no {sizes}")
        else:
            found.append(Contestant(spec, (spec.name,)))
    return found


def _refuse_twice(names: Sequence[str], what: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{what}: expected different names, got {', '.join(twice)} more than once")

"""What a comparison trains: which policies and baselines meet on which tasks."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autobatch._artefacts import find_artefact, holds_beacons
from autobatch._errors import ConfigError, LibraryError, UnknownNameError, near_names
from autobatch.beacons import BeaconLibrary, CostTable
from autobatch.policies import PolicySpec, load_policy_spec, make_policy, policy_kind, policy_names
from autobatch.report._words import configuration_words
from autobatch.training import TaskSpec, load_task

BEST, FIXED, STAGES, NOTHING = "best-fixed", "fixed", "stages", "none"
BASELINES = (BEST, FIXED, "random", STAGES, "beacon-follow", "bandit")
"""Names of baselines: the best fixed beacon, every rung of the ladder, the paper's schedules, and single policies. Any
other policy can be one by its own name."""

SCHEDULES = ("s32-to-128", "s16-to-64-ms")
"""The dynamic schedules of the paper that ``stages`` stands for."""

BEST_FIXED = "best fixed beacon"
"""What the recorded configuration with the lowest mean score is called beside policies."""

TRAIN, UNSEEN = "train", "unseen"
"""Splits: the tasks that a learned policy's card names, and all others."""

_ALIASES = {"bandit": "rmgd"}


@dataclass(frozen=True)
class Contestant:
    """One policy on one task.

    Attributes:
        spec: the policy.
        labels: the names under which its runs count over all tasks; a fixed configuration may be both the best beacon
            and a rung of the ladder.
        judged: whether it is one of the policies that are asked about, not only a baseline.
        fixed: whether it is one of the baselines that keep one configuration.
        split: ``"train"`` where a learned policy was trained on this task, ``"unseen"`` where it was not; empty for
            policies that do not say what they were trained on.
        weights: SHA-256 of a learned policy's weights.
        measures: whether its runs pay for measuring: those of a policy blind to it do not, unless asked to.
    """

    spec: PolicySpec
    labels: tuple[str, ...]
    judged: bool = False
    fixed: bool = False
    split: str = ""
    weights: str | None = None
    measures: bool = True

    @property
    def name(self) -> str:
        """The policy's name on this task, which its run directories carry."""
        return self.spec.name

    @property
    def needs_library(self) -> bool:
        """Whether it can do nothing without beacons."""
        return make_policy(self.spec).needs_library


@dataclass(frozen=True)
class Arena:
    """One task and all that train on it.

    Attributes:
        name: the task's name.
        task: the task, at the length that it is trained for.
        folder: its env folder.
        recorded: its beacons; None where it has none.
        library: those that policies may look at; None where they are of another length than the trainings.
        costs: the cost table that was asked for; None for whatever holds here.
        best: the policy of the best fixed beacon, whether it trains or not; None where there are no beacons at all.
        contestants: who trains on it; the best fixed beacon first, then the judged.
    """

    name: str
    task: TaskSpec
    folder: Path
    recorded: BeaconLibrary | None
    library: BeaconLibrary | None
    costs: CostTable | None
    best: PolicySpec | None
    contestants: tuple[Contestant, ...]


@dataclass(frozen=True)
class Plan:
    """A comparison before anything is trained.

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
    against: Sequence[str | Path] = (BEST,),
    *,
    epochs: int | None = None,
    costs: CostTable | None = None,
    measure_all: bool = False,
) -> Plan:
    """Look up everything that a comparison names.

    Args:
        policies: names, paths or policies.
        envs: names or paths of tasks.
        seeds: the seeds.
        against: names of ``BASELINES`` or policies; ``"none"`` alone, or nothing, for none.
        epochs: length of every training instead of the tasks' own; beacons are of a task's own length.
        costs: the cost table to count by.
        measure_all: whether runs measure whose policy cannot look at what is measured.

    Returns:
        The plan.

    Raises:
        ConfigError: there are no seeds, envs or contestants, two of them share a name, or the costs lack a batch size.
        UnknownNameError: no such policy, env or baseline.
        LibraryError: the beacons of an env are damaged or of another task, or missing where they are needed.
    """
    baselines = _baseline_specs(against)
    if not seeds:
        raise ConfigError("seeds: expected at least one, such as 100-104")
    if min(seeds) < 0:
        raise ConfigError(f"seeds: expected numbers from 0 on, got {min(seeds)}")
    if not envs:
        raise ConfigError("envs: expected at least one; see 'autobatch envs'")
    if epochs is not None and epochs < 1:
        raise ConfigError(f"epochs: expected at least 1, got {epochs}")
    specs = [policy if isinstance(policy, PolicySpec) else load_policy_spec(policy) for policy in policies]
    if not specs and not baselines:
        raise ConfigError("policies: expected at least one policy or baseline")
    _refuse_twice([folder_name(spec.name) for spec in specs], "policies")
    notes: list[str] = []
    arenas = []
    for env in dict.fromkeys(map(str, envs)):
        arena = _bare_arena(env, epochs, costs, notes)
        contestants = _contestants(arena, specs, baselines, notes)
        arenas.append(replace(arena, contestants=tuple(_measuring(one, measure_all) for one in contestants)))
    _refuse_twice([arena.name for arena in arenas], "envs")
    return Plan(tuple(arenas), tuple(dict.fromkeys(seeds)), tuple(notes))


def fixed_spec(batch_size: int, lr: float) -> PolicySpec:
    """Return the policy that keeps one configuration, named as the paper does."""
    return PolicySpec.fixed(batch_size, lr, name=configuration_words(batch_size, lr))


def folder_name(name: str) -> str:
    """Return the name of a policy as a part of a directory's name."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def _baseline_specs(names: Sequence[str | Path]) -> dict[str, PolicySpec | None]:
    """Return the policy of every baseline by its name; None for those that each task has its own of."""
    found: dict[str, PolicySpec | None] = {}
    for name in map(str, names):
        if name in (BEST, FIXED, STAGES, NOTHING):
            found[name] = None
            continue
        try:
            found[name] = load_policy_spec(_ALIASES.get(name, name))
        except UnknownNameError:
            known = {*BASELINES, NOTHING, *policy_names()}
            raise UnknownNameError(f"unknown baseline '{name}'; {near_names(name, known)}") from None
    if NOTHING in found and len(found) > 1:
        raise ConfigError(f"against: '{NOTHING}' stands alone, got {', '.join(found)}")
    return {} if NOTHING in found else found


def _bare_arena(env: str, epochs: int | None, costs: CostTable | None, notes: list[str]) -> Arena:
    """Return a task with its beacons, before anyone trains on it."""
    task, folder = load_task(env), find_artefact("envs", env).parent.absolute()
    recorded, best = None, None
    if holds_beacons(folder):
        recorded = BeaconLibrary.load(folder)
        data, classes = recorded.task.get("data_fingerprint"), int(recorded.task.get("num_classes") or 0)
        recorded.check_task(task.fingerprint_payload(str(data), classes))
        winner = recorded.best_fixed()
        best = fixed_spec(winner.batch_size, winner.lr)
    if costs is not None and (missing := {*task.batch_sizes} - (costs.step_seconds.keys() & costs.measuring_seconds)):
        raise ConfigError(f"costs: expected every batch size of '{task.name}', found no {min(missing)} in the table")
    library = recorded
    if epochs is not None and epochs != task.epochs:
        if recorded is not None:
            notes.append(
                f"{task.name} is trained for {epochs} epochs instead of {task.epochs}, as its beacons are, which are "
                "left out; the best fixed beacon is the best at that length"
            )
        library, task = None, task.model_copy(update={"epochs": epochs})
    return Arena(task.name, task, folder, recorded, library, costs, best, ())


def _contestants(
    arena: Arena, specs: Sequence[PolicySpec], baselines: dict[str, PolicySpec | None], notes: list[str]
) -> list[Contestant]:
    """Return who trains on a task, the best fixed beacon first where there is one."""
    if arena.best is None and baselines.keys() == {BEST}:
        raise LibraryError(
            f"task '{arena.name}' has no beacons, so there is no best fixed beacon to compare with; record some with "
            f"'autobatch beacons record --env {arena.name}', or name others to compare with, such as --against fixed"
        )
    judged = [_judged(spec, arena) for spec in specs]
    others = _baselines(arena, baselines, notes)
    # Who is named twice trains once, where the first of the two stands.
    merged: dict[str, Contestant] = {}
    for one in (*(other for other in others if BEST_FIXED in other.labels), *judged, *others):
        there = merged.get(one.name)
        if there is not None and (there.spec.kind, there.spec.parameters) != (one.spec.kind, one.spec.parameters):
            raise ConfigError(f"policies: '{one.name}' is another policy than the baseline of that name; rename it")
        merged[one.name] = one if there is None else _both(there, one)
    return list(merged.values())


def _both(one: Contestant, other: Contestant) -> Contestant:
    learned = one if one.weights else other
    return replace(
        learned,
        labels=tuple(dict.fromkeys((*one.labels, *other.labels))),
        judged=one.judged or other.judged,
        fixed=one.fixed or other.fixed,
    )


def _judged(spec: PolicySpec, arena: Arena) -> Contestant:
    if arena.library is None and make_policy(spec).needs_library:
        length = "none" if arena.best is None else f"none of {arena.task.epochs} epochs"
        raise LibraryError(
            f"policy '{spec.name}' needs beacons, and task '{arena.name}' has {length}; record some with 'autobatch "
            f"beacons record --env {arena.name}', or leave the task out"
        )
    return replace(_named(spec, arena), judged=True)


def _named(spec: PolicySpec, arena: Arena) -> Contestant:
    card = getattr(make_policy(spec), "card", None)
    if card is None:
        return Contestant(spec, (spec.name,))
    split = TRAIN if arena.name in card.training.tasks else UNSEEN
    return Contestant(spec, (spec.name,), split=split, weights=card.sha256)


def _baselines(arena: Arena, wanted: dict[str, PolicySpec | None], notes: list[str]) -> list[Contestant]:
    if arena.best is None and (FIXED in wanted or BEST in wanted):
        rate = f": its fixed runs are at the task's own rate, {arena.task.optimizer.base_lr:g}"
        notes.append(f"{arena.name} has no beacons{rate if FIXED in wanted else ': no best fixed beacon'}")
    found: list[Contestant] = []
    if arena.best is not None and wanted:
        found.append(Contestant(arena.best, (BEST_FIXED,), fixed=True))
    for name, spec in wanted.items():
        if name == FIXED:
            found += _rungs(arena)
        elif name == STAGES:
            found += _stages(arena.task, notes)
        elif spec is not None:
            one = _named(spec, arena)
            if arena.library is None and one.needs_library:
                notes.append(f"{arena.name}: {spec.name} is left out, for there are no beacons of this task and length")
            else:
                found.append(replace(one, fixed=spec.kind == "fixed"))
    return found


def _rungs(arena: Arena) -> list[Contestant]:
    """Return every rung at its best recorded rate, or at the task's own."""
    rates = dict.fromkeys(arena.task.batch_sizes, arena.task.optimizer.base_lr)
    if arena.recorded is not None:
        score = arena.recorded.score
        sound = [one for one in arena.recorded.results() if not one.diverged and one.batch_size in rates]
        for result in sorted(sound, key=lambda one: one.mean[score], reverse=True):
            rates[result.batch_size] = result.lr
    return [Contestant(fixed_spec(size, lr), (f"fixed s{size}",), fixed=True) for size, lr in rates.items()]


def _stages(task: TaskSpec, notes: list[str]) -> list[Contestant]:
    found = []
    for name in SCHEDULES:
        spec = load_policy_spec(name)
        missing = sorted({*spec.parameters["batch_sizes"]} - {*task.batch_sizes})
        if missing:
            sizes = ", ".join(map(str, missing))
            notes.append(f"{task.name}: {name} is left out, for its ladder has no {sizes}")
        else:
            found.append(Contestant(spec, (spec.name,)))
    return found


def _measuring(one: Contestant, measure_all: bool) -> Contestant:
    return replace(one, measures=measure_all or not policy_kind(one.spec.kind).blind)


def _refuse_twice(names: Sequence[str], what: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{what}: expected different names, got {', '.join(twice)} more than once")

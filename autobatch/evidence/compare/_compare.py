"""Policies beside the best fixed beacon of one task: trained for real with equal budgets, and what came of it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autobatch._errors import ConfigError, LibraryError, OutputError
from autobatch._files import write_whole
from autobatch.beacons import BeaconLibrary
from autobatch.evidence.compare._figures import policy_figures, policy_tests
from autobatch.evidence.compare._picture import CompareLine, save_compare
from autobatch.evidence.compare._report import PolicyComparison, csv_table, json_text
from autobatch.evidence.compare._runs import Course, Target, mean_curve, read_course, recording_of
from autobatch.evidence.compare._tables import save_tables
from autobatch.evidence.evaluate import (
    EvaluationObserver,
    Plan,
    Trained,
    fixed_spec,
    load_beacons,
    make_plan,
    plain,
    train_all,
)
from autobatch.policies import PolicySpec, load_policy_spec, make_policy
from autobatch.training._versions import software_versions

REPORT, TABLE, FIGURES, PICTURE = "comparison.md", "comparison.csv", "comparison.json", "comparison.png"
"""The files of a comparison, beside its Parquet files and the folder of its runs."""


def compare_policies(
    policies: Sequence[str | Path | PolicySpec],
    env: str | Path,
    seeds: Sequence[int],
    *,
    out: str | Path,
    jobs: int = 1,
    device: str = "auto",
    data_dir: Path | None = None,
    trust_code: bool = False,
    measure_all: bool = False,
    observer: EvaluationObserver | None = None,
) -> PolicyComparison:
    """Train policies and the best fixed beacon of a task with every seed, and say what can be said.

    Every run is a run directory ``out/ENV/POLICY-sSEED``, as ``evaluate_policies`` has them. Finished ones are not
    trained again and cut ones go on, so the same call can be stopped at any time and repeated, also with more policies
    or seeds. ``out`` gets ``comparison.md``, ``comparison.csv``, ``comparison.json``, ``comparison.png``,
    ``runs.parquet`` and ``epochs.parquet``.

    Args:
        policies: names, paths or policies; the best fixed beacon is added where it is missing.
        env: name or path of a task that has beacons.
        seeds: seeds that nothing was chosen by.
        out: the directory; new, empty, or that of an earlier comparison of this task or of an evaluation.
        jobs: runs side by side. They share the task's threads, and times by the clock are marked as shared.
        device: torch device.
        data_dir: where datasets lie.
        trust_code: allow a task to name a model factory to import.
        measure_all: measure the runs of policies too that cannot look at what is measured, so that their journeys
            through the plane are known; all times then include it.
        observer: what watches.

    Returns:
        The comparison. Runs that could not be carried out are in ``failed``, and nowhere else.

    Raises:
        ConfigError: the arguments cannot be carried out, or no run could.
        UnknownNameError: no such policy or env.
        LibraryError: the task has no beacons, or they are damaged or of another task.
        OutputError: ``out`` holds something else, or cannot be written.
        CheckpointError: a run in ``out`` has another configuration than now, or is damaged.
        DataError: data are missing or damaged.
    """
    plan, library = _plan(policies, env, seeds, measure_all=measure_all)
    (arena,) = plan.arenas
    observer = observer or EvaluationObserver()
    if len(plan.seeds) == 1:
        observer.note(f"seed {plan.seeds[0]} alone: no intervals and no tests; five seeds are, for instance, 100-104")
    out = Path(out).absolute()
    _refuse_other_task(out, arena.name)
    trained = train_all(
        plan,
        out,
        jobs=jobs,
        device=device,
        data_dir=data_dir,
        trust_code=trust_code,
        observer=observer,
    )
    comparison, courses = _compared(plan, library, trained, out, measure_all=measure_all)
    _save(comparison, courses)
    return comparison


def _plan(
    policies: Sequence[str | Path | PolicySpec], env: str | Path, seeds: Sequence[int], *, measure_all: bool
) -> tuple[Plan, BeaconLibrary]:
    """Return what is trained, the best fixed beacon first and then the policies as they were named; and the beacons."""
    specs = [policy if isinstance(policy, PolicySpec) else load_policy_spec(policy) for policy in policies]
    library = load_beacons(env)
    if library is None:
        raise LibraryError(
            f"task '{env}' has no beacons, so there is no best fixed beacon to compare with; record some with "
            f"'autobatch beacons record --env {env}'"
        )
    best = library.best_fixed()
    reference = fixed_spec(best.batch_size, best.lr)
    others = []
    for spec in specs:
        if spec.name != reference.name:
            others.append(spec)
        elif (spec.kind, spec.parameters) != (reference.kind, reference.parameters):
            raise ConfigError(f"policies: '{spec.name}' is another policy than the best fixed beacon; rename it")
    plan = make_plan([reference, *others], [env], seeds, ())
    arenas = tuple(
        replace(arena, contestants=tuple(replace(one, always_measured=measure_all) for one in arena.contestants))
        for arena in plan.arenas
    )
    return replace(plan, arenas=arenas), library


def _refuse_other_task(out: Path, env: str) -> None:
    """Keep the figures of another task, whose files have the same names."""
    try:
        there = json.loads((out / FIGURES).read_bytes())["env"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if there != env:
        raise OutputError(f"{out}: holds the comparison of task '{there}', not of '{env}'; choose another directory")


def _compared(
    plan: Plan, library: BeaconLibrary, trained: Trained, out: Path, *, measure_all: bool
) -> tuple[PolicyComparison, list[Course]]:
    (arena,) = plan.arenas
    names = [contestant.name for contestant in arena.contestants]
    costs, score = trained.facts[arena.name].costs, arena.task.score
    best = library.best_fixed()
    target = Target(names[0], best.mean["validation_error"], best.mean["test_error"], best.seeds)
    recording = recording_of(library, costs)
    courses = [read_course(job, summary, costs, target) for job, summary in trained.done]
    courses.sort(key=lambda course: (names.index(course.run.policy), course.run.seed))
    runs = tuple(course.run for course in courses)
    own = {name: [run for run in runs if run.policy == name] for name in names}
    figures = tuple(
        policy_figures(
            contestant.name,
            own[contestant.name],
            reference=own[target.policy],
            seeds=len(plan.seeds),
            score=score,
            recording=recording if make_policy(contestant.spec).needs_library else None,
        )
        for contestant in arena.contestants
    )
    comparison = PolicyComparison(
        out=out,
        env=arena.name,
        score=score,
        epochs=arena.task.epochs,
        seeds=plan.seeds,
        device=trained.device,
        measure_all=measure_all,
        target=target,
        recording=recording,
        policies=figures,
        tests=policy_tests(runs, policies=names, reference=target.policy, score=score),
        runs=runs,
        failed=trained.failed,
    )
    return comparison, courses


def _save(comparison: PolicyComparison, courses: Sequence[Course]) -> None:
    out = comparison.out
    facts = {
        "env": comparison.env,
        "score": comparison.score,
        "seeds": list(comparison.seeds),
        "device": comparison.device,
        "reference": comparison.target.policy,
        "target_validation_error": plain(comparison.target.validation_error),
        "policies": [one.policy for one in comparison.policies],
        "measure_all": comparison.measure_all,
        "versions": software_versions(),
    }
    save_tables(out, facts, comparison.runs, [course.rows for course in courses])
    write_whole(out / TABLE, csv_table(comparison).encode())
    write_whole(out / FIGURES, json_text(comparison).encode())
    lines = []
    for one in comparison.policies:
        own = [course for course in courses if course.run.policy == one.policy]
        lines.append(
            CompareLine(
                label=one.policy,
                test_errors=tuple(course.run.test_error for course in own if course.run.finished),
                test_error=(one.test_error.mean, one.test_error.low, one.test_error.high),
                diverged=one.diverged,
                time=(one.time_ratio.median, one.time_ratio.least, one.time_ratio.greatest),
                modelled_time=one.modelled_ratio,
                curve=mean_curve(own),
            )
        )
    title = f"{comparison.env}, {comparison.epochs} epochs, {len(comparison.seeds)} seeds"
    save_compare(out / PICTURE, title, lines, comparison.target.validation_error)
    write_whole(out / REPORT, comparison.report().encode())

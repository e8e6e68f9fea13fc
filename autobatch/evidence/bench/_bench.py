"""Policies beside baselines on any number of tasks: trained for real with equal budgets, and what came of it."""

import math
from collections.abc import Sequence
from pathlib import Path

from autobatch._errors import ConfigError, LibraryError, OutputError
from autobatch._files import place_of_work, write_whole
from autobatch._plain import plain
from autobatch._ranges import check_path
from autobatch.beacons import CostTable
from autobatch.cells import LOCAL
from autobatch.evidence.bench._cards import note_on_cards
from autobatch.evidence.bench._comparison import PolicyComparison, TaskComparison
from autobatch.evidence.bench._courses import Course, mean_curve, read_courses, recording_of
from autobatch.evidence.bench._figures import policy_figures
from autobatch.evidence.bench._noninferior import ALL, non_inferiority
from autobatch.evidence.bench._overall import against_baselines, aggregate
from autobatch.evidence.bench._plan import BEST, Arena, Plan, make_plan
from autobatch.evidence.bench._runs import BenchObserver, Machine, Trained, train_all
from autobatch.evidence.bench._tables import save_tables
from autobatch.evidence.bench._tests import policy_tests
from autobatch.evidence.bench.telling import (
    TaskLine,
    comparison_json,
    comparison_markdown,
    load_comparison,
    policies_csv,
    runs_csv,
    save_overall,
    save_task,
)
from autobatch.policies import PolicySpec
from autobatch.training._versions import software_versions

REPORT, FIGURES, PICTURE = "comparison.md", "comparison.json", "comparison.png"
POLICIES_TABLE, RUNS_TABLE = "comparison.csv", "runs.csv"
"""The files of a comparison, beside its Parquet files, the picture of each task and the folders of its runs."""

MARGIN = 0.05
"""Relative difference of final test figures that is put up with."""


def compare_policies(
    policies: Sequence[str | Path | PolicySpec],
    envs: str | Path | Sequence[str | Path],
    seeds: Sequence[int],
    *,
    out: str | Path,
    against: Sequence[str | Path] = (BEST,),
    epochs: int | None = None,
    costs: CostTable | None = None,
    margin: float = MARGIN,
    jobs: int = 1,
    on: str = LOCAL,
    device: str = "auto",
    data_dir: Path | None = None,
    trust_code: bool = False,
    measure_all: bool = False,
    note_cards: bool = False,
    observer: BenchObserver | None = None,
) -> PolicyComparison:
    """Train policies and baselines on every task with every seed, and say what can be said.

    Every run is a run directory ``out/TASK/POLICY-sSEED``. Finished ones are not trained again and cut ones go on, so
    the same call can be stopped at any time and repeated, also with more policies, tasks or seeds. ``out`` gets
    ``comparison.md``, ``comparison.csv``, ``runs.csv``, ``comparison.json``, ``comparison.png``, a
    ``comparison-TASK.png`` for each task, ``runs.parquet`` and ``epochs.parquet``.

    Args:
        policies: names, paths or policies.
        envs: name or path of a task, or several.
        seeds: seeds that nothing was chosen by.
        out: the directory; new, empty, or that of an earlier comparison.
        against: what the policies are compared with, besides the best fixed beacon, which is always among them where
            there are beacons: ``"best-fixed"`` for it alone, ``"fixed"`` (every rung of the ladder at its best recorded
            rate), ``"stages"`` (the paper's schedules, where the ladder has their sizes), ``"random"``,
            ``"beacon-follow"``, ``"bandit"`` (RMGD), or any other policy by its name or path; ``"none"`` or nothing for
            none. Without beacons, fixed runs are at the task's own rate, and what needs beacons is left out.
        epochs: length of every training instead of the tasks' own; their beacons, which are of the tasks' own length,
            then serve only to name fixed configurations.
        costs: the cost table to count and decide by, instead of the beacons' or one timed here.
        margin: the relative difference of final test figures up to which a policy counts as no worse.
        jobs: runs side by side. Times by the clock are then marked as shared, and so are the task's threads on this
            machine.
        on: what starts the workers: ``"local"``, ``"slurm"`` or ``"ray"``, with settings of its own after a colon, such
            as ``"slurm:partition=gpu,timeout_min=240"``.
        device: torch device.
        data_dir: where datasets lie.
        trust_code: allow a task to name factories to import.
        measure_all: measure the runs of policies too that cannot look at what is measured, so that their journeys
            through the plane are known; all times then include it.
        note_cards: write what came of a learned policy on its card, beside its YAML.
        observer: what watches.

    Returns:
        The comparison. Runs that could not be carried out are in ``failed``, and nowhere else.

    Raises:
        ConfigError: the arguments cannot be carried out, or no run could.
        UnknownNameError: no such policy, env or baseline.
        LibraryError: beacons are damaged, of another task, or missing where they are needed.
        OutputError: ``out`` holds something else, or cannot be written.
        CheckpointError: a run in ``out`` has another configuration than now, or is damaged.
        DataError: data are missing or damaged.
    """
    if not 0.0 < margin < math.inf:
        raise ConfigError(f"margin: expected a share above 0, such as 0.05 for 5 %, got {margin:g}")
    envs = [envs] if isinstance(envs, str | Path) else envs
    plan = make_plan(policies, envs, seeds, against, epochs=epochs, costs=costs, measure_all=measure_all)
    observer = observer or BenchObserver()
    if len(plan.seeds) == 1:
        observer.note(f"seed {plan.seeds[0]} alone: no intervals and no tests; five seeds are, for instance, 100-104")
    out = check_path(out, "out").absolute()
    machine = Machine(jobs, device, data_dir.absolute() if data_dir is not None else None, trust_code, on)
    with place_of_work(out, "another comparison is at work here; wait for it, or choose another directory"):
        _keep_other_tasks(out, {arena.name for arena in plan.arenas})
        comparison = _carried_out(plan, out, machine, observer, margin=margin, measure_all=measure_all)
    if note_cards:
        note_on_cards(comparison, plan)
    return comparison


def _carried_out(
    plan: Plan, out: Path, machine: Machine, observer: BenchObserver, *, margin: float, measure_all: bool
) -> PolicyComparison:
    trained = train_all(plan, out, machine, observer)
    found = [
        _on_task(arena, plan, trained, out, margin=margin, measure_all=measure_all)
        for arena in plan.arenas
        if any(job.env == arena.name for job, _ in trained.done)
    ]
    runs = [run for task, _ in found for run in task.runs]
    judged = {run.policy for run in runs if run.judged}
    beside = [(task.runs, task.target.policy) for task, _ in found if task.target is not None]
    comparison = PolicyComparison(
        out=out,
        seeds=plan.seeds,
        margin=margin,
        tasks=tuple(task for task, _ in found),
        aggregates=aggregate(runs),
        against=against_baselines(runs),
        non_inferiority=tuple(one for one in non_inferiority(ALL, beside, margin) if one.policy in judged),
        notes=plan.notes,
        failed=trained.failed,
    )
    _save(comparison, [course for _, courses in found for course in courses])
    return comparison


def _keep_other_tasks(out: Path, envs: set[str]) -> None:
    """Keep the figures of tasks that are not asked for, which the new ones would take the place of."""
    try:
        there = load_comparison(out)
    except LibraryError:
        return
    if lost := sorted(there.keys() - envs):
        raise OutputError(
            f"{out}: holds the comparison of task '{lost[0]}', which is not asked for now; name it too, or choose "
            "another directory"
        )


def _on_task(
    arena: Arena, plan: Plan, trained: Trained, out: Path, *, margin: float, measure_all: bool
) -> tuple[TaskComparison, list[Course]]:
    facts, score = trained.facts[arena.name], arena.task.score
    own = [(job, summary) for job, summary in trained.done if job.env == arena.name]
    read = read_courses(arena, facts, own, out)
    runs = tuple(course.run for course in read.courses)
    reference = read.target.policy if read.target is not None else None
    # The reference first: without beacons it is known only now.
    contestants = sorted(arena.contestants, key=lambda one: one.name != reference)
    names = [one.name for one in contestants]
    by_policy = {name: [run for run in runs if run.policy == name] for name in names}
    recording = recording_of(arena.library, facts.costs) if arena.library is not None else None
    figures = tuple(
        policy_figures(
            one.name,
            by_policy[one.name],
            reference=[] if reference is None else by_policy[reference],
            seeds=len(plan.seeds),
            score=score,
            recording=recording if one.needs_library else None,
            judged=one.judged,
            split=one.split,
            hindsight_score=read.hindsight_score,
        )
        for one in contestants
    )
    beside = [] if reference is None else [(runs, reference)]
    task = TaskComparison(
        env=arena.name,
        score=score,
        epochs=arena.task.epochs,
        seeds=plan.seeds,
        device=trained.device,
        measure_all=measure_all,
        costs=facts.costs,
        target=read.target,
        recording=recording,
        scale=read.scale,
        hindsight=read.hindsight,
        hindsight_score=read.hindsight_score,
        policies=figures,
        tests=() if reference is None else policy_tests(runs, policies=names, reference=reference, score=score),
        non_inferiority=non_inferiority(arena.name, beside, margin),
        runs=runs,
        failed={name: message for name, message in trained.failed.items() if name.startswith(f"{arena.name} ")},
    )
    return task, read.courses


def _save(comparison: PolicyComparison, courses: Sequence[Course]) -> None:
    out = comparison.out
    facts = {
        "seeds": list(comparison.seeds),
        "device": comparison.tasks[0].device,
        "measure_all": comparison.tasks[0].measure_all,
        "versions": software_versions(),
        "tasks": {task.env: _facts(task) for task in comparison.tasks},
    }
    save_tables(out, facts, [course.run for course in courses], [course.rows for course in courses])
    write_whole(out / POLICIES_TABLE, policies_csv(comparison).encode())
    write_whole(out / RUNS_TABLE, runs_csv(comparison).encode())
    write_whole(out / FIGURES, comparison_json(comparison).encode())
    seeds = f"{len(comparison.seeds)} seeds"
    for task in comparison.tasks:
        lines = [_line(task, one.policy, courses) for one in task.policies]
        target = math.nan if task.target is None else task.target.validation_error
        reference = "" if task.target is None else task.target.policy
        save_task(
            out / f"comparison-{task.env}.png", f"{task.env}, {task.epochs} epochs, {seeds}", lines, reference, target
        )
    save_overall(out / PICTURE, f"{', '.join(task.env for task in comparison.tasks)}; {seeds}", comparison.aggregates)
    write_whole(out / REPORT, comparison_markdown(comparison).encode())


def _facts(task: TaskComparison) -> dict[str, object]:
    return {
        "score": task.score,
        "reference": None if task.target is None else task.target.policy,
        "target_validation_error": None if task.target is None else plain(task.target.validation_error),
        "policies": [one.policy for one in task.policies],
    }


def _line(task: TaskComparison, policy: str, courses: Sequence[Course]) -> TaskLine:
    figures = next(one for one in task.policies if one.policy == policy)
    own = [course for course in courses if (course.run.env, course.run.policy) == (task.env, policy)]
    return TaskLine(
        label=policy,
        test_errors=tuple(course.run.test_error for course in own if course.run.finished),
        test_error=(figures.test_error.mean, figures.test_error.low, figures.test_error.high),
        diverged=figures.diverged,
        time=(figures.time_ratio.median, figures.time_ratio.least, figures.time_ratio.greatest),
        modelled_time=figures.modelled_ratio,
        curve=mean_curve(own),
    )

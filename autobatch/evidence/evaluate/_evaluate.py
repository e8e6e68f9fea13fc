"""Evaluating policies by real training: on which tasks and seeds, against which baselines, and what came of it."""

from collections.abc import Sequence
from pathlib import Path

from autobatch._files import write_whole
from autobatch.evidence.evaluate._picture import EvaluationBar, save_evaluation
from autobatch.evidence.evaluate._plan import BASELINES, make_plan
from autobatch.evidence.evaluate._report import Evaluation, csv_table, json_text
from autobatch.evidence.evaluate._results import task_result
from autobatch.evidence.evaluate._runs import EvaluationObserver
from autobatch.evidence.evaluate._summary import aggregate, compare
from autobatch.evidence.evaluate._train import train_all
from autobatch.policies import PolicySpec

REPORT, RESULTS, FIGURES, PICTURE = "report.md", "results.csv", "evaluation.json", "evaluation.png"
"""The files of an evaluation, beside a folder of run directories for each task."""


def evaluate_policies(
    policies: Sequence[str | Path | PolicySpec],
    envs: Sequence[str | Path],
    seeds: Sequence[int],
    *,
    out: str | Path,
    baselines: Sequence[str] = BASELINES,
    jobs: int = 1,
    device: str = "auto",
    data_dir: Path | None = None,
    trust_code: bool = False,
    observer: EvaluationObserver | None = None,
) -> Evaluation:
    """Train every policy and baseline on every task with every seed, and say what can be said.

    Every run is a run directory ``out/TASK/POLICY-sSEED``. Finished ones are not trained again and cut ones go on, so
    the same call can be stopped at any time and repeated, also with more policies, tasks or seeds. ``out`` gets
    ``report.md``, ``results.csv``, ``evaluation.json`` and ``evaluation.png``.

    Args:
        policies: names, paths or policies; they may be baselines as well.
        envs: names or paths of tasks. Without beacons, fixed runs are at the task's own rate, and what needs beacons is
            left out.
        seeds: seeds that nothing was chosen by.
        out: the directory; new, empty, or that of an earlier evaluation.
        baselines: what the policies are compared with: ``"fixed"`` (every rung of the ladder at its best recorded
            rate), ``"random"``, ``"stages"`` (the paper's schedules, where the ladder has their sizes),
            ``"beacon-follow"``, ``"bandit"`` (RMGD); ``"none"`` or nothing for none.
        jobs: runs side by side. They share the task's threads, and times by the clock are marked as shared.
        device: torch device.
        data_dir: where datasets lie.
        trust_code: allow a task to name a model factory to import.
        observer: what watches.

    Returns:
        The evaluation. Runs that could not be carried out are in ``failed``, and nowhere else.

    Raises:
        ConfigError: the arguments cannot be carried out, or no run could.
        UnknownNameError: no such policy, env or baseline.
        LibraryError: beacons are damaged, of another task, or missing where a policy needs them.
        OutputError: ``out`` holds something else, or cannot be written.
        CheckpointError: a run in ``out`` has another configuration than now, or is damaged.
        DataError: data are missing or damaged.
    """
    plan = make_plan(policies, envs, seeds, baselines)
    out = Path(out).absolute()
    trained = train_all(
        plan,
        out,
        jobs=jobs,
        device=device,
        data_dir=data_dir,
        trust_code=trust_code,
        observer=observer or EvaluationObserver(),
    )
    tasks = tuple(
        task_result(arena, trained.facts[arena.name], own, out)
        for arena in plan.arenas
        if (own := [(job, summary) for job, summary in trained.done if job.env == arena.name])
    )
    instances = [one for task in tasks for one in task.instances]
    evaluation = Evaluation(
        out=out,
        seeds=plan.seeds,
        tasks=tasks,
        aggregates=aggregate(instances),
        comparisons=compare(instances),
        notes=plan.notes,
        failed=trained.failed,
        device=trained.device,
    )
    _save(evaluation)
    return evaluation


def _save(evaluation: Evaluation) -> None:
    write_whole(evaluation.out / RESULTS, csv_table(evaluation).encode())
    write_whole(evaluation.out / FIGURES, json_text(evaluation).encode())
    bars = [
        EvaluationBar(
            label=one.label if one.scope == "all" else f"{one.label}, {one.scope}",
            judged=one.judged,
            quality=(one.quality.value, one.quality.low, one.quality.high),
            time=(one.modelled_ratio.value, one.modelled_ratio.low, one.modelled_ratio.high),
        )
        for one in evaluation.aggregates
    ]
    tasks = ", ".join(task.env for task in evaluation.tasks)
    save_evaluation(evaluation.out / PICTURE, f"{tasks}; {len(evaluation.seeds)} seeds", bars)
    write_whole(evaluation.out / REPORT, evaluation.report().encode())

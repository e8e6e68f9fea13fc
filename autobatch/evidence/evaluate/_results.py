"""The figures of single runs, and what they come to on each task."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median, stdev

from autobatch.evidence.evaluate._plan import BEST_FIXED, Arena, Contestant
from autobatch.evidence.evaluate._runs import About, Job, side_by_side
from autobatch.policies import Quality
from autobatch.report import modelled_seconds
from autobatch.report._words import path_words
from autobatch.training import Summary, load_epochs

FINISHED = "finished"


@dataclass(frozen=True)
class Instance:
    """One run: a policy on a task with a seed. Figures that are not known are NaN.

    Attributes:
        env: the task's name.
        policy: the policy's name.
        seed: the run's seed.
        judged: whether the policy is one of those that are evaluated.
        labels: the names under which the run counts over all tasks.
        split: ``"train"`` or ``"unseen"`` for a learned policy, else empty.
        stopped_because: ``"finished"``, or why not.
        score: final validation figure that the task ranks runs by; NaN where the run diverged.
        quality: the score on the scale on which 0 is guessing and 1 the best fixed beacon.
        validation_loss: final validation loss.
        validation_error: final validation error.
        test_error: final test error, for reports only.
        modelled_seconds: time by the task's cost table, measuring included.
        modelled_ratio: that over the best fixed beacon's.
        measured_seconds: time by the clock, measuring included.
        measuring_seconds: the part of it that measuring took.
        measured_ratio: time by the clock over that of the best fixed beacon's run with the same seed.
        optimizer_steps: steps taken.
        samples: measured steps.
        batch_sizes: the batch sizes of successive epochs, in words.
        side_by_side: runs that trained at the same time, this one included.
        run: the run directory, within the evaluation's.
    """

    env: str
    policy: str
    seed: int
    judged: bool
    labels: tuple[str, ...]
    split: str
    stopped_because: str
    score: float
    quality: float
    validation_loss: float
    validation_error: float
    test_error: float
    modelled_seconds: float
    modelled_ratio: float
    measured_seconds: float
    measuring_seconds: float
    measured_ratio: float
    optimizer_steps: int
    samples: int
    batch_sizes: str
    side_by_side: int
    run: str


@dataclass(frozen=True)
class TaskSummary:
    """What one policy came to on one task. Means are over the seeds that finished; NaN where none did.

    Attributes:
        env: the task's name.
        policy: the policy's name.
        judged: whether the policy is one of those that are evaluated.
        split: ``"train"`` or ``"unseen"`` for a learned policy, else empty.
        runs: seeds that were trained.
        diverged: how many of them did not finish.
        score: mean and standard deviation of the final score.
        quality: mean quality, diverged runs included.
        test_error: mean and standard deviation of the final test error.
        modelled_seconds: mean time by the cost table, measuring included.
        measured_seconds: mean time by the clock, measuring included.
        modelled_ratio: mean modelled time over the best fixed beacon's.
        measured_ratio: median over seeds of the time by the clock over the best fixed beacon's.
        measuring_share: share of the time by the clock that measuring took.
        gap: mean score less that of the best fixed configuration in hindsight; below 0 is better.
        relative_gap: the gap over the score of the best fixed configuration in hindsight.
    """

    env: str
    policy: str
    judged: bool
    split: str
    runs: int
    diverged: int
    score: tuple[float, float]
    quality: float
    test_error: tuple[float, float]
    modelled_seconds: float
    measured_seconds: float
    modelled_ratio: float
    measured_ratio: float
    measuring_share: float
    gap: float
    relative_gap: float


@dataclass(frozen=True)
class TaskResult:
    """All that was trained on one task.

    Attributes:
        env: the task's name.
        score: the figure that ranks runs.
        quality: the scale of the runs' quality.
        scale: in words, what quality 1 stands for.
        reference: the best fixed beacon's policy that times are compared with; None where there is none.
        hindsight: the fixed configuration with the lowest mean score on these very seeds, among the fixed baselines
            that finished all of them; None where there is none.
        hindsight_score: its mean score.
        instances: the runs.
        summaries: the policies.
    """

    env: str
    score: str
    quality: Quality
    scale: str
    reference: str | None
    hindsight: str | None
    hindsight_score: float
    instances: tuple[Instance, ...]
    summaries: tuple[TaskSummary, ...]


def task_result(arena: Arena, facts: About, runs: Sequence[tuple[Job, Summary]], out: Path) -> TaskResult:
    """Read the runs of a task.

    Args:
        arena: the task.
        facts: what is known of it.
        runs: its finished runs.
        out: the evaluation's directory.

    Returns:
        The figures.

    Raises:
        CheckpointError: a run's records are damaged.
    """
    contestants = {contestant.name: contestant for contestant in arena.contestants}
    plain = [_instance(job, summary, contestants[job.policy], facts, out) for job, summary in runs]
    hindsight, lowest = _hindsight(plain, contestants)
    quality, scale = _quality(arena, facts, hindsight, lowest)
    recorded = next((one.name for one in arena.contestants if BEST_FIXED in one.labels), None)
    reference = recorded if arena.library is not None else hindsight
    base = _reference_seconds(plain, reference, arena, facts)
    clock = {one.seed: one.measured_seconds for one in plain if one.policy == reference and _done(one)}
    instances = tuple(
        replace(
            one,
            quality=float(quality(one.score)),
            modelled_ratio=one.modelled_seconds / base if _done(one) else math.nan,
            measured_ratio=one.measured_seconds / clock[one.seed] if _done(one) and one.seed in clock else math.nan,
        )
        for one in plain
    )
    grouped: dict[str, list[Instance]] = defaultdict(list)
    for one in sorted(instances, key=lambda one: list(contestants).index(one.policy)):
        grouped[one.policy].append(one)
    summaries = tuple(_summary(group, lowest) for group in grouped.values())
    ordered = tuple(one for group in grouped.values() for one in sorted(group, key=lambda one: one.seed))
    return TaskResult(arena.name, arena.task.score, quality, scale, reference, hindsight, lowest, ordered, summaries)


def _instance(job: Job, summary: Summary, contestant: Contestant, facts: About, out: Path) -> Instance:
    rows = load_epochs(job.out)
    score = summary.validation_loss if job.config.task.score == "validation_loss" else summary.validation_error
    return Instance(
        env=job.env,
        policy=job.policy,
        seed=job.seed,
        judged=contestant.judged,
        labels=contestant.labels,
        split=contestant.split or "",
        stopped_because=summary.stopped_because,
        score=_number(score) if summary.stopped_because == FINISHED else math.nan,
        quality=math.nan,
        validation_loss=_number(summary.validation_loss),
        validation_error=_number(summary.validation_error),
        test_error=_number(summary.test_error),
        modelled_seconds=modelled_seconds(rows, facts.costs),
        modelled_ratio=math.nan,
        measured_seconds=summary.seconds,
        measuring_seconds=summary.measuring_seconds,
        measured_ratio=math.nan,
        optimizer_steps=summary.optimizer_steps,
        samples=summary.samples,
        batch_sizes=path_words(row.batch_size for row in rows),
        side_by_side=side_by_side(job),
        run=job.out.relative_to(out).as_posix(),
    )


def _hindsight(instances: Sequence[Instance], contestants: dict[str, Contestant]) -> tuple[str | None, float]:
    seeds = {one.seed for one in instances}
    best: tuple[str | None, float] = (None, math.nan)
    for name, contestant in contestants.items():
        own = [one for one in instances if one.policy == name and _done(one)]
        if contestant.fixed and {one.seed for one in own} == seeds:
            mean = fmean(one.score for one in own)
            best = (name, mean) if best[0] is None or mean < best[1] else best
    return best


def _quality(arena: Arena, facts: About, hindsight: str | None, lowest: float) -> tuple[Quality, str]:
    if arena.library is not None:
        return Quality.of(arena.library), "the best fixed beacon"
    plain = Quality.of_classes(arena.task.score, facts.num_classes)
    if hindsight is not None and 0.0 < lowest < plain.chance:
        return Quality(plain.score, plain.chance, lowest), f"the best fixed run in hindsight, {hindsight}"
    return plain, "a fiftieth of what guessing gives, for want of beacons and fixed runs"


def _reference_seconds(instances: Sequence[Instance], reference: str | None, arena: Arena, facts: About) -> float:
    """Return the modelled time of the best fixed beacon, which needs no run where it was recorded."""
    trained = [one.modelled_seconds for one in instances if one.policy == reference and _done(one)]
    if trained:
        return fmean(trained)
    if arena.library is None:
        return math.nan
    best = arena.library.best_fixed()
    if best.batch_size not in facts.costs.step_seconds:
        return math.nan
    return facts.costs.training_seconds(best.batch_size, best.mean["steps"], arena.task.epochs)


def _summary(group: Sequence[Instance], lowest: float) -> TaskSummary:
    done = [one for one in group if _done(one)]
    score = _spread([one.score for one in done])
    gap = score[0] - lowest if len(done) == len(group) else math.nan
    return TaskSummary(
        env=group[0].env,
        policy=group[0].policy,
        judged=group[0].judged,
        split=group[0].split,
        runs=len(group),
        diverged=len(group) - len(done),
        score=score,
        quality=fmean(one.quality for one in group),
        test_error=_spread([one.test_error for one in done]),
        modelled_seconds=_spread([one.modelled_seconds for one in done])[0],
        measured_seconds=_spread([one.measured_seconds for one in done])[0],
        modelled_ratio=_spread([one.modelled_ratio for one in done])[0],
        measured_ratio=median(known) if (known := [one.measured_ratio for one in done]) else math.nan,
        measuring_share=sum(one.measuring_seconds for one in group) / sum(one.measured_seconds for one in group),
        gap=gap,
        relative_gap=gap / lowest if lowest > 0.0 else math.nan,
    )


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return fmean(values) if values else math.nan, stdev(values) if len(values) > 1 else math.nan


def _done(instance: Instance) -> bool:
    return instance.stopped_because == FINISHED


def _number(value: float | None) -> float:
    return math.nan if value is None else value

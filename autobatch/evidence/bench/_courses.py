"""The runs of one task, read back: the figures of each, and when it got to the best fixed beacon's error."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from autobatch.beacons import BeaconLibrary, CostTable
from autobatch.evidence.bench._cells import Job, circumstances
from autobatch.evidence.bench._compared import ComparedRun
from autobatch.evidence.bench._plan import BEST_FIXED, Arena, Contestant
from autobatch.evidence.bench._runs import About
from autobatch.policies import Quality
from autobatch.report._comparison import modelled_course
from autobatch.report._words import parts_of, path_words
from autobatch.training import EpochRow, Summary, load_epochs

_ROUND_OFF = 1e-12


@dataclass(frozen=True)
class Target:
    """The fixed configuration that a task's policies are compared with.

    Attributes:
        policy: its policy's name, such as ``"s32-lr0.05"``.
        validation_error: the best fixed beacon's mean final validation error over its seeds in the library; NaN where
            that is not known.
        test_error: its mean final test error over the same seeds, for reports only.
        seeds: those seeds.
        what: what makes it the one to compare with, in words.
    """

    policy: str
    validation_error: float
    test_error: float
    seeds: tuple[int, ...]
    what: str = BEST_FIXED


@dataclass(frozen=True)
class Recording:
    """What the beacons of a task have cost.

    Attributes:
        beacons: how many there are.
        seconds: time by the clock of the machine that recorded them, measuring included.
        modelled_seconds: time by the cost table of the comparison, measuring included; NaN where it lacks a batch size.
    """

    beacons: int
    seconds: float
    modelled_seconds: float


@dataclass(frozen=True)
class Course:
    """How one run went.

    Attributes:
        run: its figures.
        rows: its epochs.
        modelled: time by the cost table after each of them, measuring, scouts and forks included.
    """

    run: ComparedRun
    rows: list[EpochRow]
    modelled: list[float]


@dataclass(frozen=True)
class Courses:
    """How all runs of a task went.

    Attributes:
        courses: the runs, by policy and seed; those of the reference first.
        target: what they are compared with; None where no fixed configuration trains with all seeds.
        hindsight: the fixed configuration with the lowest mean score on these very seeds, among those that finished all
            of them; None where there is none.
        hindsight_score: its mean score; NaN likewise.
        scale: in words, what quality 1 stands for.
    """

    courses: list[Course]
    target: Target | None
    hindsight: str | None
    hindsight_score: float
    scale: str


def read_courses(arena: Arena, facts: About, runs: Sequence[tuple[Job, Summary]], out: Path) -> Courses:
    """Read the runs of a task."""
    contestants = {contestant.name: contestant for contestant in arena.contestants}
    target = _recorded_target(arena)
    read = [
        _course(job, summary, contestants[job.policy], costs=facts.costs, target=target, out=out)
        for job, summary in runs
    ]
    hindsight, lowest = _hindsight([course.run for course in read], contestants, arena.task.score)
    quality, scale = _quality(arena, facts, hindsight, lowest)
    # Without beacons, the best fixed run of these very seeds stands in for the best fixed beacon.
    if target is None and arena.best is None and hindsight is not None:
        target = Target(hindsight, math.nan, math.nan, (), "best fixed run in hindsight")
    base = [course.run for course in read if target is not None and course.run.policy == target.policy]
    base = [run for run in base if run.finished]
    price, clock = _price(base, arena, facts), {run.seed: run.seconds for run in base}
    rated = [replace(course, run=_rated(course.run, quality, arena.task.score, price, clock)) for course in read]
    order = [target.policy] if target is not None else []
    order += [name for name in contestants if name not in order]
    rated.sort(key=lambda course: (order.index(course.run.policy), course.run.seed))
    return Courses(rated, target, hindsight, lowest, scale)


def recording_of(library: BeaconLibrary, costs: CostTable) -> Recording:
    """Return what the beacons of a task have cost, by the clock and by the cost table of the comparison."""
    sizes = {beacon.batch_size for beacon in library.beacons}
    return Recording(
        beacons=len(library.beacons),
        seconds=sum(beacon.final("seconds") for beacon in library.beacons),
        modelled_seconds=sum(
            costs.training_seconds(beacon.batch_size, beacon.final("steps"), len(beacon.rows["epoch"]))
            + costs.measuring(beacon.batch_size) * beacon.final("samples")
            for beacon in library.beacons
        )
        if sizes <= costs.step_seconds.keys() & costs.measuring_seconds.keys()
        else math.nan,
    )


def mean_curve(courses: Sequence[Course]) -> tuple[list[float], list[float]]:
    """Return the validation error over modelled time, epoch by epoch as a mean over the runs that finished.

    Runs may be of different lengths: one that has ended costs no more and stays as good as it was.

    Args:
        courses: runs of one policy.

    Returns:
        Seconds and errors; empty where no run finished.
    """
    sound = [course for course in courses if course.run.finished and course.rows]
    longest = max((len(course.rows) for course in sound), default=0)

    def mean(columns: Sequence[Sequence[float]]) -> list[float]:
        return [fmean(column[min(epoch, len(column) - 1)] for column in columns) for epoch in range(longest)]

    return (
        mean([course.modelled for course in sound]),
        mean([[row.validation_error for row in course.rows] for course in sound]),
    )


def _recorded_target(arena: Arena) -> Target | None:
    if arena.best is None or arena.best.name not in {contestant.name for contestant in arena.contestants}:
        return None
    if arena.library is None:  # trained for another number of epochs than the beacons
        return Target(arena.best.name, math.nan, math.nan, (), "best fixed beacon at the task's own length")
    best = arena.library.best_fixed()
    return Target(arena.best.name, best.mean["validation_error"], best.mean["test_error"], best.seeds)


def _course(
    job: Job, summary: Summary, contestant: Contestant, *, costs: CostTable, target: Target | None, out: Path
) -> Course:
    """Return a run as it went. This is the one place where comparisons take its cost from.

    What scouts and forks have thrown away is charged to the totals, where its summary has charged it already, and to
    the courses: time where it went by, examples to every epoch.
    """
    rows = load_epochs(job.out)
    modelled = modelled_course(rows, costs, summary.scouts, summary.forks)
    run = ComparedRun(
        env=job.env,
        policy=job.policy,
        seed=job.seed,
        batch_sizes=path_words((row.batch_size for row in rows), parts_of([row.epoch for row in rows])),
        stopped_because=summary.stopped_because,
        validation_loss=_number(summary.validation_loss),
        validation_error=_number(summary.validation_error),
        test_error=_number(summary.test_error),
        test_loss=_number(summary.test_loss),
        seconds=summary.seconds,
        measuring_seconds=summary.measuring_seconds,
        modelled_seconds=modelled[-1] if modelled else 0.0,
        examples=summary.examples,
        optimizer_steps=summary.optimizer_steps,
        samples=summary.samples,
        side_by_side=int(circumstances(job.out).get("side_by_side", job.side_by_side)),
        to_target_seconds=None,
        to_target_modelled_seconds=None,
        to_target_examples=None,
        epochs=len(rows),
        judged=contestant.judged,
        labels=contestant.labels,
        split=contestant.split,
        run=job.out.relative_to(out).as_posix(),
    )
    reached = _reached(rows, target.validation_error) if target is not None and run.finished else None
    if reached is not None:
        run = replace(
            run,
            to_target_seconds=rows[reached].seconds,
            to_target_modelled_seconds=modelled[reached],
            to_target_examples=rows[reached].examples + summary.examples - rows[-1].examples,
        )
    return Course(run, rows, modelled)


def _rated(run: ComparedRun, quality: Quality, score: str, price: float, clock: dict[int, float]) -> ComparedRun:
    if not run.finished:
        return replace(run, quality=float(quality(math.nan)))
    return replace(
        run,
        quality=float(quality(getattr(run, score))),
        modelled_ratio=run.modelled_seconds / price,
        measured_ratio=run.seconds / clock[run.seed] if run.seed in clock else math.nan,
    )


def _hindsight(runs: Sequence[ComparedRun], contestants: dict[str, Contestant], score: str) -> tuple[str | None, float]:
    seeds = {run.seed for run in runs}
    best: tuple[str | None, float] = (None, math.nan)
    for name, contestant in contestants.items():
        own = [run for run in runs if run.policy == name and run.finished]
        if contestant.fixed and {run.seed for run in own} == seeds:
            mean = fmean(getattr(run, score) for run in own)
            best = (name, mean) if best[0] is None or mean < best[1] else best
    return best


def _quality(arena: Arena, facts: About, hindsight: str | None, lowest: float) -> tuple[Quality, str]:
    if arena.library is not None:
        return Quality.of(arena.library), "the best fixed beacon"
    plain = Quality.of_classes(arena.task.score, facts.num_classes)
    if hindsight is not None and 0.0 < lowest < plain.chance:
        return Quality(plain.score, plain.chance, lowest), f"the best fixed run in hindsight, {hindsight}"
    return plain, "a fiftieth of what guessing gives, for want of beacons and fixed runs"


def _price(base: Sequence[ComparedRun], arena: Arena, facts: About) -> float:
    """Return the modelled time of the best fixed beacon, which needs no run where it was recorded."""
    if base:
        return fmean(run.modelled_seconds for run in base)
    if arena.library is None:
        return math.nan
    best = arena.library.best_fixed()
    if best.batch_size not in facts.costs.step_seconds:
        return math.nan
    return facts.costs.training_seconds(best.batch_size, best.mean["steps"], arena.task.epochs)


def _reached(rows: Sequence[EpochRow], target: float) -> int | None:
    return next((index for index, row in enumerate(rows) if row.validation_error <= target + _ROUND_OFF), None)


def _number(value: float | None) -> float:
    return math.nan if value is None else value

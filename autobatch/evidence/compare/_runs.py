"""The runs of a comparison, read back: the figures of each, and when it got to the best fixed beacon's error."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autobatch.beacons import BeaconLibrary, CostTable
from autobatch.evidence.compare._tables import ComparedRun
from autobatch.evidence.evaluate import Job, side_by_side
from autobatch.report._comparison import modelled_course
from autobatch.report._words import path_words
from autobatch.training import EpochRow, Summary, load_epochs

_ROUND_OFF = 1e-12


@dataclass(frozen=True)
class Target:
    """The best fixed beacon as its library has it.

    Attributes:
        policy: its policy's name, such as ``"s32-lr0.05"``.
        validation_error: mean final validation error over its seeds in the library; NaN where that is not known.
        test_error: mean final test error over the same seeds, for reports only.
        seeds: those seeds.
    """

    policy: str
    validation_error: float
    test_error: float
    seeds: tuple[int, ...]


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
        modelled: time by the cost table after each of them.
    """

    run: ComparedRun
    rows: list[EpochRow]
    modelled: list[float]


def read_course(job: Job, summary: Summary, costs: CostTable, target: Target) -> Course:
    """Read one run.

    Args:
        job: the run; it is on disk.
        summary: how it ended.
        costs: the cost table of the comparison.
        target: the best fixed beacon.

    Returns:
        The run.

    Raises:
        CheckpointError: its records are damaged.
    """
    rows = load_epochs(job.out)
    modelled = modelled_course(rows, costs)
    reached = _reached(rows, target.validation_error) if summary.stopped_because == "finished" else None
    run = ComparedRun(
        env=job.env,
        policy=job.policy,
        seed=job.seed,
        batch_sizes=path_words(row.batch_size for row in rows),
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
        side_by_side=side_by_side(job),
        to_target_seconds=None if reached is None else rows[reached].seconds,
        to_target_modelled_seconds=None if reached is None else modelled[reached],
        to_target_examples=None if reached is None else rows[reached].examples,
    )
    return Course(run, rows, modelled)


def recording_of(library: BeaconLibrary, costs: CostTable) -> Recording:
    """Return what the beacons of a task have cost.

    Args:
        library: the beacons.
        costs: the cost table of the comparison.

    Returns:
        The figures.
    """
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

    Args:
        courses: runs of one policy.

    Returns:
        Seconds and errors; empty where no run finished.
    """
    sound = [course for course in courses if course.run.finished]
    seconds = [_mean(some) for some in zip(*(course.modelled for course in sound), strict=True)]
    errors = [_mean([row.validation_error for row in some]) for some in zip(*(one.rows for one in sound), strict=True)]
    return seconds, errors


def _reached(rows: Sequence[EpochRow], target: float) -> int | None:
    return next((index for index, row in enumerate(rows) if row.validation_error <= target + _ROUND_OFF), None)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _number(value: float | None) -> float:
    return math.nan if value is None else value

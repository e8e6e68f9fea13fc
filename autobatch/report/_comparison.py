"""A finished run beside the fixed beacons of its task: figures, like with like, and a verdict in plain words."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from autobatch.beacons import BeaconLibrary, CostTable, FixedResult
from autobatch.training import EpochRow, Summary

Words = Callable[[float | None], str]
"""Puts a figure into words."""

SMALL_DIFFERENCE = 0.05
"""Share of time below which two trainings count as equally long."""


@dataclass(frozen=True)
class Comparison:
    """The beacons' side of a comparison.

    Attributes:
        score: the figure that ranks runs; lower is better.
        best: the best fixed configuration, over its seeds.
        expected: the score to expect of a fresh training at the best fixed configuration, its luck taken out.
        spread: standard deviation of the score over the seeds of a configuration, the median of all that finished; the
            best configuration's own is often small by luck. 0 where no configuration has two seeds.
        ranges: least and greatest final value of each figure over all finished beacons that have it, NaN where none
            has; besides the figures of a
            ``FixedResult`` also ``training_seconds``, which leaves measuring out.
        beacons: beacons in the library.
        diverged: how many of them diverged.
        recording_seconds: time that recording all of them took, measuring included.
        seconds: this run by its cost table, measuring included; None without a table.
        best_seconds: the best beacon by the same table, without measuring; None without a table.
    """

    score: str
    best: FixedResult
    expected: float
    spread: float
    ranges: Mapping[str, tuple[float, float]]
    beacons: int
    diverged: int
    recording_seconds: float
    seconds: float | None
    best_seconds: float | None

    def best_words(self, figure: str, words: Words) -> str:
        """Return a figure of the best fixed beacon, with its spread over seeds."""
        spread = self.best.std[figure]
        return words(self.best.mean[figure]) + (f" ± {words(spread)}" if math.isfinite(spread) and spread > 0 else "")

    def range_words(self, figure: str, words: Words) -> str:
        """Return the least and the greatest value of a figure, once where they are one."""
        lowest, highest = self.ranges[figure]
        return f"{words(lowest)} … {words(highest)}" if lowest < highest else words(lowest)


def compare(
    epochs: list[EpochRow],
    costs: CostTable | None,
    library: BeaconLibrary,
    scouts: Sequence[Mapping[str, Any]] = (),
    forks: Sequence[Mapping[str, Any]] = (),
) -> Comparison:
    """Set a run beside the beacons of its task.

    Args:
        epochs: the run's epochs.
        costs: the run's cost table, if it has one.
        library: the task's beacons.
        scouts: the run's scouts, as its summary has them; those that lost are charged.
        forks: its forks, as its summary has them; the epochs that were thrown away are charged.

    Returns:
        The figures to show beside the run's.

    Raises:
        LibraryError: no configuration of the library finished with all its seeds.
    """
    best = library.best_fixed()
    finished = [beacon for beacon in library.beacons if beacon.finished]
    finals = {figure: [beacon.final(figure) for beacon in finished] for figure in best.mean}
    finals["training_seconds"] = [
        total - measuring for total, measuring in zip(finals["seconds"], finals["measuring_seconds"], strict=True)
    ]
    seconds = best_seconds = None
    sizes = {best.batch_size, *(row.batch_size for row in epochs), *(int(scout["batch_size"]) for scout in scouts)}
    sizes |= {_thrown_size(fork) for fork in forks}
    if costs is not None and sizes <= costs.step_seconds.keys():
        seconds = modelled_seconds(epochs, costs, scouts, forks)
        best_seconds = costs.training_seconds(best.batch_size, best.mean["steps"], _epochs_of(library, best))
    return Comparison(
        score=library.score,
        best=best,
        expected=library.expected_best(),
        spread=_typical_spread(library),
        ranges={figure: _range(values) for figure, values in finals.items()},
        beacons=len(library.beacons),
        diverged=len(library.beacons) - len(finished),
        recording_seconds=sum(beacon.final("seconds") for beacon in library.beacons),
        seconds=seconds,
        best_seconds=best_seconds,
    )


def modelled_seconds(
    epochs: list[EpochRow],
    costs: CostTable,
    scouts: Sequence[Mapping[str, Any]] = (),
    forks: Sequence[Mapping[str, Any]] = (),
) -> float:
    """Return what a run cost by a table, measuring and what scouts and forks have thrown away included.

    Args:
        epochs: the run's epochs, from the first.
        costs: a table that holds their batch sizes.
        scouts: the run's scouts, as its summary has them.
        forks: its forks, as its summary has them.

    Returns:
        Seconds.
    """
    return modelled_course(epochs, costs, scouts, forks)[-1] if epochs else 0.0


def modelled_course(
    epochs: list[EpochRow],
    costs: CostTable,
    scouts: Sequence[Mapping[str, Any]] = (),
    forks: Sequence[Mapping[str, Any]] = (),
) -> list[float]:
    """Return the modelled seconds, in all, after each of a run's epochs, measuring, scouts and forks included."""
    course: list[float] = []
    total, steps, samples = 0.0, 0, 0
    for scout in scouts:
        if not scout["won"]:
            total += _seconds_of(scout, int(scout["batch_size"]), scout["epochs"], costs)
    for row in epochs:
        for fork in forks:
            if fork["epoch"] == row.epoch - 1:
                total += _seconds_of(fork, _thrown_size(fork), 1, costs)
        total += costs.training_seconds(row.batch_size, row.steps - steps, epochs=1)
        total += costs.measuring(row.batch_size) * (row.samples - samples)
        steps, samples = row.steps, row.samples
        course.append(total)
    return course


def _seconds_of(thrown: Mapping[str, Any], size: int, epochs: int, costs: CostTable) -> float:
    seconds = costs.training_seconds(size, float(thrown["optimizer_steps"]), epochs)
    return seconds + costs.measuring(size) * float(thrown["samples"])


def _thrown_size(fork: Mapping[str, Any]) -> int:
    return int(fork["batch_size"] if fork["taken"] else fork["fork_batch_size"])


def verdict(summary: Summary, comparison: Comparison) -> str:
    """Say in plain words whether the run was worth it.

    "As good" means within two standard deviations over a configuration's seeds of what a fresh training at the best
    fixed configuration is expected to reach; times within 5 % count as equal.

    Args:
        summary: how the run ended.
        comparison: the beacons beside it.

    Returns:
        One or two sentences.
    """
    if summary.stopped_because != "finished":
        return f"No gain: the run ended early ({summary.stopped_because}) and the best fixed beacon did not."
    score = summary.validation_loss if comparison.score == "validation_loss" else summary.validation_error
    score = math.inf if score is None else score
    mean, margin = comparison.expected, 2 * comparison.spread
    worse, better = score > mean + margin, score < mean - margin
    ratio, clock = _time_ratio(summary, comparison)
    faster, slower = ratio < 1 - SMALL_DIFFERENCE, ratio > 1 + SMALL_DIFFERENCE
    quality = "worse than" if worse else "better than" if better else "as good as"
    figure = comparison.score.replace("_", " ")
    verb = "in" if faster == (not worse) or not (faster or slower) else "though in"
    judgement = "No gain" if worse or (not faster and not better) else "Gain"
    time = f"{ratio:.2f} times its time" if faster or slower else "the same time"
    return f"{judgement}: {quality} the best fixed beacon by {figure}, {verb} {time} ({clock})."


def _time_ratio(summary: Summary, comparison: Comparison) -> tuple[float, str]:
    if comparison.seconds is not None and comparison.best_seconds:
        return comparison.seconds / comparison.best_seconds, "one cost table for both, this run's measuring included"
    wall = summary.seconds / comparison.best.training_seconds
    return wall, "by the clock, the beacon's on the machine that recorded it"


def _range(values: list[float]) -> tuple[float, float]:
    known = [value for value in values if math.isfinite(value)]
    return (min(known), max(known)) if known else (math.nan, math.nan)


def _typical_spread(library: BeaconLibrary) -> float:
    spreads = [result.std[library.score] for result in library.results() if not result.diverged]
    known = [spread for spread in spreads if math.isfinite(spread)]
    return median(known) if known else 0.0


def _epochs_of(library: BeaconLibrary, best: FixedResult) -> int:
    return len(library.beacons_at(best.batch_size, best.lr)[0].rows["epoch"])

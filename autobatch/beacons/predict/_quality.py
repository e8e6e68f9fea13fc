"""How good early predictions are on a library, and how wide their intervals must be to hold."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autobatch._arrays import Floats
from autobatch._errors import ConfigError
from autobatch.beacons._library import BeaconLibrary
from autobatch.beacons.landscape._leave_one_out import _rank_correlation
from autobatch.beacons.predict._held_out import HeldOut, HeldOutRuns, first_progress, held_out_runs

LEVEL = 0.9
"""Share of runs that an interval is meant to cover."""

QUALITY_AT = (0.01, 0.02, 0.05, 0.1)
"""The values of progress of the table that goes with a prediction."""


@dataclass(frozen=True)
class PredictionQuality:
    """How well recorded runs are predicted from beacons that they share nothing with.

    Rank correlation and regret are those of someone who trains one run of every configuration up to this progress and
    ranks them: computed for each seed, then averaged over the seeds. Actual scores are seed means where configurations
    were held out, the runs' own where seeds were.

    Attributes:
        progress: where the runs stood, examples seen / examples of the whole training.
        measured_at: progress of the recorded rows that this is judged on: later than ``progress`` within the first
            epoch, whose positions are not recorded.
        held_out: ``"configuration"``: nothing fitted has seen the run's configuration; ``"seed"``: nothing fitted has
            seen the run's seed, while its configuration is recorded under others.
        configurations: configurations judged, those that finished.
        runs: runs judged.
        rank_correlation: Spearman's rank correlation of predicted and actual final score; NaN where it has none.
        regret: actual score of the configuration predicted best, less the best actual score.
        error: root mean square error of a run's own final score: of its logarithm for a loss (about a relative error).
        level: share of runs that the intervals are meant to cover.
        coverage: share of runs inside the interval that the errors of all *other* configurations give; NaN for one
            configuration.
        early_rank_correlation: the same rank correlation of the validation figure at that progress, the rival.
    """

    progress: float
    measured_at: float
    held_out: HeldOut
    configurations: int
    runs: int
    rank_correlation: float
    regret: float
    error: float
    level: float
    coverage: float
    early_rank_correlation: float


def prediction_quality(
    library: BeaconLibrary, progress: float, *, level: float = LEVEL, held_out: HeldOut = "configuration"
) -> PredictionQuality | None:
    """Judge predictions at some progress on a library.

    Args:
        library: the beacons; at least three configurations that finished.
        progress: where the runs are taken to stand, in (0, 1]. Within the first epoch nothing is recorded, and what is
            judged is the end of that epoch.
        level: share of runs that the intervals are meant to cover, in (0, 1).
        held_out: what the judged runs share with no beacon that they are predicted from.

    Returns:
        The quality; None where ``held_out="seed"`` finds fewer than three configurations with two seeds.

    Raises:
        ConfigError: progress, level or ``held_out`` are not as described.
        LibraryError: fewer than three configurations finished.
    """
    check_level(level)
    if held_out not in {"configuration", "seed"}:
        raise ConfigError(f"'held_out' must be 'configuration' or 'seed', got {held_out!r}")
    if not 0.0 < progress <= 1.0:
        raise ConfigError(f"the quality of a prediction needs a progress in (0, 1], got {progress}")
    measured_at = max(progress, first_progress(library))
    runs = held_out_runs(library, measured_at, held_out)
    if runs is None:
        return None
    predicted, spread = runs.evidence.weighed(runs.noise)
    rank, regret = ranked(predicted, runs)
    return PredictionQuality(
        progress=progress,
        measured_at=measured_at,
        held_out=held_out,
        configurations=runs.configurations,
        runs=len(predicted),
        rank_correlation=rank,
        regret=regret,
        error=float(np.sqrt(np.mean((predicted - runs.own) ** 2))),
        level=level,
        coverage=coverage(predicted, spread, runs, level),
        early_rank_correlation=ranked(runs.early, runs)[0],
    )


def quality_table(library: BeaconLibrary, *, level: float = LEVEL) -> tuple[PredictionQuality, ...]:
    """Judge predictions for configurations never seen, after 1, 2, 5 and 10 % of training.

    Args:
        library: the beacons; at least three configurations that finished.
        level: share of runs that the intervals are meant to cover, in (0, 1).

    Returns:
        One quality for each of ``QUALITY_AT``.

    Raises:
        ConfigError: the level lies outside (0, 1).
        LibraryError: fewer than three configurations finished.
    """
    found = (prediction_quality(library, progress, level=level) for progress in QUALITY_AT)
    return tuple(quality for quality in found if quality is not None)


def check_level(level: float) -> None:
    """Refuse a share of runs outside (0, 1) as the level of an interval."""
    if not 0.0 < level < 1.0:
        raise ConfigError(f"the level of an interval must lie between 0 and 1, got {level}")


def attainable_level(configurations: int, level: float) -> float:
    """Return the level that so many configurations can vouch for, at most the one asked for.

    Args:
        configurations: configurations whose errors are known.
        level: share of runs that the interval is meant to cover.

    Returns:
        The smaller of ``level`` and n / (n + 1): a new error exceeds the largest of n others with probability
        1 / (n + 1).
    """
    return min(level, configurations / (configurations + 1))


def ranked(predicted: Floats, runs: HeldOutRuns) -> tuple[float, float]:
    """Return rank correlation and regret of some figures, averaged over the seeds.

    Args:
        predicted: one figure a run; lower is taken to be better.
        runs: the runs.

    Returns:
        Both; NaN where no seed has three configurations with a figure.
    """
    ranks, regrets = [], []
    for seed in np.unique(runs.seed):
        own = runs.seed == seed
        if own.sum() >= 3 and np.isfinite(predicted[own]).all():
            ranks.append(_rank_correlation(runs.score[own], predicted[own]))
            regrets.append(float(runs.score[own][np.argmin(predicted[own])] - runs.score[own].min()))
    if not ranks:
        return math.nan, math.nan
    return float(np.mean(ranks)), float(np.mean(regrets))


def coverage(predicted: Floats, spread: Floats, runs: HeldOutRuns, level: float) -> float:
    """Return the share of runs inside their intervals, each scaled by the errors of the other configurations.

    Args:
        predicted: predictions in modelled units.
        spread: what scales their errors.
        runs: the runs.
        level: share that the intervals are meant to cover.

    Returns:
        The share; every configuration counts alike.
    """
    errors = np.abs(predicted - runs.own) / spread
    shares = []
    for group in np.unique(runs.group):
        own = runs.group == group
        if not own.all():
            shares.append(float(np.mean(errors[own] <= width(errors[~own], runs.group[~own], level))))
    return float(np.mean(shares)) if shares else math.nan


def width(errors: Floats, group: NDArray[np.int64], level: float) -> float:
    """Return the error that a new configuration's run stays within, at some level.

    The conformal quantile (Vovk et al., 2005; Lei et al., 2018) with configurations, not runs, as the units: the runs
    of a configuration share its weight 1 / (n + 1), and the last 1 / (n + 1) belongs to the new one. Where that is more
    than the level leaves, it is the largest error known.

    Args:
        errors: errors without sign, in multiples of their spreads.
        group: the configuration of each.
        level: share to stay within.

    Returns:
        The error, one of ``errors``.
    """
    _, place, counts = np.unique(group, return_inverse=True, return_counts=True)
    order = np.argsort(errors, kind="stable")
    weights = 1.0 / (counts[place] * (len(counts) + 1))
    reached = int(np.searchsorted(np.cumsum(weights[order]), level - 1e-9))
    return float(errors[order][min(reached, len(errors) - 1)])

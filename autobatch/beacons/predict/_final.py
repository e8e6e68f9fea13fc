"""Model selection after the first few epochs: what a run will end at, judged by where it stands now."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from autobatch._arrays import Floats
from autobatch._errors import ConfigError
from autobatch.beacons._columns import END_TOLERANCE
from autobatch.beacons._journey import Standing
from autobatch.beacons._library import BeaconLibrary
from autobatch.beacons.landscape import Landscape
from autobatch.beacons.predict._forecast import ORIGIN, Place, forecast
from autobatch.beacons.predict._held_out import HeldOut, HeldOutRuns, first_progress, held_out_runs
from autobatch.beacons.predict._points import figure_points, predictable_figures
from autobatch.beacons.predict._quality import (
    LEVEL,
    PredictionQuality,
    attainable_level,
    check_level,
    prediction_quality,
    width,
)
from autobatch.beacons.predict._rule import gather, unmodelled

_SHOWN_BEST = 3


@dataclass(frozen=True)
class Promise:
    """One of the best recorded configurations.

    Attributes:
        batch_size: global batch size.
        lr: base learning rate.
        score: seed-mean final score of its beacons.
        spread: standard deviation of that over its seeds; NaN for fewer than two.
        fresh: what the landscape predicts for a run that uses it from the start, which knows less of the luck that made
            it the best.
        switched: what the landscape predicts for the present run if it used it from now on; NaN where unknown.
        known: whether beacons ended near where the present run would.
    """

    batch_size: int
    lr: float
    score: float
    spread: float
    fresh: float
    switched: float
    known: bool


@dataclass(frozen=True)
class FinalPrediction:
    """What a run is predicted to end at.

    Attributes:
        progress: where the run stands, examples seen / examples of the whole training.
        c_bar: C̄_K there.
        l_cum: L_K there.
        batch_size: global batch size that is assumed to be kept to the end.
        lr: base learning rate likewise.
        figure: name of the library's score, ``"validation_loss"`` or ``"validation_error"``.
        score: predicted final score of this run; of a loss the median.
        interval: least and greatest final score at ``level``.
        level: share of runs that the interval covers, as far as the library can vouch for it: below the level asked for
            where it has too few configurations.
        calibrated_by: what the errors behind the interval are of: runs whose ``"seed"``, or whose ``"configuration"``,
            nothing fitted had seen.
        figures: predicted final values of what else every beacon has: ``validation_loss``, ``validation_error`` or
            ``test_error``.
        rank: place of this run's score among the seed-mean scores of the recorded configurations, 1 the best.
        rank_interval: the places that belong to ``interval``.
        configurations: how many are ranked, this one included.
        recorded: whether the configuration has beacons; its own do not count in the rank.
        best: the best recorded configurations, best first.
        known: whether beacons stood near this position at this progress. Elsewhere the prediction is an extrapolation.
        known_end: whether beacons ended near where this run is forecast to end.
        within_first_epoch: whether the run stands before the first recorded row, where the beacons' positions are
            interpolated from the start of training.
        quality: how well runs are predicted at this progress whose configuration nothing fitted has seen.
        seed_quality: how well runs are predicted whose configuration is recorded under other seeds; None where fewer
            than three configurations have two seeds.
    """

    progress: float
    c_bar: float
    l_cum: float
    batch_size: int
    lr: float
    figure: str
    score: float
    interval: tuple[float, float]
    level: float
    calibrated_by: HeldOut
    figures: Mapping[str, float]
    rank: int
    rank_interval: tuple[int, int]
    configurations: int
    recorded: bool
    best: tuple[Promise, ...]
    known: bool
    known_end: bool
    within_first_epoch: bool
    quality: PredictionQuality
    seed_quality: PredictionQuality | None

    def __str__(self) -> str:
        """Return the prediction in two sentences: what it says, and how far such predictions can be trusted."""
        low, high = self.interval
        first, last = self.rank_interval
        best = self.best[0]
        quality = self.quality
        return (
            f"final {self.figure.replace('_', ' ')} {self.score:.4g} ({100 * self.level:.0f} %: {low:.4g} to "
            f"{high:.4g}), rank {self.rank} ({first} to {last}) of {self.configurations} configurations; the best "
            f"recorded one is s{best.batch_size} at lr {best.lr:g} with {best.score:.4g}. After "
            f"{100 * quality.measured_at:.3g} % of training, configurations that no beacon has are ranked at "
            f"{quality.rank_correlation:.2f} (Spearman), the one predicted best is {quality.regret:.2g} worse than the "
            f"best"
        )


def predict_final(
    library: BeaconLibrary, place: Place, batch_size: int, lr: float, *, level: float = LEVEL
) -> FinalPrediction:
    """Predict what a run will end at from where it stands.

    Two pieces of evidence are at hand: the landscape at the present progress at the present position, which is all that
    the paper (section 3.1) uses, and the landscape of the ends at the forecast end. Both were measured, with the
    paper's average over five neighbours and as Gaussian processes, on the shipped libraries
    (``benchmarks/evidence/prediction.py``). For a configuration that no beacon has, the mean of both Gaussian processes
    (of logarithms, for a loss) had the smallest error on both digits libraries and ranked about as well as the better
    one of the two; it is used there, and the disagreement of the two widens its interval. For a configuration that has
    beacons the forecast end alone was best, since the configuration's own beacons make it; it is used there.

    The interval is the prediction plus and minus its spread times the factor that covers the errors of recorded runs,
    predicted as if they were new at the same progress: runs of other seeds for a recorded configuration, where enough
    configurations have several; else runs of other configurations. No beacon ever changed its batch size or rate, so
    nothing is measured for runs that do.

    Args:
        library: the beacons of the run's task; at least three configurations that finished.
        place: where the run stands, past its first measurement; progress in (0, 1].
        batch_size: global batch size in use, assumed to be kept to the end.
        lr: base learning rate in use, likewise.
        level: share of runs that the interval is to cover, in (0, 1).

    Returns:
        The prediction, with how good such predictions are on this library.

    Raises:
        ConfigError: the place has no position, or batch size, rate or level make no sense.
        LibraryError: fewer than three configurations finished.
    """
    check_level(level)
    now = _checked(place)
    at = now.progress
    here, ahead = (_landscape(library, progress, library.score) for progress in (at, 1.0))
    evidence = gather(library, here, ahead, [(now, batch_size, lr)])
    recorded = bool(evidence.recorded[0])
    judged, calibrated_by = _judged(library, max(at, first_progress(library)), recorded, level)
    predicted, spread = evidence.weighed(judged.noise)
    reach = spread * width(_errors(judged), judged.group, level)
    is_loss = library.score.endswith("_loss")
    low, score, high = (
        float(unmodelled(value, is_loss)[0]) for value in (predicted - reach, predicted, predicted + reach)
    )
    others = _other_scores(library, batch_size, lr)
    rank, first, last = (1 + int(np.sum(others < value)) for value in (score, low, high))
    quality = prediction_quality(library, at, level=level)
    assert quality is not None
    return FinalPrediction(
        progress=at,
        c_bar=now.c_bar,
        l_cum=now.l_cum,
        batch_size=batch_size,
        lr=lr,
        figure=library.score,
        score=score,
        interval=(low, high),
        level=attainable_level(judged.configurations, level),
        calibrated_by=calibrated_by,
        figures={
            figure: _other_figure(library, now, batch_size, lr, figure=figure)
            for figure in predictable_figures(library)
        },
        rank=rank,
        rank_interval=(first, last),
        configurations=len(others) + 1,
        recorded=recorded,
        best=_best(library, now),
        known=bool(evidence.known_here[0]),
        known_end=bool(evidence.known_ahead[0]),
        within_first_epoch=at < first_progress(library),
        quality=quality,
        seed_quality=prediction_quality(library, at, level=level, held_out="seed"),
    )


def _checked(place: Place) -> Standing:
    if not 0.0 < place.progress <= 1.0 + END_TOLERANCE:
        raise ConfigError(f"a prediction needs a progress in (0, 1], got {place.progress}")
    if not all(0.0 < value < math.inf for value in (place.c_bar, place.l_cum, place.steps)):
        raise ConfigError(
            f"a prediction needs a measured position, got C̄ {place.c_bar}, L {place.l_cum} after {place.steps} steps"
        )
    return Standing(min(place.progress, 1.0), place.c_bar, place.l_cum, place.steps)


def _judged(library: BeaconLibrary, progress: float, recorded: bool, level: float) -> tuple[HeldOutRuns, HeldOut]:
    """Return the recorded runs whose errors tell those of this one: the nearest case that there are enough of."""
    new = held_out_runs(library, progress, "configuration")
    assert new is not None
    if recorded:
        again = held_out_runs(library, progress, "seed")
        if again is not None and attainable_level(again.configurations, level) >= attainable_level(
            new.configurations, level
        ):
            return again, "seed"
    return new, "configuration"


def _errors(judged: HeldOutRuns) -> Floats:
    predicted, spread = judged.evidence.weighed(judged.noise)
    return np.asarray(np.abs(predicted - judged.own) / spread)


@lru_cache(maxsize=32)
def _landscape(library: BeaconLibrary, progress: float, figure: str) -> Landscape:
    # A run that asks after every epoch meets the landscapes of the ends again.
    return Landscape(figure_points(library, progress, figure), progress, "gaussian-process")


def _other_figure(library: BeaconLibrary, now: Standing, batch_size: int, lr: float, *, figure: str) -> float:
    here, ahead = (_landscape(library, progress, figure) for progress in (now.progress, 1.0))
    predicted, _ = gather(library, here, ahead, [(now, batch_size, lr)]).weighed(0.0)
    return float(unmodelled(predicted, figure.endswith("_loss"))[0])


def _other_scores(library: BeaconLibrary, batch_size: int, lr: float) -> Floats:
    # A configuration with a diverged seed is worse than any score.
    return np.array([
        math.inf if result.diverged else result.mean[library.score]
        for result in library.results()
        if (result.batch_size, result.lr) != (batch_size, lr)
    ])


def _best(library: BeaconLibrary, now: Standing) -> tuple[Promise, ...]:
    sound = sorted(
        (result for result in library.results() if not result.diverged), key=lambda result: result.mean[library.score]
    )[:_SHOWN_BEST]
    landscape = _landscape(library, 1.0, library.score)
    promises = []
    for result in sound:
        fresh, switched = (forecast(library, start, result.batch_size, result.lr) for start in (ORIGIN, now))
        own = (result.batch_size, result.lr)
        shares = [{own: 1.0}, {own: 1.0 - now.progress}]
        predicted = landscape.predict([fresh.c_bar, switched.c_bar], [fresh.l_cum, switched.l_cum], shares)
        promises.append(
            Promise(
                batch_size=result.batch_size,
                lr=result.lr,
                score=result.mean[library.score],
                spread=result.std[library.score],
                fresh=float(predicted.score[0]),
                switched=float(predicted.score[1]),
                known=bool(predicted.known[1]),
            )
        )
    return tuple(promises)

"""Which landscape rule to trust: each configuration predicted from all the others."""

from dataclasses import dataclass
from typing import get_args

import numpy as np

from autobatch._arrays import Floats
from autobatch._errors import LibraryError
from autobatch.beacons._library import BeaconLibrary
from autobatch.beacons.landscape._landscape import Rule, fit_surface
from autobatch.beacons.landscape._points import Axes, Points, landscape_points, modelled


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """How well a rule predicts configurations that it has not seen.

    Judged are the configurations that finished; those that diverged take part in every prediction.

    Attributes:
        rule: the rule.
        configurations: (batch size, base learning rate) of each.
        actual: their seed-mean final scores, shape (n,).
        predicted: the scores predicted from the other configurations, shape (n,).
        rank_correlation: Spearman's rank correlation of the two; NaN where either is constant.
        rmse: root mean square error in modelled units: of the natural logarithm of a loss (about a relative error),
            of an error as it is.
        regret: actual score of the configuration predicted best, less the best actual score.
    """

    rule: Rule
    configurations: tuple[tuple[int, float], ...]
    actual: Floats
    predicted: Floats
    rank_correlation: float
    rmse: float
    regret: float


def leave_one_out(library: BeaconLibrary, progress: float = 1.0, rule: Rule = "gaussian-process") -> LeaveOneOut:
    """Predict each configuration from all the others, refitting everything each time.

    Args:
        library: the beacons; at least three configurations that finished.
        progress: where in training the positions are taken, in (0, 1].
        rule: the rule to judge.

    Returns:
        The predictions and their errors.

    Raises:
        ConfigError: the rule is not known, or progress lies outside (0, 1].
        LibraryError: fewer than three configurations of the library finished.
    """
    points = landscape_points(library, progress)
    judged = np.flatnonzero(points.finished)
    if len(judged) < 3:
        raise LibraryError(
            f"leaving one out needs three finished configurations, the library of '{library.task_name}' "
            f"has {len(judged)}"
        )
    actual = points.score[judged]
    predicted = np.array([_predicted_by_others(points, int(index), rule) for index in judged])
    residuals = modelled(predicted, points.is_loss) - points.modelled[judged]
    return LeaveOneOut(
        rule=rule,
        configurations=tuple(points.configurations[index] for index in judged),
        actual=actual,
        predicted=predicted,
        rank_correlation=_rank_correlation(actual, predicted),
        rmse=float(np.sqrt(np.mean(residuals**2))),
        regret=float(actual[np.argmin(predicted)] - actual.min()),
    )


def choose_rule(library: BeaconLibrary, progress: float = 1.0) -> Rule:
    """Return the rule with the least leave-one-out error (``rmse``) on a library; the paper's where they are level.

    Args:
        library: the beacons.
        progress: where in training the positions are taken, in (0, 1].

    Returns:
        The rule; with fewer than three configurations that finished, which cannot be judged, the paper's.
    """
    if landscape_points(library, progress).finished.sum() < 3:
        return "nearest"
    rules: tuple[Rule, ...] = get_args(Rule)
    return min(rules, key=lambda rule: leave_one_out(library, progress, rule).rmse)


def _predicted_by_others(points: Points, index: int, rule: Rule) -> float:
    others = points.without(index)
    axes = Axes.over(others)
    score, _ = fit_surface(others, axes, rule).predict(axes.scaled(points.plane[index : index + 1]))
    return float(score[0])


def _rank_correlation(actual: Floats, predicted: Floats) -> float:
    from scipy.stats import rankdata

    ranks = [rankdata(values) for values in (actual, predicted)]
    if any(np.ptp(own) == 0.0 for own in ranks):
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])

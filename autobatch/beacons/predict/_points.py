"""Points of the plane with any final figure of a library, not the score alone."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from autobatch._arrays import Floats
from autobatch.beacons._library import BeaconLibrary
from autobatch.beacons.landscape import Points, landscape_points, modelled

FINAL_FIGURES = ("validation_loss", "validation_error", "test_error")
"""Final figures that can be predicted, where a library has them."""


def predictable_figures(library: BeaconLibrary) -> tuple[str, ...]:
    """Return those of ``FINAL_FIGURES``, besides the score, that every finished beacon of a library has."""
    finished = [beacon for beacon in library.beacons if beacon.finished]
    return tuple(
        figure
        for figure in FINAL_FIGURES
        if figure != library.score and all(np.isfinite(beacon.final(figure)) for beacon in finished)
    )


def figure_points(library: BeaconLibrary, progress: float, figure: str) -> Points:
    """Return the points of a library at some progress, each with one of its final figures.

    Args:
        library: the beacons.
        progress: where in training the positions are taken, in (0, 1].
        figure: a final loss or error that every finished beacon has; a beacon that diverged counts with twice the
            worst of those that finished.

    Returns:
        One point for every configuration that has a position.

    Raises:
        ConfigError: progress lies outside (0, 1].
        LibraryError: no configuration has a position.
    """
    points = landscape_points(library, progress)
    if figure == library.score:
        return points
    is_loss = figure.endswith("_loss")
    worst = 2.0 * max((beacon.final(figure) for beacon in library.beacons if beacon.finished), default=1.0)
    diverged = worst if is_loss else min(worst, 1.0)
    finals = [
        np.array([beacon.final(figure) if beacon.finished else diverged for beacon in library.beacons_at(*own)])
        for own in points.configurations
    ]
    pooled = pooled_variance([own for own, sound in zip(finals, points.finished, strict=True) if sound], is_loss)
    means, variances = ([own.mean() for own in finals], [pooled / len(own) for own in finals])
    return replace(points, score=np.array(means), variance=np.array(variances), is_loss=is_loss)


def pooled_variance(finals: Sequence[Floats], is_loss: bool) -> float:
    """Return the variance of a run around its configuration's mean, pooled over configurations.

    Args:
        finals: the final figures of each configuration's seeds.
        is_loss: whether they are losses, which are taken by their logarithms.

    Returns:
        The variance in modelled units; 0 where no configuration has two seeds.
    """
    values = [modelled(own, is_loss) for own in finals]
    freedom = sum(len(own) - 1 for own in values)
    squares = sum(float(np.sum((own - own.mean()) ** 2)) for own in values)
    return squares / freedom if freedom else 0.0

"""What a landscape is fitted to: one point of the plane for every configuration of a library."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autobatch._arrays import Floats
from autobatch._errors import ConfigError, LibraryError
from autobatch.beacons._beacon import Beacon
from autobatch.beacons._journey import standing
from autobatch.beacons._library import BeaconLibrary

# Cross-entropy in float32 does not resolve less; a loss of exactly 0 has no logarithm.
_LEAST_LOSS = 1e-6

# Three seeds say little of their own spread: every configuration's variance is drawn towards the library's with the
# weight of this many further seeds.
_PRIOR_SEEDS = 4


@dataclass(frozen=True, eq=False)
class Points:
    """The configurations of a library in the plane at one progress, each with its final score.

    Attributes:
        configurations: (batch size, base learning rate) of each point.
        plane: (log10 C̄, log10 L), shape (n, 2), seed means.
        score: seed-mean final score, shape (n,); a diverged seed counts with the library's ``diverged_score``.
        variance: variance of that mean over seeds, in modelled units, shape (n,).
        finished: whether all seeds finished, shape (n,).
        is_loss: whether the score is a loss, which is modelled by its logarithm; an error is modelled as it is.
    """

    configurations: tuple[tuple[int, float], ...]
    plane: Floats
    score: Floats
    variance: Floats
    finished: NDArray[np.bool_]
    is_loss: bool

    @property
    def modelled(self) -> Floats:
        """The scores in modelled units: log loss, or error."""
        return modelled(self.score, self.is_loss)

    def without(self, index: int) -> "Points":
        """Return all points but the one at ``index``."""
        kept = np.arange(len(self.score)) != index
        return Points(
            configurations=tuple(own for own, keep in zip(self.configurations, kept, strict=True) if keep),
            plane=self.plane[kept],
            score=self.score[kept],
            variance=self.variance[kept],
            finished=self.finished[kept],
            is_loss=self.is_loss,
        )


@dataclass(frozen=True, eq=False)
class Axes:
    """The map from (log10 C̄, log10 L) to coordinates in [0, 1] over the finished configurations.

    Configurations that diverged may lie outside [0, 1]: were they to set the scale, one exploding L would press all the
    others together.

    Attributes:
        low: least log10 C̄ and log10 L, shape (2,).
        span: extent of both, shape (2,).
    """

    low: Floats
    span: Floats

    @classmethod
    def over(cls, points: Points) -> "Axes":
        """Return the axes of the points that finished; of all where none did."""
        plane = points.plane[points.finished] if points.finished.any() else points.plane
        low = plane.min(axis=0)
        span = plane.max(axis=0) - low
        return cls(low, np.where(span > 0.0, span, 1.0))

    def scaled(self, plane: Floats) -> Floats:
        """Return coordinates of (log10 C̄, log10 L), shape (n, 2)."""
        return (plane - self.low) / self.span

    def unscaled(self, coordinates: Floats) -> Floats:
        """Return (log10 C̄, log10 L) of coordinates, shape (n, 2)."""
        return coordinates * self.span + self.low


def modelled(score: Floats, is_loss: bool) -> Floats:
    """Return scores in modelled units: natural logarithms of losses, errors as they are."""
    return np.log(np.maximum(score, _LEAST_LOSS)) if is_loss else score


def landscape_points(library: BeaconLibrary, progress: float) -> Points:
    """Return the points of a library at some progress.

    Args:
        library: the beacons.
        progress: where in training the positions are taken, in (0, 1]; scores are always the final ones.

    Returns:
        One point for every configuration, but for those that diverged before a position could be measured.

    Raises:
        ConfigError: progress lies outside (0, 1].
        LibraryError: no configuration has a position.
    """
    if not 0.0 < progress <= 1.0:
        raise ConfigError(f"a landscape needs a progress in (0, 1], got {progress}")
    found = {
        configuration: plane
        for configuration, beacons in library.by_configuration.items()
        if (plane := _plane(beacons, progress)) is not None
    }
    if not found:
        raise LibraryError(f"the library of '{library.task_name}' has no beacon with a position: all diverged at once")
    groups = [library.by_configuration[configuration] for configuration in found]
    scores = [np.array([_final_score(library, beacon) for beacon in beacons]) for beacons in groups]
    finished = np.array([all(beacon.finished for beacon in beacons) for beacons in groups])
    is_loss = library.score.endswith("_loss")
    return Points(
        configurations=tuple(found),
        plane=np.array(list(found.values())),
        score=np.array([own.mean() for own in scores]),
        variance=_mean_variances([modelled(own, is_loss) for own in scores], finished),
        finished=finished,
        is_loss=is_loss,
    )


def _plane(beacons: Sequence[Beacon], progress: float) -> Floats | None:
    places = [place for beacon in beacons if (place := standing(beacon, progress)) is not None]
    if not places:
        return None
    mean: Floats = log_plane([place.c_bar for place in places], [place.l_cum for place in places]).mean(axis=0)
    return mean


def _final_score(library: BeaconLibrary, beacon: Beacon) -> float:
    return beacon.final(library.score) if beacon.finished else library.diverged_score


def _mean_variances(values: Sequence[Floats], finished: NDArray[np.bool_]) -> Floats:
    """Variances of the seed means, each drawn towards the one pooled over all finished configurations.

    Args:
        values: modelled final scores of every configuration's seeds.
        finished: whether all of them finished.

    Returns:
        The variances, shape (n,); 0 where no configuration has two seeds.
    """
    squares = np.array([np.sum((own - own.mean()) ** 2) for own in values])
    freedom = np.array([len(own) - 1 for own in values])
    pool_freedom = freedom[finished].sum()
    pooled = squares[finished].sum() / pool_freedom if pool_freedom else 0.0
    shrunk = (squares + _PRIOR_SEEDS * pooled) / (freedom + _PRIOR_SEEDS)
    variances: Floats = shrunk / (freedom + 1)
    return variances


def log_plane(c_bar: ArrayLike, l_cum: ArrayLike) -> Floats:
    """Return positions as (log10 C̄, log10 L), shape (..., 2); not finite where one is not positive and finite."""
    pair = np.broadcast_arrays(np.asarray(c_bar, dtype=np.float64), np.asarray(l_cum, dtype=np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log10(np.stack(pair, axis=-1)))

"""The error landscape: the final score that a position in the (C̄, L) plane promises."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import ArrayLike

from autobatch._arrays import Floats
from autobatch._errors import ConfigError, near_names
from autobatch.beacons._library import BeaconLibrary
from autobatch.beacons.landscape._gaussian_process import GaussianProcessSurface
from autobatch.beacons.landscape._hull import KnownPart, distance_to_hull
from autobatch.beacons.landscape._nearest import NearestSurface
from autobatch.beacons.landscape._points import Axes, Points, landscape_points, log_plane
from autobatch.beacons.landscape._prediction import Prediction
from autobatch.beacons.landscape._region import OptimumRegion

Rule = Literal["nearest", "gaussian-process"]
"""How a landscape predicts: the paper's five nearest beacons, or a Gaussian process."""

_GRID = 81


class Surface(Protocol):
    """A fitted rule: scores over scaled coordinates."""

    def predict(self, coordinates: Floats, shares: Floats | None = None) -> tuple[Floats, Floats]:
        """Return scores and their uncertainties at coordinates (m, 2), with shares of configurations (m, n) or None."""
        ...


class Landscape:
    """Predicted final score over the (log10 C̄, log10 L) plane at one progress; make one with ``fit``.

    Attributes:
        points: the configurations it was fitted to.
        progress: where in training the positions are taken.
        rule: how it predicts.
    """

    def __init__(self, points: Points, progress: float, rule: Rule) -> None:
        self.points = points
        self.progress = progress
        self.rule = rule
        self._axes = Axes.over(points)
        self._surface = fit_surface(points, self._axes, rule)
        self._known = KnownPart(self._axes.scaled(points.plane))

    @classmethod
    def fit(cls, library: BeaconLibrary, progress: float = 1.0, rule: Rule = "gaussian-process") -> "Landscape":
        """Fit the landscape of a library.

        A configuration is one point, its seeds' mean; one that diverged stands where it was heading, at chance level.

        Args:
            library: the beacons.
            progress: where in training the positions are taken, in (0, 1]; the scores are always the final ones.
            rule: ``"nearest"`` (the paper's) or ``"gaussian-process"``; see ``choose_rule``.

        Returns:
            The landscape.

        Raises:
            ConfigError: the rule is not known, or progress lies outside (0, 1].
            LibraryError: no configuration has a position.
        """
        return cls(landscape_points(library, progress), progress, rule)

    def predict(
        self,
        c_bar: ArrayLike,
        l_cum: ArrayLike,
        shares: Sequence[Mapping[tuple[int, float], float]] | None = None,
    ) -> Prediction:
        """Predict final scores.

        Args:
            c_bar: C̄, any shape.
            l_cum: L, of a shape that broadcasts with it.
            shares: for each position, the share of the training under each (batch size, base learning rate), where that
                is known. What a recorded configuration does to the score besides the position then counts by its share
                (Gaussian process only). Without it the prediction is that of a configuration that nobody recorded.

        Returns:
            Scores, uncertainties and whether they are known, in the broadcast shape.

        Raises:
            ConfigError: there are not as many ``shares`` as positions.
        """
        coordinates, shape = self._coordinates(c_bar, l_cum)
        if shares is not None and len(shares) != len(coordinates):
            raise ConfigError(
                f"shares: expected one mapping for each of {len(coordinates)} positions, got {len(shares)}"
            )
        weights = None if shares is None else self._weights(shares)
        sound = np.atleast_1d(np.isfinite(coordinates).all(axis=1))
        score, uncertainty = np.full(len(sound), np.nan), np.full(len(sound), np.nan)
        known = np.zeros(len(sound), dtype=np.bool_)
        if sound.any():
            own = None if weights is None else weights[sound]
            score[sound], uncertainty[sound] = self._surface.predict(coordinates[sound], own)
            known[sound] = self._known.contains(coordinates[sound])
        return Prediction(score.reshape(shape), uncertainty.reshape(shape), known.reshape(shape))

    def region(self, tolerance: float | None = None) -> OptimumRegion:
        """Return the optimum region: where the predicted score is within a tolerance of the least.

        Args:
            tolerance: how much above the least predicted score still counts, in the score's unit; by default one
                standard error of the least, since what lies within it cannot be told from the best.

        Returns:
            The region; it lies between the beacons, not in the margin around them.

        Raises:
            ConfigError: the tolerance is negative or NaN.
        """
        coordinates, score, uncertainty = self._grid
        if tolerance is None:
            tolerance = float(uncertainty[np.argmin(score)])
        if not tolerance >= 0.0:
            raise ConfigError(f"the tolerance of an optimum region must not be negative, got {tolerance}")
        inside = score <= score.min() + tolerance
        return OptimumRegion(
            plane=self._axes.unscaled(coordinates[inside]),
            score=score[inside],
            span=self._axes.span,
            tolerance=tolerance,
            predict=self.predict,
        )

    def displacement(self, c_bar: ArrayLike, l_cum: ArrayLike, tolerance: float | None = None) -> Floats:
        """Return how far positions are from the optimum region, and to which side.

        Args:
            c_bar: C̄, any shape.
            l_cum: L, of a shape that broadcasts with it.
            tolerance: that of the region, with the same default.

        Returns:
            (Δlog10 C̄, Δlog10 L) from the nearest point of the region to the position, shape (..., 2); (0, 0) inside.
        """
        return self.region(tolerance).displacement(c_bar, l_cum)

    def _coordinates(self, c_bar: ArrayLike, l_cum: ArrayLike) -> tuple[Floats, tuple[int, ...]]:
        plane = log_plane(c_bar, l_cum)
        return self._axes.scaled(plane.reshape(-1, 2)), plane.shape[:-1]

    def _weights(self, shares: Sequence[Mapping[tuple[int, float], float]]) -> Floats:
        return np.array([[own.get(one, 0.0) for one in self.points.configurations] for own in shares])

    @cached_property
    def _grid(self) -> tuple[Floats, Floats, Floats]:
        # Grid points between the beacons and the configurations themselves, with predicted scores and uncertainties. In
        # the margin around the hull a surface that slopes outwards would always find something better than any beacon.
        corners = self._known.corners
        sides = [np.linspace(corners[:, axis].min(), corners[:, axis].max(), _GRID) for axis in (0, 1)]
        grid = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, 2)
        between = distance_to_hull(corners, grid) == 0.0
        coordinates = np.concatenate([self._axes.scaled(self.points.plane), grid[between]])
        return coordinates, *self._surface.predict(coordinates)


def fit_surface(points: Points, axes: Axes, rule: Rule) -> Surface:
    """Fit one rule, by its name, to some points with their scaling."""
    if rule == "nearest":
        return NearestSurface(points, axes)
    if rule == "gaussian-process":
        return GaussianProcessSurface(points, axes)
    raise ConfigError(f"no landscape rule is called '{rule}'; {near_names(str(rule), get_args(Rule))}")

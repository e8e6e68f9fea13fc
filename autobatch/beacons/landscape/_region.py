"""The optimum region of a landscape, and the way from a position to it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autobatch._arrays import Floats
from autobatch.beacons.landscape._points import log_plane
from autobatch.beacons.landscape._prediction import Prediction


@dataclass(frozen=True, eq=False)
class OptimumRegion:
    """The level set of least predicted score, as the known grid points that belong to it.

    Attributes:
        plane: (log10 C̄, log10 L) of its points, shape (m, 2), m >= 1.
        score: predicted scores there, shape (m,).
        span: extent of both axes over the beacons, which makes distances along them comparable, shape (2,).
        tolerance: how much above the least score its points may lie.
        predict: the landscape's prediction, which decides whether a position between the points is inside.
    """

    plane: Floats
    score: Floats
    span: Floats
    tolerance: float
    predict: Callable[[ArrayLike, ArrayLike], Prediction]

    @property
    def least_score(self) -> float:
        """The least predicted score."""
        return float(self.score.min())

    @property
    def best(self) -> tuple[float, float]:
        """The position (C̄, L) of least predicted score."""
        log_c, log_l = self.plane[np.argmin(self.score)]
        return float(10.0**log_c), float(10.0**log_l)

    def contains(self, c_bar: ArrayLike, l_cum: ArrayLike) -> NDArray[np.bool_]:
        """Return which positions are inside.

        Args:
            c_bar: C̄, any shape.
            l_cum: L, of a shape that broadcasts with it.

        Returns:
            Truth values in the broadcast shape.
        """
        prediction = self.predict(c_bar, l_cum)
        inside: NDArray[np.bool_] = prediction.known & (prediction.score <= self.least_score + self.tolerance)
        return inside

    def displacement(self, c_bar: ArrayLike, l_cum: ArrayLike) -> Floats:
        """Return how far positions are from the region, and to which side.

        Nearest is meant in scaled axes, as everywhere in the landscape; the answer is in decades.

        Args:
            c_bar: C̄, any shape.
            l_cum: L, of a shape that broadcasts with it.

        Returns:
            (Δlog10 C̄, Δlog10 L) from the nearest point of the region to the position, shape (..., 2): positive where
            the position's C̄ or L is too high; (0, 0) inside; NaN where the position is not finite.
        """
        plane = log_plane(c_bar, l_cum)
        steps = plane[..., None, :] - self.plane
        nearest = np.argmin(((steps / self.span) ** 2).sum(axis=-1), axis=-1)
        away = np.take_along_axis(steps, nearest[..., None, None], axis=-2)[..., 0, :]
        away[self.contains(c_bar, l_cum)] = 0.0
        away[~np.isfinite(plane).all(axis=-1)] = np.nan
        return away

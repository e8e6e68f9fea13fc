"""The part of the plane that beacons know something of."""

import numpy as np
from numpy.typing import NDArray

from autobatch._arrays import Floats


class KnownPart:
    """The convex hull of the beacons' positions, widened by the median distance between nearest neighbours.

    Inside the hull a prediction lies between beacons; in the margin it is at most one usual step away from them.
    Degenerate hulls (one position, or all on a line) are a point or a segment with the same margin.
    """

    def __init__(self, coordinates: Floats) -> None:
        self.corners = convex_hull(coordinates)
        self.margin = _median_spacing(coordinates)

    def contains(self, coordinates: Floats) -> NDArray[np.bool_]:
        """Return which scaled coordinates (m, 2) are known, shape (m,); False for points that are not finite."""
        known: NDArray[np.bool_] = distance_to_hull(self.corners, coordinates) <= self.margin + 1e-12
        return known


def convex_hull(coordinates: Floats) -> Floats:
    """Return the corners of a convex hull in the plane (Qhull).

    Args:
        coordinates: shape (n, 2), n >= 1.

    Returns:
        The corners counter-clockwise, shape (k, 2); k = 1 for one position, 2 for positions on a line.
    """
    from scipy.spatial import ConvexHull, QhullError  # which takes longer to import than this takes

    ordered = np.unique(coordinates, axis=0)
    try:
        return np.asarray(ordered[ConvexHull(ordered).vertices])
    except QhullError:  # fewer than three points, or all on a line
        return ordered[sorted({0, len(ordered) - 1})]


def distance_to_hull(corners: Floats, coordinates: Floats) -> Floats:
    """Return how far points (m, 2) are from a hull with corners (k, 2): 0 inside, NaN where not finite."""
    starts, ends = corners, np.roll(corners, -1, axis=0)
    edges = ends - starts
    offsets = coordinates[:, None, :] - starts[None, :, :]
    lengths = np.maximum((edges**2).sum(axis=1), np.finfo(np.float64).tiny)
    along = np.clip((offsets * edges).sum(axis=2) / lengths, 0.0, 1.0)
    distances = np.sqrt(((offsets - along[..., None] * edges) ** 2).sum(axis=2)).min(axis=1)
    if len(corners) < 3:
        return np.asarray(distances)
    crosses = edges[:, 0] * offsets[..., 1] - edges[:, 1] * offsets[..., 0]
    return np.where((crosses >= 0.0).all(axis=1), 0.0, distances)


def _median_spacing(coordinates: Floats) -> float:
    if len(coordinates) < 2:
        return 0.0
    distances = np.sqrt(((coordinates[:, None, :] - coordinates[None, :, :]) ** 2).sum(axis=-1))
    np.fill_diagonal(distances, np.inf)
    return float(np.median(distances.min(axis=1)))

"""The paper's rule: the score at a point is an average over its five nearest beacons."""

import numpy as np

from autobatch._arrays import Floats
from autobatch.beacons.landscape._points import Axes, Points

NEIGHBOURS = 5


class NearestSurface:
    """Average over the five nearest configurations (paper, section 4.1), nearer ones weighing more.

    With distances r_i in scaled axes and d_i = 1 / r_i the authors' weights are (d_i + 1) / (1 + sum d). They sum to
    (sum d + 5) / (sum d + 1), a little above 1; here they are divided by their sum, so that the surface never leaves
    the range of the scores it averages. At a configuration's own position the surface takes its score.
    """

    def __init__(self, points: Points, axes: Axes) -> None:
        self._coordinates = axes.scaled(points.plane)
        self._score = points.score

    def predict(self, coordinates: Floats, shares: Floats | None = None) -> tuple[Floats, Floats]:
        """Return the surface at some points.

        Args:
            coordinates: scaled coordinates, shape (m, 2).
            shares: not looked at; to this rule the position is all there is.

        Returns:
            Predicted scores, shape (m,), and the weighted standard deviation of the five averaged ones.
        """
        differences = coordinates[:, None, :] - self._coordinates[None, :, :]
        distances = np.sqrt((differences**2).sum(axis=-1))
        count = min(NEIGHBOURS, len(self._score))
        nearest = np.argsort(distances, axis=1, kind="stable")[:, :count]
        weights = _weights(np.take_along_axis(distances, nearest, axis=1))
        scores = self._score[nearest]
        mean = (weights * scores).sum(axis=1)
        return mean, np.sqrt((weights * (scores - mean[:, None]) ** 2).sum(axis=1))


def _weights(distances: Floats) -> Floats:
    # Capped far above any real distance's inverse: the limit at distance 0 without dividing by it.
    inverse = 1.0 / np.maximum(distances, 1e-12)
    weights = inverse + 1.0
    total: Floats = weights.sum(axis=1, keepdims=True)
    return weights / total

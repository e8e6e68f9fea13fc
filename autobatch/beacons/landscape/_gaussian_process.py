"""The better-founded rule: the score over the plane as a Gaussian process with the seeds' noise."""

import warnings

import numpy as np

from autobatch._arrays import Floats
from autobatch.beacons.landscape._points import Axes, Points


class GaussianProcessSurface:
    """Gaussian-process regression of the seed-mean final score over the scaled plane.

    Anisotropic Matern 5/2 kernel around the mean of the (log) scores. Two noises: each configuration's own, the
    variance of its seed mean, which is known; and a nugget for what the position does not tell of the score, fitted
    with the kernel's amplitude and two length scales by maximum marginal likelihood (Rasmussen and Williams, 2006,
    sections 2.2, 4.2 and 5.4.1). Losses are modelled by their logarithms. A configuration that diverged counts as worse
    than the worst that finished by the whole range of those that did: chance level would be a cliff, and one cliff
    makes the fitted process take the slopes that matter for flat. Deterministic.

    The nugget is the configuration's own: what it does to the score besides bringing the run to a place, the same for
    all its seeds. A run that uses recorded configurations takes its share of theirs.
    """

    def __init__(self, points: Points, axes: Axes) -> None:
        # scikit-learn takes longer to import than a fit takes, and not every command fits a landscape.
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
        from threadpoolctl import ThreadpoolController

        values = _without_cliffs(points)
        self._is_loss = points.is_loss
        self._mean = float(values.mean())
        self._scale = float(values.std()) or 1.0
        matern = Matern(length_scale=(0.5, 0.5), length_scale_bounds=(0.05, 10.0), nu=2.5)
        kernel = ConstantKernel(1.0, (1e-2, 1e3)) * matern + WhiteKernel(1e-2, (1e-6, 1.0))
        self._process = GaussianProcessRegressor(kernel, alpha=points.variance / self._scale**2 + 1e-9, random_state=0)
        # The matrices are tiny, and the threads of a BLAS spin on for a while after each product: on a machine that
        # trains at the same time they would take more than the product does.
        self._threads = ThreadpoolController()
        # Without two seeds of any configuration the nugget is noise as well, and belongs to none.
        self._knows_noise = bool(points.variance.any())
        with self._threads.limit(limits=1, user_api="blas"), warnings.catch_warnings():
            # A parameter that ends at its bound (a straight surface, a nugget of nothing) is an answer, not a fault.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._process.fit(axes.scaled(points.plane), (values - self._mean) / self._scale)

    def predict(self, coordinates: Floats, shares: Floats | None = None) -> tuple[Floats, Floats]:
        """Return the surface at some points.

        Args:
            coordinates: scaled coordinates, shape (m, 2).
            shares: share of each point's training under each of the configurations, shape (m, n); None or 0 where it is
                none of them.

        Returns:
            Predicted scores, shape (m,) (of a loss: the median), and one standard deviation of the seed-mean score that
            a training at this position would have.
        """
        from scipy.linalg import solve_triangular

        process, smooth = self._process, self._process.kernel_.k1
        nugget = process.kernel_.k2.noise_level
        with self._threads.limit(limits=1, user_api="blas"):
            covariance = smooth(coordinates, process.X_train_)
            if shares is not None and self._knows_noise:
                covariance = covariance + nugget * shares
            mean = covariance @ process.alpha_
            explained = (solve_triangular(process.L_, covariance.T, lower=True) ** 2).sum(axis=0)
        deviation = np.sqrt(np.maximum(smooth.diag(coordinates) + nugget - explained, 0.0))
        mean, deviation = mean * self._scale + self._mean, deviation * self._scale
        if self._is_loss:
            score = np.exp(mean)
            return score, score * deviation
        return np.asarray(mean), np.asarray(deviation)


def _without_cliffs(points: Points) -> Floats:
    values, finished = points.modelled, points.modelled[points.finished]
    if len(finished) < 2:
        return values
    return np.asarray(np.minimum(values, 2.0 * finished.max() - finished.min()))

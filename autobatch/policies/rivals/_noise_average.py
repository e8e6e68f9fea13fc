"""Running averages of the gradients' noise, and what is taken of them: the noise scale and AdaScale's gain."""

import math
from collections.abc import Mapping
from typing import Any


class NoiseAverage:
    """Running averages of the variance and of the squared norm of the gradient.

    The two are averaged apart, for noise spoils their ratio most (McCandlish et al. 2018, arXiv 1812.06162, appendix
    A.1). Only ratios are taken of them, so that the averages need no correction for their start at 0.
    """

    def __init__(self) -> None:
        self._variance = 0.0
        self._squared_mean = 0.0

    def update(self, variance: float, squared_mean: float, keep: float) -> None:
        """Take in one estimate.

        Args:
            variance: trace of the covariance of a single sample's gradient.
            squared_mean: squared norm of the true gradient, without bias.
            keep: weight of what was there before, in [0, 1].
        """
        self._variance = keep * self._variance + (1.0 - keep) * variance
        self._squared_mean = keep * self._squared_mean + (1.0 - keep) * squared_mean

    @property
    def noise_scale(self) -> float:
        """Variance over squared norm; infinite where the noise hides the gradient, NaN where both are 0."""
        if self._squared_mean > 0.0:
            return self._variance / self._squared_mean
        return math.inf if self._variance > 0.0 else math.nan

    def gain(self, batch_size: int, reference: int) -> float:
        """Return AdaScale's gain (σ² + μ²) / (σ² / S + μ²), σ² of a batch of the reference size.

        Johnson et al. 2020, arXiv 2007.05105, eq. 2. With the noise scale N it is (1 + N / B0) / (1 + N / B), the ratio
        of the best rates of SGD at two batch sizes in McCandlish et al. 2018, section 2.2.

        Args:
            batch_size: B.
            reference: B0.

        Returns:
            The gain, between 1 and S; 1 where nothing is known.
        """
        scale = batch_size / reference
        variance = self._variance / reference
        squared_mean = max(0.0, self._squared_mean)
        below = variance / scale + squared_mean
        return (variance + squared_mean) / below if below > 0.0 else 1.0

    def state_dict(self) -> dict[str, float]:
        """Return the averages, as JSON-able values."""
        return {"variance": self._variance, "squared_mean": self._squared_mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._variance, self._squared_mean = float(state["variance"]), float(state["squared_mean"])

"""How trainings depart from what is to be expected of them, and when they diverge."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from autobatch._arrays import Floats
from autobatch.envs.surrogate._ensemble import OUTPUTS, Singles
from autobatch.envs.surrogate._epochs import Epochs

_MOST = 1.5
"""Most that an epoch may depart by, in natural logarithms."""

_LEAST = 1e-4
_RIDGE = 20.0
_WITHIN = 0.9, 1.645
"""A share of a normal, and how many standard deviations from its middle that lies within."""

_FADING = [(by_epoch, by_time) for by_epoch in (0.0, 0.01, 0.03, 0.1, 0.3, 1.0) for by_time in (0.0, 3.0, 10.0, 30.0)]
_LEAST_HAZARD = 0.02


@dataclass(frozen=True, eq=False)
class Scatter:
    """Noise that goes with a training: normal, of a size that depends on the epoch, forgotten in intrinsic time.

    Attributes:
        sizes: coefficients of the log size by what the law says, shape (INPUTS + 1, OUTPUTS).
        bounds: lowest and highest log size, shape (2, OUTPUTS).
        fading: what is forgotten in an epoch and in an intrinsic time of 1, as rates, shape (2, OUTPUTS).
        mixing: makes the parts of what is new go together, shape (OUTPUTS, OUTPUTS).
    """

    sizes: Floats
    bounds: Floats
    fading: Floats
    mixing: Floats

    @classmethod
    def fit(cls, standardised: Singles, epochs: Epochs, missed: Floats, weight: Floats) -> "Scatter":
        """Fit the scatter of a task.

        Args:
            standardised: what the law says of its epochs, as ensembles take it, shape (n, INPUTS).
            epochs: the epochs, all of them sound.
            missed: what a member that has not seen the training misses each by, in logarithms, shape (n, OUTPUTS).
            weight: what each epoch counts, shape (n,).

        Returns:
            The scatter.
        """
        features = _with_constant(standardised)
        logs = np.log(np.maximum(np.abs(missed), _LEAST))
        weighted = features * weight[:, None]
        penalised = features.T @ weighted + _RIDGE * np.eye(features.shape[1])
        sizes = np.asarray(np.linalg.solve(penalised, weighted.T @ logs), dtype=np.float64)
        fitted = features @ sizes
        bounds = np.quantile(fitted, [0.02, 0.98], axis=0)
        scaled = missed / np.exp(np.clip(fitted, *bounds))
        # The mean log of an absolute normal lies below that of its scale, and single epochs miss by far: a width that
        # makes intervals hold what they claim to brings the scale right.
        width = np.log([_width(np.abs(own), weight) for own in scaled.T])
        sizes[-1] += width
        scaled = np.clip(scaled / np.exp(width), -3.0, 3.0)
        after = np.flatnonzero(epochs.continues)
        fading = [_fading(own[after - 1], own[after], epochs.passed[after], weight[after]) for own in scaled.T]
        mixing = np.linalg.cholesky(np.corrcoef(scaled, rowvar=False) + 1e-9 * np.eye(OUTPUTS))
        return cls(sizes, bounds + width, np.array(fading).T, np.asarray(mixing.T, dtype=np.float64))

    def size(self, standardised: Singles) -> Floats:
        """Return the standard deviation of each epoch's outcomes, shape (n, OUTPUTS)."""
        logs = standardised @ self.sizes[:-1] + self.sizes[-1]
        size: Floats = np.exp(np.clip(logs, *self.bounds))
        return size

    def kept(self, passed: Floats) -> Floats:
        """Return the share of a departure that an epoch of some intrinsic time leaves, shape (n, OUTPUTS)."""
        share: Floats = np.exp(-(self.fading[0] + self.fading[1] * passed[:, None]))
        return share

    def advance(self, departure: Floats, passed: Floats, began: NDArray[np.bool_], noise: Floats) -> Floats:
        """Return the departures after an epoch, in standard deviations.

        Args:
            departure: those before it, shape (n, OUTPUTS).
            passed: its intrinsic time, shape (n,).
            began: whether there was an epoch before it, shape (n,).
            noise: standard normals, shape (n, OUTPUTS); zeros for what is to be expected.

        Returns:
            Shape (n, OUTPUTS).
        """
        kept = self.kept(passed) * began[:, None]
        after: Floats = kept * departure + np.sqrt(1.0 - kept * kept) * (noise @ self.mixing)
        return after


def limited(departure: Floats) -> Floats:
    """Cut off departures that no epoch may have, in natural logarithms."""
    return np.clip(departure, -_MOST, _MOST)


def _with_constant(standardised: Singles) -> Floats:
    return np.column_stack([standardised, np.ones(len(standardised))]).astype(np.float64)


def _width(values: Floats, weight: Floats) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weight[order])
    share, deviations = _WITHIN
    return float(max(values[order[np.searchsorted(reached, share * reached[-1])]], _LEAST)) / deviations


def _fading(before: Floats, after: Floats, passed: Floats, weight: Floats) -> tuple[float, float]:
    """Return the rates by which departures of one epoch tell those of the next one best."""

    def miss(rates: tuple[float, float]) -> float:
        return float(weight @ (after - np.exp(-(rates[0] + rates[1] * passed)) * before) ** 2)

    return min(_FADING, key=miss)


class Hazard:
    """The chance that an epoch diverges: logistic regression on rate and size, 0 where none ever did.

    Args:
        epochs: epochs of one task.
    """

    def __init__(self, epochs: Epochs) -> None:
        self._coefficients: Floats | None = None
        if epochs.diverged.any():
            inputs = _risks(epochs.rate, epochs.size, epochs.epoch)
            model = LogisticRegression(C=100.0, max_iter=5000).fit(inputs, epochs.diverged)
            self._coefficients, self._intercept = model.coef_[0], float(model.intercept_[0])

    def __call__(self, rate: Floats, size: Floats, epoch: Floats) -> Floats:
        """Return the chance of each of n epochs.

        Args:
            rate: log2 of the effective rate, shape (n,).
            size: log2 of the batch size, shape (n,).
            epoch: finished epochs before it, shape (n,).

        Returns:
            Shape (n,).
        """
        if self._coefficients is None:
            return np.zeros(len(rate))
        chance = expit(_risks(rate, size, epoch) @ self._coefficients + self._intercept)
        return np.where(chance < _LEAST_HAZARD, 0.0, chance)


def _risks(rate: Floats, size: Floats, epoch: Floats | NDArray[np.int64]) -> Floats:
    return np.column_stack([rate, size, rate * rate, size * size, rate * size, epoch > 0]) / 10.0

"""The reward: what an epoch adds to validation quality, less its share of a whole training's cost."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from autobatch._errors import ConfigError, near_names
from autobatch.policies import Quality

CostUnit = Literal["modelled", "examples", "flops", "measured"]
"""What an epoch's cost is counted in: seconds of a cost table, examples, floating-point operations, or real seconds."""

UNITS: tuple[str, ...] = get_args(CostUnit)

WEIGHT = 0.05
"""Quality that a whole training of the reference's cost is worth."""

DIVERGED = -1.0
"""Potential of a training that has diverged: the worst quality there is."""

_LEAST_SCORE, _MOST_GAIN = 1e-6, 8.0


@dataclass(frozen=True)
class Reward:
    """A potential difference less a cost share.

    The potential is the normalised validation quality, 0 before training and 1 at the best fixed beacon's final score.
    So the rewards of an episode add up to its final quality less ``weight`` times its cost in units of the reference's
    whole training (undiscounted): a policy cannot gain by being good early and bad at the end.

    Attributes:
        quality: the scale of the validation score.
        reference: cost of the whole reference training, in the cost's unit.
        weight: quality that such a training is worth, at least 0.
    """

    quality: Quality
    reference: float
    weight: float = WEIGHT

    def __post_init__(self) -> None:
        """Check the weight.

        Raises:
            ConfigError: the weight is negative or not finite.
        """
        check_weight(self.weight)

    def potential(self, score: ArrayLike, diverged: ArrayLike) -> Any:
        """Return the potential after an epoch.

        Args:
            score: validation score, any shape.
            diverged: whether the training has diverged, the same shape.

        Returns:
            float64 of the same shape, in [-1, 1.5].
        """
        return np.where(diverged, DIVERGED, self.quality(score))

    def __call__(self, before: ArrayLike, after: ArrayLike, cost: ArrayLike) -> Any:
        """Return the reward of an epoch.

        Args:
            before: potential before it (0 before the first), any shape.
            after: potential after it, the same shape.
            cost: what it cost, in the unit of ``reference``, the same shape.

        Returns:
            float64 of the same shape.
        """
        return np.subtract(after, before) - self.weight * np.divide(cost, self.reference)


@dataclass(frozen=True)
class LogGain:
    """The potential of tasks without beacons: by how much the score is below that of guessing.

    Attributes:
        guessing: natural logarithm of what guessing scores.
    """

    guessing: float

    def __call__(self, score: ArrayLike) -> Any:
        """Return the natural logarithm of guessing's score over the score.

        Args:
            score: validation score, any shape.

        Returns:
            float64 of the same shape, in [-1, 8]; -1 where the score is not finite.
        """
        figures = np.asarray(score, dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            gain = self.guessing - np.log(np.maximum(figures, _LEAST_SCORE))
        return np.where(np.isfinite(figures), np.clip(gain, DIVERGED, _MOST_GAIN), DIVERGED)


def check_weight(weight: float) -> None:
    """Refuse a weight of cost that is none.

    Args:
        weight: quality that a whole training is worth.

    Raises:
        ConfigError: it is negative or not finite.
    """
    if isinstance(weight, bool) or not (isinstance(weight, int | float) and 0.0 <= weight < np.inf):
        raise ConfigError(f"cost_weight: expected a finite number of at least 0, got {weight!r}")


def check_unit(unit: str, known: tuple[str, ...] = UNITS) -> None:
    """Refuse a cost unit that is not known.

    Args:
        unit: the unit asked for.
        known: those that there are.

    Raises:
        ConfigError: it is none of them.
    """
    if unit not in known:
        raise ConfigError(f"cost: no unit is called {unit!r}; {near_names(str(unit), known)}")

"""Validation quality on one scale for all tasks: 0 is guessing, 1 is the best fixed beacon."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from autobatch.beacons import BeaconLibrary, chance

WORST, HIGHEST = -1.0, 1.5
"""Bounds of a quality; what diverged has the worst."""

_LEAST_LOSS = 1e-6


@dataclass(frozen=True)
class Quality:
    """The normalised validation figure that rewards are made of and that learned policies see.

    With f the logarithm of a loss, or an error as it is: ``(f(chance) - f(figure)) / (f(chance) - f(best))``.

    Attributes:
        score: ``"validation_loss"`` or ``"validation_error"``; lower is better.
        chance: the figure of a classifier that guesses, quality 0.
        best: the figure that has quality 1, below ``chance``.
    """

    score: str
    chance: float
    best: float

    @classmethod
    def of(cls, library: BeaconLibrary) -> "Quality":
        """Return the scale of a task that has beacons: its best fixed configuration has quality 1.

        Args:
            library: the beacons.

        Returns:
            The scale; where the best is no better than guessing (or the number of classes is not known), the diverged
            score stands for guessing.
        """
        best = library.best_fixed().mean[library.score]
        chance = library.diverged_score
        return cls(library.score, chance, best) if best < chance else cls(library.score, 2.0 * best + 1e-6, best)

    @classmethod
    def of_classes(cls, score: str, classes: int) -> "Quality":
        """Return a scale for a task without beacons: a fiftieth of what guessing gives has quality 1.

        Args:
            score: ``"validation_loss"`` or ``"validation_error"``.
            classes: number of classes, or ``QUANTITY``.

        Returns:
            The scale.
        """
        figure = chance(score, classes)
        return cls(score, figure, figure / 50.0)

    def __call__(self, value: ArrayLike) -> Any:
        """Return the quality, in [-1, 1.5], of figures of any shape; -1 where one is not finite."""
        figures = np.asarray(value, dtype=np.float64)
        with np.errstate(invalid="ignore"):
            share = (self._scale(self.chance) - self._scale(figures)) / (
                self._scale(self.chance) - self._scale(self.best)
            )
            quality = np.where(np.isfinite(figures), np.clip(share, WORST, HIGHEST), WORST)
        return quality if quality.ndim else float(quality)

    def _scale(self, value: Any) -> Any:
        return np.log(np.maximum(value, _LEAST_LOSS)) if self.score.endswith("_loss") else value

"""Whether a training has begun to fit its own examples alone: what is validated gets worse again."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median

from autobatch.policies._protocol import Observation

WINDOW = 3
"""Periods over which a figure is averaged."""

TELLING = 5.0
"""Standard errors that a mean has to lie above the best one: at a constant rate figures scatter by 10 to 60 %."""

BETTER = 0.95
"""Share of what it was below which another figure counts as better."""

_OF_BENDS = 1.4826 / math.sqrt(6)
"""Standard deviation of a normal figure over the median absolute second difference, which a trend leaves out."""


def best_period(figures: Mapping[int, float]) -> int | None:
    """Return the period since which a figure has got worse.

    Args:
        figures: a figure by finished decision periods, lower is better.

    Returns:
        The last of the ``WINDOW`` periods with the lowest mean, where that of the last ones is higher by ``TELLING``
        standard errors; None where it is not, and where a figure is not known.
    """
    periods = sorted(figures)
    values = [figures[period] for period in periods]
    if len(values) <= WINDOW + 1 or not all(map(math.isfinite, values)):
        return None
    means = [fmean(values[end - WINDOW : end]) for end in range(WINDOW, len(values) + 1)]
    best = min(range(len(means)), key=means.__getitem__)
    bends = [
        abs(after - 2.0 * here + before) for before, here, after in zip(values, values[1:], values[2:], strict=False)
    ]
    scatter = _OF_BENDS * median(bends)
    risen = means[-1] - means[best]
    return periods[best + WINDOW - 1] if risen > 0.0 and risen > TELLING * scatter * math.sqrt(2 / WINDOW) else None


class Validated:
    """The figures that a training was validated with so far, and whether they have only got worse for a while.

    Args:
        score: the figure that ranks trainings; where the error is another, it must not have got better meanwhile.
    """

    def __init__(self, score: str) -> None:
        self._score = score
        self._figures: dict[str, dict[int, float]] = {}

    def take(self, observation: Observation) -> None:
        """Take in the figures of the last period, those that are known."""
        for name in {self._score, "validation_error"}:
            value = float(getattr(observation, name))
            if observation.epoch and math.isfinite(value):
                self._figures.setdefault(name, {})[observation.epoch] = value

    def worse_since(self, patience: int) -> int | None:
        """Return the period since which the training has only got worse on what it does not train on.

        Args:
            patience: periods that must have gone by.

        Returns:
            The period at which the score was best; None where it has not got worse, or not for so long, or where the
            error has got better since.
        """
        score = self._figures.get(self._score, {})
        best = best_period(score)
        if best is None or max(score) - best < patience:
            return None
        errors = self._figures.get("validation_error", {})
        before = [value for period, value in errors.items() if period <= best][-WINDOW:]
        since = list(errors.values())[-WINDOW:]
        return None if before and fmean(since) < BETTER * fmean(before) else best

    def state_dict(self) -> dict[str, list[list[float]]]:
        """Return the figures as JSON-able values."""
        return {name: [[*one] for one in figures.items()] for name, figures in self._figures.items()}

    def load_state_dict(self, state: Mapping[str, Sequence[Sequence[float]]]) -> None:
        """Restore what ``state_dict`` returned.

        Args:
            state: the state.
        """
        self._figures = {
            name: {int(epoch): float(value) for epoch, value in figures} for name, figures in state.items()
        }

"""Whether a training has begun to fit its own examples alone: what is validated gets worse again, and since when."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import Protocol, runtime_checkable

from autobatch.policies._protocol import Observation, Policy

WINDOW = 3
"""Periods over which a figure is averaged."""

TELLING = 5.0
"""Standard errors that a mean has to lie above the best one: at a constant rate figures scatter by 10 to 60 %, and get
better once the rate falls."""

TELLING_FALLING = 3.0
"""As many once the rate has fallen for ``WINDOW`` epochs, and nothing but the scatter gets better any more."""

TELLING_LAST = 1.0
"""As many before the last epoch, which costs the same from wherever it begins."""

BETTER = 0.95
"""Share of what it was below which another figure counts as better, where that is beyond its scatter too."""

_DIGITS = 6
"""Digits of a share of examples; those beyond are round-off, as of a mean over batches."""

_OF_BENDS = 1.4826 / math.sqrt(6)
"""Standard deviation of a normal figure over the median absolute second difference, which a trend leaves out."""


def lowest_period(figures: Mapping[int, float]) -> int | None:
    """Return the last of the ``WINDOW`` periods over which a figure's mean was lowest.

    Args:
        figures: a figure by finished decision periods, lower is better.

    Returns:
        The period; None before there are as many, and where a figure is not known.
    """
    periods = sorted(figures)
    values = [figures[period] for period in periods]
    if len(values) < WINDOW or not all(map(math.isfinite, values)):
        return None
    means = [fmean(values[end - WINDOW : end]) for end in range(WINDOW, len(values) + 1)]
    return periods[min(range(len(means)), key=means.__getitem__) + WINDOW - 1]


def best_period(figures: Mapping[int, float], telling: float = TELLING, *, shares: bool = False) -> int | None:
    """Return the period since which a figure has got worse.

    Args:
        figures: a figure by finished decision periods, lower is better.
        telling: standard errors that it must have got worse by.
        shares: whether the figures are shares of examples.

    Returns:
        ``lowest_period``, where the mean of the last ``WINDOW`` periods is higher by so many; None where it is not, and
        where a figure is not known.
    """
    lowest = lowest_period(figures)
    if lowest is None or len(figures) <= WINDOW + 1:
        return None
    risen = _mean(figures, max(figures)) - _mean(figures, lowest)
    error = max(_standard_error(figures), _of_shares(figures) if shares else 0.0)
    return lowest if risen > max(0.0, telling * error) else None


def _mean(figures: Mapping[int, float], period: int) -> float:
    """Return the mean of the last ``WINDOW`` figures up to a period."""
    return fmean([figures[one] for one in sorted(figures) if one <= period][-WINDOW:])


def _standard_error(figures: Mapping[int, float]) -> float:
    """Return that of the difference of two means over ``WINDOW`` figures; infinite where they are too few to tell."""
    values = [figures[period] for period in sorted(figures)]
    bends = [
        abs(after - 2.0 * here + before) for before, here, after in zip(values, values[1:], values[2:], strict=False)
    ]
    return _OF_BENDS * median(bends) * math.sqrt(2 / WINDOW) if bends else math.inf


def _of_shares(figures: Mapping[int, float]) -> float:
    """Return the least such error of shares of examples, the binomial one: two differ by an example at least."""
    apart = sorted({round(figure, _DIGITS) for figure in figures.values()})
    one_example = min((after - before for before, after in pairwise(apart)), default=0.0)
    return math.sqrt(max(0.0, fmean(figures.values())) * one_example * 2 / WINDOW)


@runtime_checkable
class RewindingPolicy(Policy, Protocol):
    """A policy that has training go on from weights that it had before, where the loop can; all follow ``reset``."""

    @property
    def best_period(self) -> int | None:
        """Finished periods after which model and optimizer are worth keeping, known one epoch late; None for never."""
        ...

    @property
    def back_to(self) -> int | None:
        """Finished periods to whose model and optimizer training should go back now; None where it should not."""
        ...

    def gone_back(self) -> None:
        """Decide from here on as after going back there."""
        ...


class Validated:
    """The figures that a training was validated with so far, and whether they have only got worse for a while.

    Args:
        score: the figure that ranks trainings; where the error is another, it must not have got better meanwhile.
        an_epoch: decision periods of an epoch.
    """

    def __init__(self, score: str, an_epoch: int = 1) -> None:
        self._score, self._an_epoch = score, an_epoch
        self._figures: dict[str, dict[int, float]] = {}

    def take(self, observation: Observation) -> None:
        """Take in the figures of the last period, those that are known."""
        for name in {self._score, "validation_error"}:
            value = float(getattr(observation, name))
            if observation.epoch and math.isfinite(value):
                self._figures.setdefault(name, {})[observation.epoch] = value

    @property
    def scores(self) -> Mapping[int, float]:
        """The score by finished periods."""
        return self._figures.get(self._score, {})

    @property
    def best(self) -> int | None:
        """The period an epoch before the last of those over which the score's mean was lowest, amid them.

        Of weights that are older none are kept, so it is that one also where some periods have no figure. The last
        period as long as there are few.
        """
        score = self.scores
        lowest = lowest_period(score)
        if lowest is None:
            return max(score, default=None) if len(score) < WINDOW else None
        return lowest - self._an_epoch

    @property
    def risen(self) -> float:
        """Share by which the score's last mean lies above its lowest one; 0 as long as there are few."""
        lowest = lowest_period(self.scores)
        if lowest is None:
            return 0.0
        was, now = _mean(self.scores, lowest), _mean(self.scores, max(self.scores))
        return now / was - 1.0 if was > 0.0 else 0.0

    def worse_since(self, patience: int, telling: float = TELLING) -> int | None:
        """Return the period since which the training has only got worse on what it does not train on.

        Args:
            patience: periods that must have gone by.
            telling: standard errors that it must have got worse by.

        Returns:
            The last of the periods over which the score was best; None where it has not got worse, or not for so long,
            or where the error has got better since.
        """
        score = self.scores
        best = best_period(score, telling, shares=self._score == "validation_error")
        if best is None or max(score) - best < patience:
            return None
        errors = self._figures.get("validation_error", {})
        if not any(period <= best for period in errors):
            return best
        was, now = _mean(errors, best), _mean(errors, max(errors))
        return None if now < BETTER * was and was - now > TELLING * _standard_error(errors) else best

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

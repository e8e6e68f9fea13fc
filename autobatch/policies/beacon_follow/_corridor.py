"""Which candidate to take next: the rule of beacon-follow, apart from where its predictions come from.

Candidates are compared by the *upper end* of their predicted score, score + z x uncertainty, so that a candidate the
landscape is unsure of is not taken for a good one. Those whose upper end comes within a tolerance of the best form the
corridor; the fastest of them is the aim.
"""

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

from autobatch.policies._protocol import Candidate


@dataclass(frozen=True)
class Weighed:
    """A candidate with the two figures that it is compared by.

    Attributes:
        candidate: the configuration and its predictions.
        upper: upper end of its predicted score.
        cost: what the rest of the training costs with it, in seconds or optimizer steps.
    """

    candidate: Candidate
    upper: float
    cost: float

    @property
    def usable(self) -> bool:
        """Whether the landscape knows enough of the candidate to choose it."""
        return self.candidate.known and math.isfinite(self.upper) and math.isfinite(self.cost)


@dataclass(frozen=True)
class CorridorRule:
    """How wide the corridor is, and what it takes to change.

    Attributes:
        tolerance: width of the corridor, as a share of the reference.
        min_gain: share of the remaining cost that a change must save, and the first choice beside the best candidate.
        max_rungs: steps on the ladder, and on the rates, that one change may take.
    """

    tolerance: float
    min_gain: float
    max_rungs: int

    def limit(self, reference: float) -> float:
        """Return the largest upper end inside the corridor."""
        return reference + self.tolerance * abs(reference)

    def leaving_limit(self, reference: float) -> float:
        """Return the upper end at which the current choice leaves: twice as far, so that noise does not flap."""
        return reference + 2 * self.tolerance * abs(reference)


class Outcome(enum.Enum):
    """Why a choice was made."""

    START = "start"
    FASTER = "faster"
    STAY = "stay"
    LEFT = "left"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Choice:
    """The candidate to take, and what it was compared with.

    Attributes:
        outcome: why.
        chosen: the candidate to take; None where nothing is known.
        current: the candidate that continues as now; None before the first decision.
        best: the usable candidate with the least upper end; None where nothing is known.
        reference: the upper end that the corridor is measured from; NaN where nothing is known.
    """

    outcome: Outcome
    chosen: Weighed | None
    current: Weighed | None
    best: Weighed | None
    reference: float


def best_of(candidates: Sequence[Weighed]) -> Weighed | None:
    """Return the usable candidate with the least upper end; ties go to the cheaper, then to the lower rate.

    Args:
        candidates: all candidates.

    Returns:
        The best, or None where none is usable.
    """
    usable = [weighed for weighed in candidates if weighed.usable]
    return min(usable, key=lambda weighed: (weighed.upper, weighed.cost, weighed.candidate.lr), default=None)


def choose(
    candidates: Sequence[Weighed], current: tuple[int, float] | None, promised: float, rule: CorridorRule
) -> Choice:
    """Choose the fastest candidate of the corridor, with hysteresis.

    Args:
        candidates: every configuration on the ladder and the rates.
        current: batch size and base learning rate in use; None before the first decision.
        promised: upper end that the best candidate had before training; the corridor is measured from it or from
            the best that is still within reach, whichever is worse, so that it does not widen as training goes on.
        rule: tolerance and limits.

    Returns:
        The choice. Ties in cost go to the smaller upper end, then to the lower learning rate.
    """
    now = next((w for w in candidates if (w.candidate.batch_size, w.candidate.lr) == current), None)
    best = best_of(candidates)
    if best is None:
        return Choice(Outcome.UNKNOWN, None, now, None, math.nan)
    reference = max(best.upper, promised)
    reachable = [w for w in candidates if w.usable and (now is None or _rungs(candidates, now, w) <= rule.max_rungs)]
    aim = _aim(reachable, rule.limit(reference))
    if now is None:  # nothing is there to keep, so that a faster one is held against the best
        worth_it = aim is not None and aim.cost < (1 - rule.min_gain) * best.cost
        return Choice(Outcome.START, aim if worth_it else best, None, best, reference)
    if not now.usable or aim is None:
        return Choice(Outcome.UNKNOWN, None, now, best, reference)
    if now.upper > rule.leaving_limit(reference):
        return Choice(Outcome.LEFT, aim, now, best, reference)
    if aim.upper <= rule.limit(reference) and aim.cost < (1 - rule.min_gain) * now.cost:
        return Choice(Outcome.FASTER, aim, now, best, reference)
    return Choice(Outcome.STAY, now, now, best, reference)


def _aim(reachable: Sequence[Weighed], limit: float) -> Weighed | None:
    """Return the cheapest inside the corridor, or the one nearest to it where all are outside."""
    inside = [weighed for weighed in reachable if weighed.upper <= limit]
    if inside:
        return min(inside, key=lambda weighed: (weighed.cost, weighed.upper, weighed.candidate.lr))
    return best_of(reachable)


def _rungs(candidates: Sequence[Weighed], one: Weighed, other: Weighed) -> int:
    """Return how many rungs apart two candidates are, on the ladder or on the rates, whichever is more."""
    sizes = sorted({weighed.candidate.batch_size for weighed in candidates})
    rates = sorted({weighed.candidate.lr for weighed in candidates})
    return max(
        abs(sizes.index(one.candidate.batch_size) - sizes.index(other.candidate.batch_size)),
        abs(rates.index(one.candidate.lr) - rates.index(other.candidate.lr)),
    )

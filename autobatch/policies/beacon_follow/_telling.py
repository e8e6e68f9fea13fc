"""The reasons of beacon-follow, in words and figures that a person can check."""

from dataclasses import dataclass

from autobatch.policies._protocol import Observation
from autobatch.policies._wording import configuration, count, duration, estimate, figure, percent
from autobatch.policies.beacon_follow._corridor import Choice, CorridorRule, Outcome, Weighed


@dataclass(frozen=True)
class Teller:
    """Puts choices into words.

    Attributes:
        score: name of the scored figure, such as ``"validation_loss"``.
        timed: whether costs are seconds (True) or optimizer steps.
        rule: the corridor's width and limits.
    """

    score: str
    timed: bool
    rule: CorridorRule

    def tell(self, choice: Choice, observation: Observation, epochs_left: int) -> str:
        """Return the reason of a choice.

        Args:
            choice: what was chosen and what it was compared with.
            observation: where the run stands.
            epochs_left: epochs until the end of training.

        Returns:
            One or two sentences.
        """
        best, chosen, current = choice.best, choice.chosen, choice.current
        if best is None or chosen is None or choice.outcome is Outcome.UNKNOWN:
            return self._unknown(choice, observation)
        if current is None:
            return f"start with {_name(chosen)}: {self._prediction(chosen, choice)}; {self._cost(chosen, epochs_left)}"
        if choice.outcome is Outcome.FASTER:
            return (
                f"{_move(current, chosen)}: {self._prediction(chosen, choice)}, and "
                f"{self._cost(chosen, epochs_left)} instead of {self._amount(current.cost)}"
            )
        if choice.outcome is Outcome.LEFT:
            return self._left(choice, current, chosen, epochs_left)
        return (
            f"stay with {_name(current)}: {self._prediction(current, choice)}; nothing within reach saves more than "
            f"{percent(self.rule.min_gain)} of the remaining {self._amount(current.cost)} inside the corridor"
        )

    def _left(self, choice: Choice, current: Weighed, chosen: Weighed, epochs_left: int) -> str:
        left = (
            f"you have left the corridor: {_name(current)} would end at {self._figure(current)}, "
            f"{self._excess(current, choice, allowed=2 * self.rule.tolerance)}"
        )
        if chosen is current:
            return f"{left}; nothing within reach is predicted to do better, so stay"
        return (
            f"{left}; {_move(current, chosen)} would end at {self._figure(chosen)} "
            f"({self._cost(chosen, epochs_left)} instead of {self._amount(current.cost)})"
        )

    def _unknown(self, choice: Choice, observation: Observation) -> str:
        if observation.batch_size == 0:
            return "the landscape knows none of the candidates; start with the best fixed beacon"
        place = f"C̄ = {figure(observation.c_bar)}, L = {figure(observation.l_cum)}"
        whither = "where any candidate leads" if choice.best is None else "where the present choice leads"
        stay = configuration(observation.batch_size, observation.lr)
        return f"the landscape has no beacons {whither} from {place}: stay with {stay}"

    def _prediction(self, weighed: Weighed, choice: Choice) -> str:
        text = f"predicted {self._figure(weighed)}"
        if weighed is choice.best:
            return f"{text}, the best of all candidates"
        # What is in use may be twice as far off as what is changed to.
        allowed = self.rule.tolerance * (2 if weighed is choice.current else 1)
        return f"{text}, {self._excess(weighed, choice, allowed)}"

    def _excess(self, weighed: Weighed, choice: Choice, allowed: float) -> str:
        """Return how far a candidate's upper end lies from the reference."""
        upper, reference = figure(weighed.upper), self._reference(choice)
        if choice.reference <= 0:
            return f"whose upper end {upper} compares with {reference}"
        share = weighed.upper / choice.reference - 1
        side = "above" if share > 0 else "below"
        return f"whose upper end {upper} is {100 * abs(share):.1f} % {side} {reference} ({percent(allowed)} is allowed)"

    def _reference(self, choice: Choice) -> str:
        best = choice.best
        if best is not None and best.upper >= choice.reference:
            return f"the best candidate, {_name(best)} with {figure(best.upper)}"
        return f"the best that the beacons promised before training, {figure(choice.reference)}"

    def _figure(self, weighed: Weighed) -> str:
        value = estimate(weighed.candidate.score, weighed.candidate.uncertainty)
        return f"final {self.score.replace('_', ' ')} {value}"

    def _cost(self, weighed: Weighed, epochs_left: int) -> str:
        verb = "takes" if epochs_left == 1 else "take"
        return f"the remaining {count(epochs_left, 'epoch')} {verb} {self._amount(weighed.cost)}"

    def _amount(self, cost: float) -> str:
        return duration(cost) if self.timed else f"{count(round(cost), 'optimizer step')} (no cost table: steps rank)"


def _name(weighed: Weighed) -> str:
    return configuration(weighed.candidate.batch_size, weighed.candidate.lr)


def _move(current: Weighed, chosen: Weighed) -> str:
    """Return the change, naming the learning rate once where it stays."""
    old, new = current.candidate, chosen.candidate
    if old.lr == new.lr:
        return f"s{old.batch_size} -> s{new.batch_size} at lr {new.lr:g}"
    return f"{_name(current)} -> {_name(chosen)}"

"""A learned policy for any task: the rule of ``steer``, and a small network that may say otherwise.

The network sees the run's own epochs and scouts (schema 2), so it needs no library. It departs from the rule only where
it is surer than the lead that the rule has, and not at all where a run looks like nothing that it was trained on. One
that was learned with forks may have a change tried for an epoch first, beside what is in force: the paired test of
``steer`` says which goes on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from autobatch.beacons import BeaconLibrary
from autobatch.policies._moves import Moves
from autobatch.policies._parameters import PolicyParameters, Weights
from autobatch.policies._protocol import Decision, Observation, TaskInfo
from autobatch.policies._registry import register_policy
from autobatch.policies._wording import configuration, percent
from autobatch.policies.general._course import AS_IT_IS, FALL, RATE, SIZE, STOP, TRY, Course, Limits, end_of_fall
from autobatch.policies.general._forked import FORK_ENTRIES, Forked, forking
from autobatch.policies.general._view import ENTRIES, FAR, CourseView, Seen, beyond, lead
from autobatch.policies.learned import check_card_kind, check_ladders, check_same_weights, check_size, load_learned
from autobatch.policies.learned._telling import influences
from autobatch.policies.steer import (
    Fork,
    ForkChoice,
    ForkOutcome,
    Scout,
    ScoutChoice,
    SteerParameters,
    SteerPolicy,
)
from autobatch.policies.steer._forks import ForkRule, Tried
from autobatch.policies.steer._plan import Plan
from autobatch.policies.steer._search import many_steps
from autobatch.policies.view import EpochCosts


@dataclass(frozen=True, eq=False)
class _Wanted:
    """What a network has chosen.

    Attributes:
        parts: the action, shape (1, parts).
        sure: how sure the network is of each part.
        why: what it went by.
        plan: the plan that it departs from.
    """

    parts: NDArray[np.int64]
    sure: list[float]
    why: str
    plan: Plan


class GeneralParameters(PolicyParameters):
    """Parameters of the kind ``learned-general``."""

    weights: Weights
    rule: SteerParameters = Field(
        default_factory=SteerParameters, description="The rule that it departs from, as kind 'steer'."
    )


@register_policy(
    "learned-general",
    GeneralParameters,
    blind=True,
    changes="rate, batch size, end",
    when="To see what was learned; no gain over steer was found.",
)
class GeneralPolicy(SteerPolicy):
    """Do as ``steer`` does, but where a learned network is sure of something else."""

    def __init__(self, parameters: GeneralParameters) -> None:
        super().__init__(parameters.rule)
        self._weights = parameters.weights
        self.network, self.card = load_learned(parameters.weights)
        check_card_kind(parameters.weights, self.card, "learned-general")
        self._forks = self.card.actions == "forked"
        self._entries = ENTRIES + FORK_ENTRIES if self._forks else ENTRIES
        check_size(parameters.weights, self.card, len(self._entries))

    def reset(self, task: TaskInfo, library: BeaconLibrary | None) -> None:
        """Lay the rule's plan over the task; nothing has been seen of it.

        Args:
            task: the task about to start.
            library: not used.

        Raises:
            ConfigError: the policy's card names other batch sizes or learning rates.
        """
        check_ladders(self._weights, self.card, task)
        super().reset(task, library)
        self._costs = EpochCosts(task, None)
        self._flat = CourseView(task.train_size, adaptive=task.adaptive)
        self._seen = Seen.nothing(1, task.epochs, math.log(task.guessing) if task.guessing else math.nan)
        self._course: Course | None = None
        self._asked: int | None = None
        self._laid: Plan | None = None
        self._forked = Forked.none(1)
        self._trying: _Wanted | None = None
        self._turned = False

    def take(self, scouts: Sequence[Scout]) -> ScoutChoice:
        """Choose among the scouts as the rule does, and keep what they have shown.

        Args:
            scouts: what they came to, in the order in which they trained.

        Returns:
            The choice.
        """
        choice = super().take(scouts)
        self._seen.told_by(0, scouts, choice.scout)
        self._seen.spent[0] = sum(self._costs.between(one.batch_size, len(one.train_losses)) for one in scouts)
        if choice.scout is not None:
            winner = scouts[choice.scout]
            scored = self._known_task().score == "validation_loss"
            for epoch, (loss, score) in enumerate(zip(winner.train_losses, winner.scores, strict=True), start=1):
                self._note(epoch, loss, score if scored else math.nan)
            # What the winner has trained so far is part of the run, and counted there, epoch by epoch.
            self._seen.spent[0] -= self._costs.between(winner.batch_size, len(winner.train_losses))
        return choice

    def decide(self, observation: Observation) -> Decision:
        """Say what the coming epoch uses.

        Args:
            observation: where the run stands.

        Returns:
            The decision; its reason says where the network departs from the rule, how sure it is, and what it went by.
        """
        task, trying, turned = self._known_task(), self._trying, self._turned
        self._trying, self._turned = None, False
        if turned and trying is not None:
            self._plan = trying.plan
        rule = super().decide(observation)
        if not task.steered or rule.stop:
            return rule
        course, limits = self._followed(observation)
        if turned and trying is not None:
            return self._carried_out(observation, rule, trying, tried=True)
        view = self._shown(course, limits)
        unlike = "no task that it has learned on has so many steps" if many_steps(task) else None
        within = "decisions lie within epochs, and it has learned between them" if task.periods > 1 else None
        outside = within or unlike or self._outside(view)
        suggested = course.suggested(limits)
        if outside:
            self._go(course, limits, suggested, rule)
            return replace(rule, reason=f"{rule.reason}; by the rule alone, as {outside}")
        logits, weights = self.network.weigh(view, lead(view, self.card.margin))
        chosen = self.network.choose(logits)[None]
        if observation.epoch == 0:
            chosen[0, STOP] = 0
        why = influences(view, weights, self._entries)
        wanted = _Wanted(chosen, self.network.confidence(logits), why, self._plan)
        if self._forks and not chosen[0, STOP]:
            tried = course.take(np.array([0]))
            tried.advance(chosen, limits)
            if forking(chosen, course, tried, limits.sizes)[0]:
                return self._hold(observation, wanted, tried)
        return self._carried_out(observation, rule, wanted)

    def _shown(self, course: Course, limits: Limits) -> NDArray[np.float32]:
        """Return what the network sees."""
        (view,) = self._flat.arrays(course, limits, self._seen)
        return np.concatenate([view, self._forked.arrays(course, limits.epochs)[0]]) if self._forks else view

    def _hold(self, observation: Observation, wanted: "_Wanted", tried: Course) -> Decision:
        """Leave everything as it is for the coming epoch, beside which something else is to be tried."""
        assert self._course is not None
        task, course, limits = self._known_task(), self._course, self._limits()
        if course.suggested(limits)[0, FALL]:
            self._told_fall(observation.epoch, begins=False)
        decision = super().decide(observation)
        size = task.batch_sizes[int(course.size[0])]
        if decision.batch_size != size:
            decision = replace(decision, batch_size=size, factor=float(course.factor(limits.sizes)[0]))
        self._trying = wanted
        other = configuration(task.batch_sizes[int(tried.size[0])], self._rate_of(tried))
        falls = " with the rate falling" if wanted.parts[0, FALL] else ""
        sure = percent(round(wanted.sure[TRY], 2))
        reason = f"learned: as it is, and {other}{falls} is to be tried beside it ({sure} sure; {wanted.why})"
        return replace(decision, reason=reason)

    def _rate_of(self, course: Course) -> float:
        """Return the base rate of a course, to the last bit that in force where it has not moved."""
        assert self._course is not None
        return self._start[1] if course.rate[0] == self._course.rate[0] else float(np.exp2(course.rate[0]))

    def _carried_out(
        self, observation: Observation, rule: Decision, wanted: "_Wanted", *, tried: bool = False
    ) -> Decision:
        """Do what the network has chosen, where that is something else than the rule would do, or is tried."""
        assert self._course is not None
        limits = self._limits()
        suggested = self._course.suggested(limits)
        departs = wanted.parts[0, :TRY] != suggested[0]
        if not departs.any() and tried:  # the rule may grow further at once than what a fork was said to try
            course, sizes = self._course, self._known_task().batch_sizes
            course.advance(suggested, limits)
            if (size := sizes[int(course.size[0])]) != rule.batch_size:
                rule = replace(rule, batch_size=size, factor=float(course.factor(limits.sizes)[0]))
            self._go(course, limits, np.array([AS_IT_IS]), rule)
            return rule
        if not departs.any():
            self._go(self._course, limits, suggested, rule)
            return rule
        return self._depart(observation, departs, wanted)

    def _depart(self, observation: Observation, departs: NDArray[np.bool_], wanted: "_Wanted") -> Decision:
        """Do something else than the rule would, and say why."""
        assert self._course is not None
        task, course, limits = self._known_task(), self._course, self._limits()
        parts, sure, why = wanted.parts, wanted.sure, wanted.why
        if departs[STOP]:
            reason = f"learned: training ends here ({percent(round(sure[STOP], 2))} sure; {why})"
            return Decision(observation.batch_size or self._start[0], self._start[1], reason, stop=True)
        size, rate, grows = (
            int(course.size[0]),
            float(course.rate[0]),
            course.suggested(limits)[0, SIZE] != AS_IT_IS[SIZE],
        )
        told_as = []
        course.advance(parts, limits)
        if departs[FALL]:
            self._told_fall(observation.epoch, begins=bool(parts[0, FALL]))
            what = "the rate begins to fall" if parts[0, FALL] else "the rate does not fall yet"
            told_as.append(f"{what} ({percent(round(sure[FALL], 2))} sure)")
        elif course.falling[0]:
            self._plan = Plan(float(course.fall_from[0]), int(course.end[0]))
        self._laid = self._plan if self._hastened is None else self._laid
        if departs[RATE] and float(course.rate[0]) != rate:
            self._start = (self._start[0], float(np.exp2(course.rate[0])))
            told_as.append(
                f"the rate {'doubles' if course.rate[0] > rate else 'is halved'} ({percent(round(sure[RATE], 2))} sure)"
            )
        if departs[SIZE] and int(course.size[0]) != size:
            told_as.append(
                f"batches of {task.batch_sizes[int(course.size[0])]} after {task.batch_sizes[size]} "
                f"({percent(round(sure[SIZE], 2))} sure)"
            )
            if not course.falling[0]:
                self._start = (task.batch_sizes[int(course.size[0])], self._start[1])
        elif departs[SIZE] and grows:
            told_as.append(f"batches stay at {task.batch_sizes[size]} ({percent(round(sure[SIZE], 2))} sure)")
        if not told_as:  # the ladders end here
            decision = super().decide(observation)
            self._go(course, limits, np.array([AS_IT_IS]), decision)
            return decision
        self._reason = f"{configuration(*self._start)}: learned"
        decision = super().decide(observation)
        if departs[SIZE] and course.falling[0]:
            factor = float(course.factor(limits.sizes)[0])
            decision = replace(decision, batch_size=task.batch_sizes[int(course.size[0])], factor=factor)
        else:
            course.size[0] = task.batch_sizes.index(decision.batch_size)
        ends = f"training ends after {self._known_task().told(self._plan.end)}"
        if self._plan.decay_from < self._plan.end:
            ends += f", the rate falling from epoch {math.floor(self._plan.decay_from) + 1} on"
        return replace(decision, reason=f"learned: {', '.join(told_as)}; {why}; {ends}")

    def _told_fall(self, epoch: int, *, begins: bool) -> None:
        """Lay the plan anew, where the fall begins sooner or later than the rule would have it."""
        assert self._course is not None
        if begins:
            self._plan = Plan(float(self._course.fall_from[0]), int(self._course.end[0]))
        else:
            later = min(epoch + 1, self._known_task().epochs)
            self._plan = Plan(later, int(end_of_fall(np.array([later]), self._limits())[0]))

    def gone_back(self) -> None:
        """Let the rate fall to nothing from what it was at the weights that training has gone back to."""
        super().gone_back()
        if self._laid is not None and self._hastened is not None:
            self._plan = self._laid.hastened(self._hastened[0], self._back, self._known_task().periods)

    def _go(self, course: Course, limits: Limits, actions: NDArray[np.int64], decision: Decision) -> None:
        """Follow what the rule has decided."""
        course.advance(actions, limits)
        sizes = self._known_task().batch_sizes
        if decision.batch_size in sizes:
            course.size[0] = sizes.index(decision.batch_size)
        if course.falling[0]:
            course.fall_from[0], course.end[0] = float(self._plan.decay_from), self._plan.end

    def _followed(self, observation: Observation) -> tuple[Course, Limits]:
        """Take in the last epoch, and return how the run goes on if nothing is changed."""
        task, epoch = self._known_task(), observation.epoch
        last = self._asked
        if self._course is None:
            size, rate = Moves(task.batch_sizes, task.learning_rates).rungs(*self._start)[0], math.log2(self._start[1])
            self._course = Course.begun(np.array([size]), np.array([rate]), np.array([task.epochs]))
        if epoch and last != epoch:
            self._note(epoch, observation.train_loss, observation.validation_loss)
            done = epoch - (last or 0)
            self._seen.spent[0] += self._costs.between(observation.batch_size, done)
        self._asked = epoch
        self._course.epoch[0] = epoch
        if self._hastened is not None and self._course.falling[0]:
            self._course.fall_from[0], self._course.end[0] = float(self._plan.decay_from), self._plan.end
        return self._course, self._limits()

    def _limits(self) -> Limits:
        task, rates = self._known_task(), np.log2(self._known_task().learning_rates)
        assert self._course is not None
        plan = Plan.of(task.epochs, self._length, self.parameters.decay, task.periods)
        start = self._course.start_rate
        return Limits(
            np.log2(np.asarray(task.batch_sizes, dtype=np.float64)),
            np.array([0]),
            np.array([len(task.batch_sizes) - 1]),
            np.minimum(rates[:1], start),
            np.maximum(rates[-1:], start),
            np.array([task.epochs]),
            np.array([float(plan.decay_from)]),
            np.array([plan.end]),
            self._costs.by_rung[None],
        )

    def _note(self, epoch: int, train_loss: float, validation_loss: float) -> None:
        if epoch < self._seen.train.shape[1]:
            for curve, loss in ((self._seen.train, train_loss), (self._seen.score, validation_loss)):
                curve[0, epoch] = math.log(loss) if loss > 0.0 and math.isfinite(loss) else math.nan

    def _outside(self, view: NDArray[np.float32]) -> str:
        """Say how far a run is from all that the network was trained on; empty where it is not."""
        if self.card.seen is None:
            return ""
        seen = np.array(self.card.seen)
        shares, (low, high) = beyond(view, seen), seen.T
        worst = int(np.argmax(shares))
        if shares[worst] <= FAR:
            return ""
        told = f"'{self._entries[worst][0]}' is {view[worst]:.2f} and was"
        if low[worst] == high[worst]:
            return f"{told} {low[worst]:.2f} throughout its training"
        return (
            f"{told} {low[worst]:.2f} to {high[worst]:.2f} in its training: outside by "
            f"{percent(round(float(shares[worst]), 2))} of that range"
        )

    def turn(self, fork: Fork) -> None:
        """Decide from here on as if the fork were taken.

        Args:
            fork: what ``fork`` returned.
        """
        if self._trying is not None:
            self._turned = True
            return
        super().turn(fork)
        self._begin_anew()

    def fork(self, observation: Observation) -> Fork | None:
        """Return what to try for the coming epoch: what the network wants tried, or else what the rule does.

        Args:
            observation: where the run stands.

        Returns:
            The fork; None where nothing is to be tried.
        """
        if self._trying is None:
            return super().fork(observation)
        assert self._course is not None
        tried = self._course.take(np.array([0]))
        tried.advance(self._trying.parts, self._limits())
        return Fork(self._known_task().batch_sizes[int(tried.size[0])], self._rate_of(tried))

    def judge(self, fork: Fork, outcome: ForkOutcome, observation: Observation) -> ForkChoice:
        """Choose between the fork and what was in force by the paired test, and go on from there.

        Args:
            fork: what ``fork`` returned.
            outcome: what both came to.
            observation: where the run stood when they began.

        Returns:
            The choice.
        """
        course, trying = self._course, self._trying
        assert course is not None
        stays = self._known_task().batch_sizes[int(course.size[0])]
        if trying is None:
            choice = super().judge(fork, outcome, observation)
            if choice.taken:
                self._begin_anew()
        else:
            choice = ForkRule.choice(stays, self._start[1], fork, outcome)
            longer = max(self._costs.between(size, 1) for size in (stays, fork.batch_size))
            self._tried.append(Tried(observation.epoch, longer))
            self._turned = choice.taken
            if choice.taken:
                self.decide(observation)
            if trying.parts[0, FALL]:
                choice = replace(choice, reason=f"with the rate falling, {choice.reason}")
            self._trying, self._reason = None, choice.reason
        if self._forks:
            lost = self._costs.between(stays if choice.taken else fork.batch_size, 1)
            self._seen.spent[0] += lost
            said = (outcome.loss, outcome.difference, outcome.standard_error, choice.taken, lost, math.nan)
            self._forked = Forked(*np.array([(observation.epoch, *said)], dtype=np.float64).T)
        return choice

    def begin(self, batch_size: int, lr: float, reason: str) -> None:
        """Go on from a configuration that somebody else has chosen.

        Args:
            batch_size: global batch size.
            lr: base learning rate.
            reason: why, in words a person reads.
        """
        super().begin(batch_size, lr, reason)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._trying = None
        if self._course is not None:
            task = self._known_task()
            size = Moves(task.batch_sizes, task.learning_rates).rungs(*self._start)[0]
            self._course.size[0], self._course.rate[0] = size, math.log2(self._start[1])

    def state_dict(self) -> dict[str, Any]:
        """Return the rule's state, what the run has shown and how it goes on, and which weights decide."""
        plan, course = self._plan, self._course
        return super().state_dict() | {
            "plan": [plan.decay_from, plan.end],
            "laid": None if self._laid is None else [self._laid.decay_from, self._laid.end],
            "seen": {name: _plain(values) for name, values in vars(self._seen).items()},
            "course": None if course is None else {name: _plain(values) for name, values in vars(course).items()},
            "asked": self._asked,
            "sha256": self.card.sha256,
            **({"forks_learned": self._forks_learned()} if self._forks else {}),
        }

    def _forks_learned(self) -> dict[str, Any]:
        """Return what the last fork came to, and what is to be tried, as JSON-able values."""
        trying = self._trying
        return {
            "forked": {name: _plain(values) for name, values in vars(self._forked).items()},
            "trying": None
            if trying is None
            else [trying.parts.tolist(), trying.sure, trying.why, [trying.plan.decay_from, trying.plan.end]],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Args:
            state: the state.

        Raises:
            CheckpointError: other weights decided then.
        """
        check_same_weights(self._weights, self.card, state["sha256"])
        super().load_state_dict(state)
        decay_from, end = state["plan"]
        self._plan = Plan(decay_from, int(end))
        self._laid = None if state["laid"] is None else Plan(*state["laid"])
        self._seen = Seen(**{name: _read(values) for name, values in state["seen"].items()})
        self._course = None
        if state["course"] is not None:
            course = {name: np.array(values) for name, values in state["course"].items() if name != "fall_from"}
            falls = _read(state["course"]["fall_from"])
            self._course = Course(**course, fall_from=np.where(np.isnan(falls), np.inf, falls))
        self._asked = state["asked"]
        self._turned = False
        if self._forks:
            learned = state["forks_learned"]
            self._forked = Forked(**{name: _read(values) for name, values in learned["forked"].items()})
            trying = learned["trying"]
            self._trying = None
            if trying is not None:
                parts, sure, why, plan = trying
                self._trying = _Wanted(np.array(parts), sure, why, Plan(*plan))


def _plain(values: NDArray[Any]) -> Any:
    """Return an array as JSON-able values; what is not finite is None."""
    if np.issubdtype(values.dtype, np.integer):
        return values.tolist()
    known = np.where(np.isfinite(values), values, 0.0).astype(object)
    known[~np.isfinite(values)] = None
    return known.tolist()


def _read(values: Any) -> NDArray[np.float64]:
    """Read back what ``_plain`` wrote."""
    return np.array(values, dtype=np.float64)

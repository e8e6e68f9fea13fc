"""Steer a new task: scouts choose batch size and rate, then the rate falls early and training ends early.

``docs/concepts/steer.md`` says how it decides, and what it was measured to reach.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field

from autobatch.beacons import BeaconLibrary
from autobatch.policies._parameters import PolicyParameters, after_reset
from autobatch.policies._protocol import Decision, Observation, TaskInfo
from autobatch.policies._registry import register_policy
from autobatch.policies._wording import configuration, duration, figure, percent
from autobatch.policies.steer._ends import LOOK, RISEN, TOLD, elasticity, lower_by
from autobatch.policies.steer._forks import (
    MOST_FORKS,
    Fork,
    ForkChoice,
    ForkOutcome,
    ForkRule,
    Tried,
    tried_from_list,
    tried_to_list,
)
from autobatch.policies.steer._noise import CLEARLY, FOLLOWED, PERIODS, WANTED, Noise
from autobatch.policies.steer._overfit import TELLING, TELLING_FALLING, TELLING_LAST, WINDOW, Validated
from autobatch.policies.steer._plan import Plan, grown, period_seconds, plan_seconds
from autobatch.policies.steer._scouts import (
    LEARNT_NOTHING,
    Scout,
    ScoutChoice,
    ScoutPlan,
    best_of,
    by_scores,
    choose_scout,
    final_loss,
    hardly_begun,
    learnt_nothing,
)
from autobatch.policies.steer._search import (
    FAR_BETTER,
    LEAST,
    MOST,
    QUARTER,
    compared,
    ends_of,
    has_larger_batches,
    helping_halves,
    many_steps,
    nearest_size,
    periods_of_epoch,
    plan_scouts,
    start_without_scouts,
    up_to,
    usual_length,
    within_memory,
)

WORSE = 1.02
"""Times the validation loss of the best scout from which that of half its batch says that its rate is too high."""

CLOSE, FAR_ABOVE = 1.1, 1.25
"""Where steps are many, times the best training loss up to which a lower rate comes in question, and times its
validation loss from which that of the best says that its rate is too high."""

AS_GOOD, NOT_ABOVE = 1.05, 1.05
"""Where steps are many, times the best training loss up to which a higher rate is as good, as the noise that it adds
goes when the rate falls; and times its validation loss above which it is too high all the same."""

FAR_WORSE = 1.2
"""Times that validation loss from which the next lower rate is no choice."""

CLEARLY_BETTER = 0.995
"""Share of the best scout's loss below which a smaller batch has to come: closer than that is chance."""

OF_LEARNT = 0.05
"""Share of what the best scout has learnt, the loss of guessing less its own, that half the batch has to gain where
scouts have hardly begun: where noise keeps the loss from ever falling far, they seem to, and half the batch is always a
little ahead."""

MANY_STEPS = 128
"""Steps of an epoch, at the size that scouts have, above which batches may grow further: below, that does harm."""

SEESAW, GROWN, MANY = (1.0, 0.5), (4.0, 1.0), (4.0, 0.5)
"""How batches grow while the rate falls, as ``grown`` takes it: usually, further, and in trainings of many steps."""

SPARING = 0.9
"""Share of the plan's time that growing further may take: where it spares less, it is not worth what it may cost."""

HORIZON = 0.32
"""The best rate falls as a training's length to this power."""


class SteerParameters(PolicyParameters):
    """Parameters of the kind ``steer``."""

    scouts: int = Field(
        default=MOST,
        ge=0,
        le=16,
        description="Short trainings at different rates that are made first, at most; 0 makes none.",
    )
    scout_share: float = Field(
        default=0.05,
        gt=0,
        le=0.25,
        description="Share of the training that each scout takes; one epoch at least, and up to a tenth until it has "
        "taken 60 steps.",
    )
    length: float = Field(
        default=0.7,
        gt=0,
        le=1,
        description="Share of the task's length after which training ends, where the schedule is steered; the whole "
        "where a training has fewer than six epochs, or steps are missing, or so many that scouts train with larger "
        "batches and that is as fast.",
    )
    decay: float = Field(
        default=0.75,
        gt=0,
        le=1,
        description="Share of what is trained over which the rate falls linearly to 0, where the schedule is steered.",
    )
    growth: Annotated[float, Field(ge=1, le=16)] | Literal["auto"] = Field(
        default="auto",
        description="Times that the batch may be larger, once the rate falls, than where it doubles as the rate "
        "halves; auto is 4 where an epoch has more than 128 steps of scouts, a training six epochs, and that spares a "
        "tenth of the time, or where steps are so many that scouts train with larger batches, else 1.",
    )
    growth_power: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = Field(
        default="auto",
        description="Power of the growth of the batch, while the rate falls, by which the rate is higher in return; "
        "auto is 1 where the automatic growth is 4 to spare time, else 0.5.",
    )
    hardly_begun: float = Field(
        default=0.65,
        ge=0,
        description="Share of the loss of guessing; where the best scout's training loss is above it, half the batch "
        "is tried, and where more steps help or that cannot be tried the whole length is trained.",
    )
    patience: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Share of the task's length that validation figures may get worse for before the rate falls to "
        "nothing at once, where the schedule is steered; 0 never hastens it.",
    )
    forks: int = Field(
        default=MOST_FORKS,
        ge=0,
        le=16,
        description="Times that a larger batch is tried on the run itself, at most, where the schedule is steered.",
    )
    fork_share: float = Field(
        default=0.05, gt=0, le=0.25, description="Share of the training's modelled time that forks may cost."
    )


def _split(scouts: Sequence[Scout]) -> tuple[list[Scout], list[Scout]]:
    """Return the scouts at the size that rates are compared at, which come first, and those at smaller ones."""
    largest = max((scout.batch_size for scout in scouts), default=0)
    return [one for one in scouts if one.batch_size == largest], [one for one in scouts if one.batch_size < largest]


def _below_diverged(task: TaskInfo, scouts: Sequence[Scout]) -> float:
    """Return the task's lowest rate, or a tenth of it where that has been tried and failed."""
    lowest = task.learning_rates[0]
    return lowest / 10.0 if any(scout.lr <= lowest for scout in scouts) else lowest


def _middle_unless(scouts: Sequence[Scout], choice: ScoutChoice, rate: float) -> ScoutChoice:
    """Return the scout at the middle rate, unless another is clearly better: of chance the middle is safest."""
    assert choice.scout is not None
    place = next((place for place, scout in enumerate(scouts) if scout.lr == rate), choice.scout)
    if place == choice.scout or not final_loss(scouts[place]) * CLEARLY_BETTER <= final_loss(scouts[choice.scout]):
        return choice
    middle = configuration(scouts[place].batch_size, rate)
    return ScoutChoice(place, f"{middle}: the middle of the rates, as no scout is clearly better", choice.margin)


def _below_too_high(task: TaskInfo, best: int, scouts: Sequence[Scout], halves: Sequence[Scout]) -> ScoutChoice | None:
    """Return the scout one rate below the highest, where half the batch says that the highest one is too high.

    With half the batch the steps at a rate are as noisy as at twice the rate. Where that helps neither the training nor
    what is validated, a rate that looked best by the first steps of the training does so no longer later on.
    """
    highest, half = scouts[best], next((one for one in halves if one.ended is None), None)
    if half is None or highest.lr != ends_of(task, scouts)[1] or task.score != "validation_loss":
        return None
    below = max((rate for rate in task.learning_rates if rate < highest.lr), default=None)
    lower = next((place for place, one in enumerate(scouts) if one.lr == below and one.ended is None), None)
    if lower is None:
        return None
    told, theirs, mine = half.scores[-1], scouts[lower].scores[-1], highest.scores[-1]
    if not (told > WORSE * mine > 0.0 and theirs < FAR_WORSE * mine):
        return None
    reason = (
        f"{configuration(highest.batch_size, below)}: {highest.lr:g} looks better by "
        f"{'validation' if highest.by_score else 'training loss'}, but {_half(half, highest)} there is validated "
        f"{percent(told / mine - 1.0)} higher, so it is too high to go on with"
    )
    return ScoutChoice(lower, reason)


def _where_steps_are_many(task: TaskInfo, best: int, scouts: Sequence[Scout]) -> ScoutChoice | None:
    """Return the scout at another rate than the best one's, where with many steps that says more than its loss."""
    higher = _above_as_good(task, best, scouts)
    if higher is not None and _below_validated_worse(task, higher, scouts) is None:
        return _told_as_good(scouts[best], scouts[higher], higher)
    return _below_validated_worse(task, best, scouts)


def _above_as_good(task: TaskInfo, best: int, scouts: Sequence[Scout]) -> int | None:
    """Return the scout at the highest rate that is hardly worse than the best one; None where none is higher."""
    mine, told = final_loss(scouts[best]), scouts[best].scores[-1]
    if not mine > 0.0:  # of losses of 0 and below a ratio says nothing
        return None

    def as_good(one: Scout) -> bool:
        too_high = task.score == "validation_loss" and one.scores[-1] > NOT_ABOVE * told > 0.0
        return final_loss(one) <= AS_GOOD * mine and not too_high

    close = [place for place, one in enumerate(scouts) if one.lr > scouts[best].lr and one.ended is None]
    return max(filter(lambda place: as_good(scouts[place]), close), key=lambda place: scouts[place].lr, default=None)


def _told_as_good(lower: Scout, higher: Scout, place: int) -> ScoutChoice:
    """Say why a scout at a higher rate goes on, whose loss is not the lowest."""
    by = "validation" if higher.by_score else "training"
    return ScoutChoice(
        place,
        f"{configuration(higher.batch_size, higher.lr)}: its {by} loss, {figure(final_loss(higher))}, is "
        f"{percent(final_loss(higher) / final_loss(lower) - 1.0)} above the lowest, {figure(final_loss(lower))} at "
        f"{lower.lr:g}: the noise of larger steps, which goes as the rate falls",
    )


def _below_validated_worse(task: TaskInfo, best: int, scouts: Sequence[Scout]) -> ScoutChoice | None:
    """Return the scout at a lower rate, hardly worse in training, that the best one is validated far worse than."""
    mine = scouts[best]
    if task.score != "validation_loss":
        return None
    for place, one in sorted(enumerate(scouts), key=lambda known: -known[1].lr):
        close = one.lr < mine.lr and one.ended is None and final_loss(one) <= CLOSE * final_loss(mine)
        if close and mine.scores[-1] > FAR_ABOVE * one.scores[-1] > 0.0:
            return ScoutChoice(
                place,
                f"{configuration(one.batch_size, one.lr)}: {mine.lr:g} has a training loss "
                f"{percent(1.0 - final_loss(mine) / final_loss(one))} lower, but is validated "
                f"{percent(mine.scores[-1] / one.scores[-1] - 1.0)} higher, so it is too high to go on with",
            )
    return None


def _clearly_below(task: TaskInfo, best: Scout) -> float:
    """Return the share of the best scout's loss below which a smaller batch has to come where scouts hardly begin.

    Guessing comes to a training loss; of scouts that are compared by another figure it says nothing.
    """
    loss = final_loss(best)
    if best.by_score or not loss > 0.0 or task.guessing is None:
        return CLEARLY_BETTER
    return min(CLEARLY_BETTER, 1.0 - OF_LEARNT * (task.guessing / loss - 1.0))


def _told_no_better(half: Scout, best: Scout) -> str:
    return half.ended or ("is hardly better" if final_loss(half) < final_loss(best) else "is no better")


def _half(half: Scout, best: Scout) -> str:
    return "half the batch" if 2 * half.batch_size == best.batch_size else f"a batch of {half.batch_size}"


@register_policy(
    "steer",
    SteerParameters,
    blind=True,
    changes="rate, batch size, end",
    when="One new task, nothing recorded: the default without a library.",
)
class SteerPolicy:
    """Start from the best of a few scouts, let the rate fall early, end early."""

    needs_library = False
    periods_of_epoch = staticmethod(periods_of_epoch)

    def __init__(self, parameters: SteerParameters) -> None:
        self.parameters = parameters
        self._task: TaskInfo | None = None
        self._plan = Plan(0, 1)
        self._length = parameters.length
        self._further = False
        self._start = (0, math.nan)
        self._reason = ""
        self._tried: list[Tried] = []
        self._noise: Noise | None = Noise()  # None once it has nothing more to say
        self._calm = False  # whether the noise scale has been found to be small
        self._before: tuple[int, float, int] | None = None  # batch size and length before that, and since when
        self._shrunk: int | None = None
        self._scouted = 0
        self.samples_wanted = 0
        self._validated = Validated("")
        self._hastened: tuple[int, int] | None = None
        self._back: int | None = None

    def reset(self, task: TaskInfo, library: BeaconLibrary | None) -> None:
        """Lay the plan over the task, and start where scouts would, as long as none has gone.

        Args:
            task: the task about to start.
            library: not used.
        """
        self._task = task
        self._lay_plan(usual_length(self.parameters.length, task.epochs, task.periods, many=self._trains_whole()))
        self._further = self._grows_further()
        self._start = start_without_scouts(task)
        self._reason = f"{configuration(*self._start)}: the middle of what may be chosen, without scouts"
        self._tried = []
        self._noise, self._calm, self._before, self._shrunk = None if many_steps(task) else Noise(), False, None, None
        self._scouted = self.samples_wanted = 0
        self._validated, self._hastened, self._back = Validated(task.score, task.periods), None, None

    @property
    def planned_epochs(self) -> int | None:
        """Decision periods after which training is planned to end: the task's, where the schedule is not steered."""
        task = self._known_task()
        return self._plan.end if task.steered else task.epochs

    @property
    def start(self) -> tuple[int, float]:
        """Batch size and base learning rate that the run starts with."""
        return self._start

    @property
    def plan(self) -> Plan:
        """When the rate falls and training ends, where the schedule is steered."""
        return self._plan

    def scouts(self, done: Sequence[Scout] = ()) -> ScoutPlan:
        """Return the short trainings to make first.

        Args:
            done: those that have been made.

        Returns:
            The plan, as far as it is settled.

        Raises:
            RuntimeError: ``reset`` was not called.
        """
        own, task = self.parameters, self._fit(done)
        fit = [scout for scout in done if scout.batch_size <= task.batch_sizes[-1]]
        plan = plan_scouts(task, own.scouts, own.scout_share, fit, hardly=own.hardly_begun)
        larger = [(scout.batch_size, scout.lr) for scout in done if scout not in fit]
        return replace(plan, configurations=(*larger, *plan.configurations)) if larger else plan

    def take(self, scouts: Sequence[Scout]) -> ScoutChoice:
        """Choose among the scouts, and go on from there; where none can go on, start anew at a low rate.

        Args:
            scouts: what they came to, in the order in which they trained.

        Returns:
            The choice; where no scout is sound, the run starts anew, below the rates that were tried.
        """
        task = self._fit(scouts)
        fit = [place for place, scout in enumerate(scouts) if scout.batch_size <= task.batch_sizes[-1]]
        choice = self._taken([scouts[place] for place in fit] or scouts)
        return choice if not fit or choice.scout is None else replace(choice, scout=fit[choice.scout])

    def _fit(self, scouts: Sequence[Scout]) -> TaskInfo:
        """Return the task with the batch sizes that fit into memory, and begin anew with them where some do not."""
        given = self._known_task()
        task = within_memory(given, scouts)
        if task is not given:
            self.reset(task, None)
        return task

    def _taken(self, scouts: Sequence[Scout]) -> ScoutChoice:
        """Choose among scouts that fit into memory, and go on from there."""
        task = self._known_task()
        if scouts and scouts[0].score != "validation_loss":  # those of a loop that tells no other
            task = replace(task, score=scouts[0].score)
        scouts = compared(task, scouts, max((len(scout.train_losses) for scout in scouts), default=0))
        at_one_size, smaller = _split(scouts)
        best = best_of(at_one_size)
        blind = best is not None and learnt_nothing(task, best, self.parameters.hardly_begun)
        rivals = by_scores(at_one_size) if blind else at_one_size
        choice = choose_scout(rivals, of=" of its size" if smaller else "", around=task.around)
        if choice.scout is None:
            self._start = (start_without_scouts(task)[0], _below_diverged(task, scouts))
            self._reason = f"{configuration(*self._start)}: below every rate that was tried, as {choice.reason}"
            return ScoutChoice(None, self._reason)
        if blind:
            choice = _middle_unless(rivals, choice, start_without_scouts(task)[1])
        assert choice.scout is not None
        edge = "" if blind else self._told_edge(choice.scout, at_one_size, smaller)
        told = rivals[choice.scout] if blind else best
        begun = best is not None and not blind and not hardly_begun(task, best, self.parameters.hardly_begun)
        share = FAR_BETTER if begun or best is None else _clearly_below(task, best)
        helping = [] if best is None else helping_halves(best, smaller, share)
        if helping:  # those at smaller sizes were made last
            choice = choose_scout(scouts[: len(at_one_size) + len(helping)])
        assert choice.scout is not None
        length, other = "", None
        if many_steps(task) and not blind:
            other = _where_steps_are_many(task, choice.scout, at_one_size)
        elif begun and not helping:
            other = _below_too_high(task, choice.scout, at_one_size, smaller)
        if other is not None and other.scout is not None:
            higher = at_one_size[other.scout].lr > at_one_size[choice.scout].lr
            choice, edge = other, self._told_edge(other.scout, at_one_size, smaller) if higher else ""
        elif told is not None:
            alive = (one for one in rivals if one.ended is None)
            learnt = min((loss for one in alive for loss in one.train_losses[-1:]), default=math.nan)
            length = self._lay_length(told, smaller, helping, begun=begun, blind=blind, lowest=learnt)
        assert choice.scout is not None
        chosen = scouts[choice.scout]
        self._start, self._scouted = (chosen.batch_size, chosen.lr), len(chosen.train_losses)
        self._reason = f"{choice.reason}{edge}{length}"
        return ScoutChoice(choice.scout, self._reason, choice.margin)

    def _told_edge(self, place: int, scouts: Sequence[Scout], smaller: Sequence[Scout]) -> str:
        task, best = self._known_task(), scouts[place]
        low, high = ends_of(task, scouts)
        edges = {low: ("lowest", "lower"), high: ("highest", "higher")}
        if low == high or best.lr not in edges:
            return ""
        edge, beyond = edges[best.lr]
        of = "that were tried" if task.around else "to choose from"
        there = f"with batches of {best.batch_size} " if smaller else ""
        return f"; {there}the best rate is the {edge} of those {of}, so a {beyond} one may do better"

    def _lay_length(
        self,
        best: Scout,
        smaller: Sequence[Scout],
        helping: Sequence[Scout],
        *,
        begun: bool,
        blind: bool,
        lowest: float,
    ) -> str:
        """Train the whole length where more steps are what is missing, and say so."""
        task = self._known_task()
        alike = "" if task.shares_loss is None else ", all classes alike"
        near = f"not yet far below that before anything is learnt ({figure(task.guessing or math.nan)}{alike})"
        if smaller and not helping:
            tried = f"{_half(smaller[0], best)} was tried, and {_told_no_better(smaller[0], best)}"
            return f"; {'' if begun else f'its loss is {near}, but '}{tried}"
        if begun and not helping:
            return ""
        if begun:
            better = [
                f"{half.batch_size} has a loss {percent(1.0 - final_loss(half) / final_loss(one))} below that of "
                f"{one.batch_size}"
                for one, half in pairwise([best, *helping])
            ]
            near = f"; at the same rate a batch of {', and of '.join(better)}, so more steps help"
            for one in smaller[len(helping) :]:
                near += f" ({one.batch_size} was tried, and {_told_no_better(one, helping[-1])})"
        elif helping:
            near = f"; with batches of {best.batch_size} the loss is {near}, and more steps help"
        elif blind:
            guessed = figure(task.shares_loss or task.guessing or math.nan)
            by = "" if task.shares_loss is None else " by the classes' shares"
            learnt = lowest <= LEARNT_NOTHING * (task.shares_loss or task.guessing or math.inf)
            figures = "validation" if learnt else "training"  # with few steps, that is compared
            near = f"; no scout's {figures} loss is clearly below that of guessing{by} ({guessed})"
            if "validation_error" in {task.score, best.score}:
                near += ", so what is validated decides (where that is no better than guessing, give other rates)"
            elif learnt_nothing(task, best, self.parameters.hardly_begun):
                near += ", so it may learn nothing (give other rates to choose from)"
            else:
                near += ", so what is validated decides"
        elif many_steps(task):
            return ""
        else:
            near = f"; its loss is {near}"
        if not task.steered or many_steps(task):
            return near
        self._lay_plan(1.0)
        return f"{near}: the training keeps its whole length"

    def decide(self, observation: Observation) -> Decision:
        """Say what the coming epoch uses.

        Args:
            observation: where the run stands; its epoch, and its validation figures near the end of a fixed schedule.

        Returns:
            The decision.
        """
        if observation.fits is not None:
            self._task = up_to(self._known_task(), observation.fits)
        task = self._known_task()
        self._start = min(self._start[0], task.batch_sizes[-1]), self._start[1]
        if not task.steered:
            return Decision(*self._start, self._reason)
        self._look(observation)
        self._go_by_noise(observation)
        epoch, plan, (batch_size, lr) = observation.epoch, self._plan, self._start
        if epoch >= plan.end:
            return Decision(observation.batch_size or batch_size, lr, self._told_end(), stop=True)
        factor = plan.factor(epoch)
        if epoch < plan.decay_from:
            since = (
                f"from epoch {plan.decay_from + 1} on" if task.periods == 1 else f"after {task.told(plan.decay_from)}"
            )
            reason = f"{self._reason}; the rate falls {since}"
            return Decision(batch_size, lr, reason, factor=factor)
        ladder = (batch_size,) if self._calm else task.batch_sizes
        size, factor_there = grown(batch_size, factor, ladder, task.costs, self._growth)
        why, then = self._why_it_falls()
        falls = f"the rate falls in a line to nothing after {task.told(plan.end)}, {why}"
        if size == batch_size:
            reason = f"{falls}: {percent(factor)} of {lr:g}{then}"
        elif self._growth in (GROWN, MANY):
            spare = "fewer steps" if task.costs is None else "less time"
            reason = (
                f"{falls}, and batches of {size} at {factor_there:.2g} times {lr:g} take {spare} and calm the steps as "
                f"{percent(factor)} of that rate would with {batch_size}{then}"
            )
        else:
            reason = (
                f"{falls}, and batches of {size} do part of that in fewer steps, at a rate raised for them: "
                f"{percent(factor_there)} of {lr:g} with them calms the steps as {percent(factor)} would with "
                f"{batch_size}{then}"
            )
        if epoch == self._shrunk:
            reason = f"{self._reason}; {reason}"
        return Decision(size, lr, reason, factor=factor_there)

    def _go_by_noise(self, observation: Observation) -> None:
        """Before the rate falls, take a smaller batch and the whole length where noise is not what is in the way."""
        self.samples_wanted = 0
        task, epoch, (batch_size, lr) = self._known_task(), observation.epoch, self._start
        usual = start_without_scouts(task)[0]
        if self._noise is None or batch_size > usual:  # the latter where a fork has shown that a larger one keeps up
            return
        if self._calm:
            self._follow_noise(observation, self._noise)
            return
        first = max(math.floor(self._plan.decay_from) - PERIODS, 1)
        # A scout that goes on has not measured for this: where it went further, the period after it is taken.
        first, at = (first, 0) if self._scouted <= first else (self._scouted, self._scouted + 1)
        if epoch > first:
            self._noise.take(observation)
        if epoch < max(self._plan.decay_from, at):
            self.samples_wanted = WANTED if epoch >= first else 0
            return
        sizes = [size for size in task.batch_sizes if size == batch_size or usual / QUARTER <= size < batch_size]
        # Where scouts have gone over to half the batch, they have seen already that more steps help.
        size = self._noise.size(batch_size, sizes, 1.0 if batch_size < usual else CLEARLY)
        scale, self._noise = self._noise.scale or 0.0, None
        if size is None or self._hastened is not None:
            return
        self._noise, self._calm, self._before = Noise(), True, (batch_size, self._length, epoch)
        self.samples_wanted = FOLLOWED
        if size == batch_size:
            return
        self._start, self._shrunk = (size, lr), epoch
        self._reason = (
            f"{configuration(*self._start)}: smaller batches step nearly as far, so more of them help, and the "
            f"training keeps its whole length (noise scale {figure(scale)} examples, batches of {batch_size} so far)"
        )
        self._lay_plan(1.0)

    def _follow_noise(self, observation: Observation, noise: Noise) -> None:
        """Go back to the batch and the length of before once the noise has grown: smaller ones then step no further."""
        assert self._before is not None
        task, epoch, (batch_size, lr) = self._known_task(), observation.epoch, self._start
        before, length, since = self._before
        self.samples_wanted = FOLLOWED
        if epoch > since:
            noise.take(observation)
        if not noise.has_grown(batch_size):
            return
        self._noise, self._calm, self.samples_wanted = None, False, 0
        if self._hastened is None and epoch < Plan.of(task.epochs, length, 1.0, task.periods).end:
            self._lay_plan(length)
        if before > batch_size:
            scale = noise.scale or 0.0
            grown_to = "hides the gradients" if math.isinf(scale) else f"has grown to {figure(scale)} examples"
            self._start, self._shrunk = (before, lr), epoch
            self._reason = f"{configuration(before, lr)}: noise {grown_to}, so smaller batches step no further"

    def _look(self, observation: Observation) -> None:
        """Hasten the end where what is validated has only got worse for a while; before the last epoch, at all."""
        task, epoch = self._known_task(), observation.epoch
        if epoch % task.periods:  # a loop of somebody's own has validated at the ends of epochs alone
            return
        self._validated.take(observation)
        plan, window = self._plan, WINDOW * task.periods
        if self._hastened is not None or not self.parameters.patience or epoch >= plan.end:
            return
        patience, telling = max(window, round(self.parameters.patience * task.epochs)), TELLING
        if epoch - window >= plan.decay_from:
            last = epoch + task.periods >= plan.end
            patience, telling = (0, TELLING_LAST) if last else (patience, TELLING_FALLING)
        since = self._validated.worse_since(patience, telling)
        if since is not None:
            self._plan, self._hastened = plan.hastened(epoch, over=task.periods), (epoch, since)

    @property
    def best_period(self) -> int | None:
        """Finished epochs after which the weights are worth keeping: amid those whose validation was best."""
        return self._validated.best if self._known_task().steered and self.parameters.patience else None

    @property
    def back_to(self) -> int | None:
        """Finished epochs to whose weights training should go back: once, for an epoch that is to be its last."""
        return self.best_period if self._hastened is not None and self._back is None else None

    def gone_back(self) -> None:
        """Let the rate fall to nothing from what it was at the weights that training has gone back to."""
        assert self._hastened is not None
        self._back = self.back_to
        self._lay_plan(self._length)
        self._plan = self._plan.hastened(self._hastened[0], self._back, self._known_task().periods)

    def _why_it_falls(self) -> tuple[str, str]:
        """Return a clause, and a further sentence where the end comes sooner than planned."""
        if self._hastened is None:
            return "which lets the loss settle", ""
        task, own = self._known_task(), self.parameters
        since = self._hastened[1] if self._back is None else self._back
        worse = f"{task.score.replace('_', ' ')} has got worse since epoch {since // task.periods}"
        back = (
            ""
            if self._back is None
            else f", and training goes on from its weights after epoch {self._back // task.periods}"
        )
        sooner = self._plan.end < Plan.of(task.epochs, self._length, own.decay, task.periods).end
        if not sooner and not back:
            return "which lets the loss settle", f"; {worse}, so it overfits or diverges"
        return f"{'sooner than planned, ' * sooner}as {worse}{back}", "; it overfits or diverges"

    def fork(self, observation: Observation) -> Fork | None:
        """Return a larger batch to try for the coming epoch beside the one in force, where that is worth it.

        Args:
            observation: where the run stands.

        Returns:
            The fork; None where the schedule is not this policy's to change.
        """
        if not self._known_task().steered or self._calm:
            return None
        return self._fork_rule().proposed(observation.epoch, *self._start, self._tried)

    def turn(self, fork: Fork) -> None:
        """Decide from here on as if the fork were taken.

        Args:
            fork: what ``fork`` returned.
        """
        self._start = (fork.batch_size, fork.lr)
        self._reason = f"{configuration(*self._start)}: tried on the run itself"

    def judge(self, fork: Fork, outcome: ForkOutcome, observation: Observation) -> ForkChoice:
        """Choose between the fork and what was in force, and go on from there.

        Args:
            fork: what ``fork`` returned.
            outcome: what both came to.
            observation: where the run stood when they began.

        Returns:
            The choice.
        """
        rule = self._fork_rule()
        choice = rule.choice(*self._start, fork, outcome)
        self._tried.append(Tried(observation.epoch, rule.cost(self._start[0], fork.batch_size)))
        if choice.taken:
            self._start = (fork.batch_size, fork.lr)
        self._reason = choice.reason
        return choice

    def _lay_plan(self, length: float) -> None:
        self._length = length
        task = self._known_task()
        self._plan = Plan.of(task.epochs, length, self.parameters.decay, task.periods)

    def _trains_whole(self) -> bool:
        """Say whether the whole length takes no longer, with many steps' batches, than the usual with usual ones."""
        task, own = self._known_task(), self.parameters
        if not has_larger_batches(task) or task.costs is None:
            return has_larger_batches(task)
        whole, usual = (Plan.of(task.epochs, length, own.decay, task.periods) for length in (1.0, own.length))
        seconds = plan_seconds(task, whole, start_without_scouts(task)[0], MANY)
        return seconds <= plan_seconds(task, usual, nearest_size(task.batch_sizes, 0), SEESAW)

    def _grows_further(self) -> bool:
        """Say whether larger batches spare enough, by the plan as it is laid at first, to grow further for it."""
        task, size = self._known_task(), start_without_scouts(self._known_task())[0]
        if many_steps(task):
            return True
        few_steps = task.train_size * task.periods <= MANY_STEPS * size or task.epochs < LEAST * task.periods
        if task.costs is None or few_steps:
            return False
        return plan_seconds(task, self._plan, size, GROWN) <= SPARING * plan_seconds(task, self._plan, size, SEESAW)

    @property
    def _growth(self) -> tuple[float, float]:
        own = self.parameters
        further = self._further and own.growth == "auto" and self._hastened is None
        ahead, power = (MANY if many_steps(self._known_task()) else GROWN) if further else SEESAW
        return (
            ahead if own.growth == "auto" else own.growth,
            power if own.growth_power == "auto" else own.growth_power,
        )

    def _fork_rule(self) -> ForkRule:
        own = self.parameters
        return ForkRule(self._known_task(), self._plan, own.forks, own.fork_share, self._growth)

    def state_dict(self) -> dict[str, Any]:
        """Return where the run has started or gone over to, why, and the forks so far."""
        return {
            "start": list(self._start),
            "reason": self._reason,
            "forks": tried_to_list(self._tried),
            "length": self._length,
            "validated": self._validated.state_dict(),
            "hastened": None if self._hastened is None else list(self._hastened),
            "further": self._further,
            "back": self._back,
            "noise": None if self._noise is None else self._noise.state_dict(),
            "calm": self._calm,
            "before": None if self._before is None else list(self._before),
            "shrunk": self._shrunk,
            "scouted": self._scouted,
            "largest": self._known_task().batch_sizes[-1],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore where the run has started or gone over to, why, and the forks so far.

        Args:
            state: what ``state_dict`` returned.
        """
        batch_size, lr = state["start"]
        self._task = up_to(self._known_task(), state.get("largest", math.inf))
        self._start, self._reason = (int(batch_size), float(lr)), str(state["reason"])
        self._tried = tried_from_list(state.get("forks", ()))  # states of older versions have neither
        self._lay_plan(float(state.get("length", self.parameters.length)))
        self._further = bool(state.get("further", False))
        self._validated.load_state_dict(state.get("validated", {}))
        noise = state.get("noise")  # where states of older versions had begun, they had gone by none
        self._noise, self._shrunk, self._scouted = None, state.get("shrunk"), int(state.get("scouted", 0))
        self._calm = bool(state.get("calm", False))
        before = state.get("before")
        self._before = None if before is None else (int(before[0]), float(before[1]), int(before[2]))
        if noise is not None:
            self._noise = Noise()
            self._noise.load_state_dict(noise)
        self._hastened = self._back = None
        if state.get("hastened") is not None:
            epoch, since = map(int, state["hastened"])
            self._back = state.get("back")
            self._plan = self._plan.hastened(epoch, self._back, self._known_task().periods)
            self._hastened = (epoch, since)

    def begin(self, batch_size: int, lr: float, reason: str) -> None:
        """Go on from a configuration that somebody else has chosen.

        Args:
            batch_size: global batch size.
            lr: base learning rate.
            reason: why, in words a person reads.
        """
        self._start, self._reason = (batch_size, lr), reason

    def rate_at_another_length(self, lr: float, epochs: int) -> float:
        """Return the rate that belongs to a training of this length where one of another length does best at ``lr``.

        Short trainings want higher rates: the best one falls as the length to the power 0.32 (Bjorck et al. 2024, arXiv
        2409.19913).

        Args:
            lr: base learning rate.
            epochs: length that it was the best at, in decision periods.

        Returns:
            The nearest of the task's rates.
        """
        task = self._known_task()
        wanted = lr * (epochs / task.epochs) ** HORIZON
        return min(task.learning_rates, key=lambda rate: (round(abs(math.log(rate / wanted)), 9), rate))

    def _told_end(self) -> str:
        task, plan = self._known_task(), self._plan
        spared = ""
        if task.costs is not None and plan.end < task.epochs:
            seconds = (task.epochs - plan.end) * period_seconds(task, self._start[0])
            spared = f", which spares {duration(seconds)} by the cost table"
        back = "" if self._back is None else f", the last one from the weights after epoch {self._back // task.periods}"
        trained = f"{figure(plan.end / task.periods)} of {task.told(task.epochs)}"
        reached = f"the fall of the rate has ended after {trained}"
        return f"{reached}{back}: stop{spared}{self._told_whole()}"

    def _told_whole(self) -> str:
        """Say how much lower the whole length is expected to end, where that can be said."""
        task, end = self._known_task(), self._plan.end
        until = round(LOOK * task.epochs)
        falls = elasticity({period: score for period, score in self._validated.scores.items() if period <= until})
        if falls is None or self._hastened is not None or end >= task.epochs or self._validated.risen > RISEN:
            return ""
        score = task.score.replace("_", " ")
        until, whole = (number // task.periods for number in (until, task.epochs))
        all_of = f"after all {whole} (which the policy's parameter length=1 trains)"
        lower = float(f"{lower_by(falls, end, task.epochs):.1g}")
        told = f"about {percent(lower)} lower" if lower >= TOLD else "hardly lower, if at all,"
        return f"; going by its {score} until epoch {until}, the training might have ended {told} {all_of}"

    def _known_task(self) -> TaskInfo:
        return after_reset(self._task)

"""Scouts: short trainings of a new task, which of them ends early, and which goes on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from autobatch.policies._protocol import Policy, TaskInfo
from autobatch.policies._wording import configuration, count, figure, in_epochs, percent

LEARNT_NOTHING = 0.99
"""Share of the loss of guessing above which a training loss says nothing: differences there are those of chance."""

CLEARLY_WORSE = 1.5
"""A scout ends early once its loss is above the best one's at the same place by this factor."""


ADVICE = {False: "give lower learning rates to choose from", True: "give the optimizer a lower rate"}
"""What to do where every scout has diverged."""

AT_ONCE = "before any step"
"""What is said of a scout whose first loss already was no number: its rate has nothing to do with that."""

DID_NOT_FIT = "did not fit into memory"
"""Why a scout or a fork ended that ran out of memory: of its rate that says nothing."""


@dataclass(frozen=True)
class ScoutPlan:
    """The scouts of a task.

    Attributes:
        configurations: (batch size, base learning rate) of each, in the order in which they train, as far as that is
            settled.
        epochs: how long each trains, in decision periods.
        whole: whether each trains so long, also one that is far behind the others.
        more: how many may follow at most, at configurations that depend on what these come to.
        note: why there are none, or fewer than were asked for, in words a person reads; empty where that is not so.
    """

    configurations: tuple[tuple[int, float], ...]
    epochs: int
    whole: bool = False
    more: int = 0
    note: str = field(default="", compare=False)

    @property
    def most(self) -> int:
        """Scouts in all, at most."""
        return len(self.configurations) + self.more


@dataclass(frozen=True)
class Scout:
    """What a short training at a fixed configuration came to.

    Attributes:
        batch_size: global batch size.
        lr: base learning rate.
        train_losses: mean training loss of each period, as trained; NaN where it is not known.
        scores: the task's score after each period; NaN where it is not known.
        ended: why it ended before its time; None where it did not.
        by_score: whether it is compared by its score, not by its training loss.
        periods: decision periods of an epoch.
        score: the figure that the scores are.
    """

    batch_size: int
    lr: float
    train_losses: tuple[float, ...]
    scores: tuple[float, ...]
    ended: str | None = None
    by_score: bool = False
    periods: int = 1
    score: str = "validation_loss"

    @property
    def validated_by(self) -> str:
        """What its scores are called."""
        return "validation" if self.score == "validation_loss" else self.score.replace("_", " ")

    @property
    def trained(self) -> str:
        """How long it has trained, in words."""
        return in_epochs(len(self.train_losses), self.periods)


@dataclass(frozen=True)
class ScoutChoice:
    """Which scout goes on.

    Attributes:
        scout: its place in the order in which they trained; None where none can.
        reason: why, in words a person reads.
        margin: by which share its loss is lower than that of the next best, in [0, 1]; None where that cannot be said.
    """

    scout: int | None
    reason: str
    margin: float | None = None


@runtime_checkable
class ScoutingPolicy(Policy, Protocol):
    """A policy that short trainings of the task itself can help to begin; both methods come after ``reset``."""

    def scouts(self, done: Sequence[Scout] = ()) -> ScoutPlan:
        """Return the short trainings to make first, those that are done first among them."""
        ...

    def take(self, scouts: Sequence[Scout]) -> ScoutChoice:
        """Choose among what they came to, and go on from there; where none can go on, say where to start instead."""
        ...


def hopeless(scout: Scout, others: Sequence[Scout], times: float = CLEARLY_WORSE) -> str | None:
    """Say whether a scout can be ended before its time.

    Args:
        scout: the scout so far.
        others: those before it.
        times: times the best loss from which it can: see ``clearly_worse``.

    Returns:
        Why it can win no more; None while it may.
    """
    losses = _losses(scout)
    place = len(losses) - 1
    best = min((_compared(one, place) for one in others if one.ended is None and _sound(one, place)), default=math.inf)
    if best > 0.0 and losses[place] > times * best:  # of losses of 0 and below a ratio says nothing
        return (
            f"its loss of {figure(losses[place])} after {scout.trained} is more than "
            f"{times:g} times the best scout's then, {figure(best)}"
        )
    return None


def by_scores(scouts: Sequence[Scout]) -> list[Scout]:
    """Return scouts that are compared by their scores; by their losses where one that came to its end has no score.

    One kind is never held against the other.

    Args:
        scouts: what they came to.

    Returns:
        The scouts.
    """
    known = all(scout.scores and math.isfinite(scout.scores[-1]) for scout in scouts if scout.ended is None)
    return [replace(scout, by_score=known) for scout in scouts]


def choose_scout(scouts: Sequence[Scout], *, of: str = "", around: bool = False) -> ScoutChoice:
    """Say which scout goes on.

    Args:
        scouts: what the scouts came to, in the order in which they trained.
        of: what the reason says of which scouts they are, where there are others.
        around: whether their rates lie around the optimizer's own.

    Returns:
        The choice; the first of those that came to their end where no loss of theirs is known.
    """
    alive = [index for index, scout in enumerate(scouts) if scout.ended is None]
    if not alive:
        ends = "; ".join(f"{configuration(scout.batch_size, scout.lr)} {scout.ended}" for scout in scouts)
        at_once = any(AT_ONCE in (scout.ended or "") for scout in scouts)
        advice = "look at the data and the loss, not at the rates" if at_once else ADVICE[around]
        return ScoutChoice(None, f"no scout came to its end: {ends}; {advice}")
    last = max(len(scouts[index].train_losses) for index in alive) - 1
    whole = [index for index in alive if len(scouts[index].train_losses) > last and _sound(scouts[index], last)]
    if not whole:
        first = scouts[alive[0]]
        return ScoutChoice(
            alive[0],
            f"{configuration(first.batch_size, first.lr)}: no loss of any scout is known, so the first goes on",
        )
    ranked = sorted(whole, key=lambda index: final_loss(scouts[index]))
    best = scouts[ranked[0]]
    by = " by validation" if best.by_score else ""
    if not by and any(scouts[index].scores[-1] < best.scores[-1] for index in whole):  # which points elsewhere
        by = " by training loss"
    reason = (
        f"{configuration(best.batch_size, best.lr)}: the best of {count(len(scouts), 'scout')}{of} after "
        f"{best.trained}{by}, {_told(best)}"
    )
    if len(ranked) == 1:
        return ScoutChoice(ranked[0], reason)
    next_best = scouts[ranked[1]]
    reason += f"; next {configuration(next_best.batch_size, next_best.lr)}, {_told(next_best)}"
    mine, theirs = final_loss(best), final_loss(next_best)
    if not 0.0 <= mine <= theirs or theirs == 0.0:
        return ScoutChoice(ranked[0], reason)
    return ScoutChoice(ranked[0], f"{reason}, {percent(1.0 - mine / theirs)} apart", 1.0 - mine / theirs)


def hardly_begun(task: TaskInfo, scout: Scout, share: float) -> bool:
    """Say whether a scout has hardly begun to learn, so that the training has no time to spare.

    Args:
        task: the task.
        scout: the best scout.
        share: share of the loss of guessing above which it has.

    Returns:
        Whether its last training loss is near that of guessing; False where it ended early, and where nobody says what
        guessing comes to.
    """
    if task.guessing is None or not scout.train_losses or scout.ended is not None:
        return False
    return scout.train_losses[-1] > share * task.guessing


def learnt_nothing(task: TaskInfo, scout: Scout, hardly: float) -> bool:
    """Say whether a scout's loss cannot be told from that of guessing, by the classes' shares where those are known.

    Args:
        task: the task.
        scout: the best scout; where it is compared by its validation loss, that is looked at, unless it lies far above
            guessing while the training loss lies below, as where a loop validates with another loss.
        hardly: share of the loss of guessing above which a scout has hardly begun.

    Returns:
        Whether it has; False where nobody says what guessing comes to.
    """
    guessed = task.guessing if task.shares_loss is None else task.shares_loss
    if guessed is None or not scout.train_losses or scout.ended is not None:
        return False
    loss, trained = final_loss(scout) if scout.by_score else scout.train_losses[-1], scout.train_losses[-1]
    if loss > CLEARLY_WORSE * guessed and trained <= LEARNT_NOTHING * guessed:  # not what guessing comes to there
        return False
    return loss > max(hardly, LEARNT_NOTHING) * guessed


def _told(scout: Scout) -> str:
    figures = {"training loss": scout.train_losses[-1], scout.validated_by: scout.scores[-1]}
    return " and ".join(f"{name} {figure(value)}" for name, value in figures.items() if math.isfinite(value))


def final_loss(scout: Scout) -> float:
    """Return the loss that a scout is compared by; infinite where it ended early, NaN where none is known.

    None is known of a scout that did not fit into memory, which another rate does not help.
    """
    if scout.ended == DID_NOT_FIT:
        return math.nan
    if scout.ended is not None:
        return math.inf
    return _compared(scout, -1) if scout.scores else math.nan


def best_of(scouts: Sequence[Scout]) -> Scout | None:
    """Return the scout with the lowest loss; None where no loss is known or every scout has ended early."""
    sound = [scout for scout in scouts if math.isfinite(final_loss(scout))]
    return min(sound, key=final_loss, default=None)


def _losses(scout: Scout) -> list[float]:
    """Return what scouts are compared by, after each epoch; lower is better.

    The training loss of the epoch, not the validation loss after it: that early the validation loss says more of
    BatchNorm's running averages and of the last few steps than of the rate (``benchmarks/steering/scouting.py``).
    Where a loop does not know its training loss, its score has to do.
    """
    return [_compared(scout, place) for place in range(len(scout.scores))]


def _compared(scout: Scout, place: int) -> float:
    loss = scout.train_losses[place]
    return scout.scores[place] if scout.by_score or math.isnan(loss) else loss


def _sound(scout: Scout, place: int) -> bool:
    return len(scout.scores) > place and math.isfinite(_compared(scout, place))

"""Scouts: which short trainings to make of a new task, and which of them goes on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from autobatch.policies._protocol import Policy, TaskInfo
from autobatch.policies._wording import configuration, count, figure, percent

SIZE = 32
"""Batch size that scouts train at, or the rung next to it: see ``docs/concepts/steer.md``."""

MOST = 3
"""Scouts where nobody says how many."""

LEAST = 6
"""Decision periods below which a training has no scouts: an epoch more is worth more there (``docs/tried.md``)."""

CLEARLY_WORSE = 1.5
"""A scout ends early once its loss is above the best one's at the same place by this factor."""


ADVICE = "give lower learning rates to choose from"
"""What to do where every scout has diverged."""


@dataclass(frozen=True)
class ScoutPlan:
    """The scouts of a task.

    Attributes:
        configurations: (batch size, base learning rate) of each, in the order in which they train.
        epochs: how long each trains, in decision periods.
        whole: whether each trains so long, also one that is far behind the others.
        note: why there are none, or fewer than were asked for, in words a person reads; empty where that is not so.
    """

    configurations: tuple[tuple[int, float], ...]
    epochs: int
    whole: bool = False
    note: str = field(default="", compare=False)


@dataclass(frozen=True)
class Scout:
    """What a short training at a fixed configuration came to.

    Attributes:
        batch_size: global batch size.
        lr: base learning rate.
        train_losses: mean training loss of each period, as trained; NaN where it is not known.
        scores: the task's score after each period; NaN where it is not known.
        ended: why it ended before its time; None where it did not.
    """

    batch_size: int
    lr: float
    train_losses: tuple[float, ...]
    scores: tuple[float, ...]
    ended: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; ``from_dict`` reads it back."""
        return {
            "batch_size": self.batch_size,
            "lr": self.lr,
            "train_losses": [_known(loss) for loss in self.train_losses],
            "scores": [_known(score) for score in self.scores],
            "ended": self.ended,
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "Scout":
        """Read back what ``to_dict`` wrote.

        Args:
            state: the JSON-able form.

        Returns:
            The scout.
        """
        return cls(
            int(state["batch_size"]),
            float(state["lr"]),
            tuple(math.nan if value is None else float(value) for value in state["train_losses"]),
            tuple(math.nan if value is None else float(value) for value in state["scores"]),
            None if state["ended"] is None else str(state["ended"]),
        )


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

    def scouts(self) -> ScoutPlan:
        """Return the short trainings to make first."""
        ...

    def take(self, scouts: Sequence[Scout]) -> ScoutChoice:
        """Choose among what they came to, and go on from there; where none can go on, say where to start instead."""
        ...


def plan_scouts(task: TaskInfo, number: int, share: float) -> ScoutPlan:
    """Say which short trainings to make of a task that nothing is known of.

    All train at one size, the rung nearest to ``SIZE``, since an early loss cannot compare sizes: a smaller batch has
    taken more steps. The rates are spread over those that the task allows, the middle one first, since a scout that
    comes later can be ended early.

    Args:
        task: the task.
        number: how many at most.
        share: share of the training that each may take, in (0, 1).

    Returns:
        The plan; without configurations where there is nothing to compare, where the training has fewer periods than
        ``LEAST``, or where two scouts cost more than a third of it.
    """
    epochs = max(1, round(share * task.epochs))
    affordable = math.floor(task.epochs / (3 * epochs)) + 1  # the one that goes on costs nothing
    size = min(task.batch_sizes, key=lambda rung: (abs(math.log(rung / SIZE)), rung))
    rates = _spread(task.learning_rates, min(number, affordable))
    if task.epochs < LEAST or len(rates) < 2:
        return ScoutPlan((), epochs, note=_why_none(task, number))
    note = ""
    if len(rates) < number:
        limit = "the learning rates lie too unevenly for more"
        if len(rates) == len(task.learning_rates):
            limit = f"there are {count(len(rates), 'learning rate')} to try"
        elif len(rates) == affordable:
            limit = f"more would take over a third of the {count(task.epochs, 'epoch')}"
        note = f"{count(len(rates), 'scout')} instead of {number}: {limit}"
    return ScoutPlan(tuple((size, lr) for lr in rates), epochs, note=note)


def _why_none(task: TaskInfo, number: int) -> str:
    """Say why a task has no scouts, and what is done instead."""
    if number == 0:
        why = "none were asked for"
    elif len(task.learning_rates) < 2:
        why = "there is one learning rate, so nothing to choose"
    elif number == 1:
        why = "one alone has nothing to be compared with, it takes two"
    else:
        why = f"{count(task.epochs, 'epoch')} are too few, and better spent on the training itself"
    where = (
        "" if len(task.learning_rates) < 2 else f", the middle of {', '.join(f'{lr:g}' for lr in task.learning_rates)}"
    )
    return f"no scouts: {why}; it starts with {configuration(*start_without_scouts(task))}{where}"


def start_without_scouts(task: TaskInfo) -> tuple[int, float]:
    """Return where to start where no scout has gone: the size that scouts would have, and the middle rate.

    Args:
        task: the task.

    Returns:
        (batch size, base learning rate).
    """
    size = min(task.batch_sizes, key=lambda rung: (abs(math.log(rung / SIZE)), rung))
    return size, _spread(task.learning_rates, 1)[0]


def hopeless(scout: Scout, others: Sequence[Scout]) -> str | None:
    """Say whether a scout can be ended before its time.

    Args:
        scout: the scout so far.
        others: those before it.

    Returns:
        Why it can win no more; None while it may.
    """
    losses = _losses(scout)
    place = len(losses) - 1
    best = min((_losses(one)[place] for one in others if one.ended is None and _sound(one, place)), default=math.inf)
    if best > 0.0 and losses[place] > CLEARLY_WORSE * best:  # of losses of 0 and below a ratio says nothing
        return (
            f"its loss of {figure(losses[place])} after {count(place + 1, 'epoch')} is more than "
            f"{CLEARLY_WORSE:g} times the best scout's, {figure(best)}"
        )
    return None


def choose_scout(scouts: Sequence[Scout]) -> ScoutChoice:
    """Say which scout goes on.

    Args:
        scouts: what the scouts came to, in the order in which they trained.

    Returns:
        The choice; the first of those that came to their end where no loss of theirs is known.
    """
    alive = [index for index, scout in enumerate(scouts) if scout.ended is None]
    if not alive:
        ends = "; ".join(f"{configuration(scout.batch_size, scout.lr)} {scout.ended}" for scout in scouts)
        return ScoutChoice(None, f"no scout came to its end: {ends}; {ADVICE}")
    last = max(len(scouts[index].train_losses) for index in alive) - 1
    whole = [index for index in alive if len(scouts[index].train_losses) > last and _sound(scouts[index], last)]
    if not whole:
        first = scouts[alive[0]]
        return ScoutChoice(
            alive[0],
            f"{configuration(first.batch_size, first.lr)}: no loss of any scout is known, so the first goes on",
        )
    ranked = sorted(whole, key=lambda index: _losses(scouts[index])[-1])
    best = scouts[ranked[0]]
    reason = (
        f"{configuration(best.batch_size, best.lr)}: the best of {count(len(scouts), 'scout')} after "
        f"{count(last + 1, 'epoch')}, {_told(best)}"
    )
    if len(ranked) == 1:
        return ScoutChoice(ranked[0], reason)
    next_best = scouts[ranked[1]]
    reason += f"; next {configuration(next_best.batch_size, next_best.lr)}, {_told(next_best)}"
    mine, theirs = _losses(best)[-1], _losses(next_best)[-1]
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
        Whether its last training loss is near that of guessing; False where nobody says what guessing comes to.
    """
    return task.guessing is not None and bool(scout.train_losses) and scout.train_losses[-1] > share * task.guessing


def _told(scout: Scout) -> str:
    figures = {"training loss": scout.train_losses[-1], "validation": scout.scores[-1]}
    return " and ".join(f"{name} {figure(value)}" for name, value in figures.items() if math.isfinite(value))


def _losses(scout: Scout) -> list[float]:
    """Return what scouts are compared by, after each epoch; lower is better.

    The training loss of the epoch, not the validation loss after it: that early the validation loss says more of
    BatchNorm's running averages and of the last few steps than of the rate (``benchmarks/steering/scouting.py``).
    Where a loop does not know its training loss, its score has to do.
    """
    return [score if math.isnan(loss) else loss for loss, score in zip(scout.train_losses, scout.scores, strict=True)]


def _sound(scout: Scout, place: int) -> bool:
    losses = _losses(scout)
    return len(losses) > place and math.isfinite(losses[place])


def _spread(rates: Sequence[float], number: int) -> list[float]:
    """Return some of the rates, evenly spread by their logarithms, the middle one first."""
    if number >= len(rates):
        chosen = list(rates)
    else:
        # The ends of a user's list are where it is least likely to be best: cut the span evenly and take the middles.
        low, high = math.log(rates[0]), math.log(rates[-1])
        wanted = [low + (high - low) * (index + 0.5) / number for index in range(number)]
        # Rounded, so that of two rates equally near the lower one is taken, not the one that round-off favours.
        chosen = sorted({min(rates, key=lambda rate: round(abs(math.log(rate) - place), 9)) for place in wanted})
    middle = (len(chosen) - 1) / 2
    return sorted(chosen, key=lambda rate: (abs(chosen.index(rate) - middle), rate))


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None

"""What scouts of somebody's own loop have come to: the choice, and what it rests on and has cost."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autobatch._plain import Plain
from autobatch.policies._wording import configuration, duration, figure, in_epochs, percent
from autobatch.policies.steer._scouts import LEARNT_NOTHING, Scout, ScoutChoice, best_of
from autobatch.policies.steer._search import SIZE

FAR_AHEAD = 0.1
"""Margin from which the best scout was mostly the best of them at the end too."""

RECORD = {True: (50, 41), False: (26, 11)}
"""Scoutings of small tasks, far ahead or not, and how many right: ``benchmarks/steering/scouting.py --sure``."""


_NO_RATIO = "that cannot be said of these losses, which have no ratio"
_NOT_COUNTED = "that was not counted where another scout had the lower loss"


@dataclass(frozen=True)
class TrainedScout:
    """One scout, and what it has cost.

    Attributes:
        scout: what it came to.
        steps: optimizer steps that it took.
        examples: training examples that it saw.
        seconds: wall time of the whole call of the loop, with what that does before and after its steps.
        training_seconds: the part of it from the attaching of the controller to the scout's end.
    """

    scout: Scout
    steps: int
    examples: int
    seconds: float
    training_seconds: float


@dataclass(frozen=True)
class TimedSizes(Plain):
    """What examples take in a loop at the batch sizes that scouts of many examples may train at.

    Attributes:
        seconds: (batch size, seconds of an example); none where the loop could not be timed.
        took: wall time of the call of the loop that found it.
    """

    seconds: tuple[tuple[int, float], ...] = ()
    took: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what nobody can have timed; a ValueError."""
        if len(self.seconds) not in {0, 2} or not all(0.0 < taken < math.inf for _, taken in self.seconds):
            raise ValueError(f"expected seconds of two batch sizes, got {self.seconds}")
        if not 0.0 <= self.took < math.inf:
            raise ValueError(f"took: expected seconds, got {self.took}")


@dataclass(frozen=True)
class ScoutReport:
    """What ``autobatch.scout`` came to; printing it gives sentences.

    Attributes:
        choice: which scout goes on, and why.
        batch_size: global batch size to start with.
        lr: base learning rate to start with.
        trained: the scouts, in the order in which they trained.
        failed: why, by the scout's name, for those whose loop has failed; they are not among ``trained``.
        failed_seconds: wall time that those have cost.
        batch_sizes: the ladder.
        learning_rates: the base learning rates to choose from.
        seed: the seed that they trained with.
        epochs: length of the whole training, in decision periods; 0 where no loop has said it.
        train_size: examples in one such period; 0 where no loop has said it.
        loop: what could be seen of the loop.
        state: what the winner's loop returned as ``"state"``, to go on from; None where it returned none.
        note: why there are no scouts, or fewer than were asked for; empty where that is not so.
        guessing: training loss before anything is learnt; None where no scout has heard one.
        periods: decision periods of an epoch.
        own_rate: the optimizer's own learning rate, where those to choose from lie around it; else None.
        timed: what examples take, where that was found out before the scouts.
    """

    choice: ScoutChoice
    batch_size: int
    lr: float
    trained: tuple[TrainedScout, ...]
    failed: Mapping[str, str]
    failed_seconds: float
    batch_sizes: tuple[int, ...]
    learning_rates: tuple[float, ...]
    seed: int
    epochs: int = 0
    train_size: int = 0
    loop: Mapping[str, Any] = field(default_factory=dict)
    state: Any = field(default=None, repr=False, compare=False)
    note: str = ""
    guessing: float | None = None
    periods: int = 1
    own_rate: float | None = None
    timed: TimedSizes = TimedSizes()

    @property
    def scouts(self) -> tuple[Scout, ...]:
        """What the scouts came to."""
        return tuple(one.scout for one in self.trained)

    @property
    def reason(self) -> str:
        """Why the training starts where it does."""
        return self.choice.reason

    @property
    def margin(self) -> float | None:
        """By which share the winner's loss is lower than the next best's; None where that cannot be said."""
        return self.choice.margin

    @property
    def winner(self) -> TrainedScout | None:
        """The scout that goes on; None where none came to a sound end."""
        return None if self.choice.scout is None else self.trained[self.choice.scout]

    @property
    def seconds(self) -> float:
        """Wall time of all scouts, and of finding out what examples take."""
        return math.fsum(one.seconds for one in self.trained) + self.failed_seconds + self.timed.took

    @property
    def charged_seconds(self) -> float:
        """Wall time that scouting costs beside the training: the winner's counts unless ``state`` goes on with it."""
        spared = self.winner.seconds if self.winner is not None and self.state is not None else 0.0
        return self.seconds - spared

    @property
    def epoch_seconds(self) -> dict[int, float]:
        """Seconds of an epoch, by batch size: of its fastest scout, as the first also waits for what is loaded once."""
        whole = self.train_size * self.periods
        each: dict[int, list[float]] = defaultdict(list)
        for one in self.trained:
            if one.examples:
                each[one.scout.batch_size].append(one.training_seconds / one.examples * whole)
        return {size: min(seconds) for size, seconds in sorted(each.items())}

    def __str__(self) -> str:
        """Return what a person wants to know of it."""
        lines = [f"start with {configuration(self.batch_size, self.lr)}", f"why: {self.reason}"]
        if self.trained:
            lines += ["", *self._table()]
        lines += [f"  {name} failed: {message.strip().splitlines()[-1]}" for name, message in self.failed.items()]
        lines += [self.note] if self.note and self.trained else []
        tried = {one.scout.lr for one in self.trained}
        untried = [f"{rate:g}" for rate in self.learning_rates if tried and rate not in tried]
        # A scout that has failed was tried, too.
        if self.own_rate is not None:
            lines.append(f"the learning rates lie around that of your optimizer, {self.own_rate:g}")
        elif left := [rate for rate in untried if not any(name.endswith(f" {rate}") for name in self.failed)]:
            why = ", as scouts go to where the loss falls" if len(tried) > 2 else ""
            lines.append(f"not tried: {', '.join(left)}{why}")
        lines += ["", *filter(None, (self._told_margin(),)), *self._told_costs()]
        return "\n".join(lines).rstrip()

    def advice(self) -> str:
        """Return in a sentence what the scouts advise, how sure that is, and what a training by it takes."""
        said = [f"start with {configuration(self.batch_size, self.lr)}"]
        said += [] if self.trained or self.failed else [self.reason]
        return "; ".join([*said, *filter(None, (self._told_margin(),)), *self._told_costs()])

    def _table(self) -> list[str]:
        """Return the scouts as lines of columns that are as wide as what is in them."""
        validated = self.trained[0].scout.validated_by
        rows: list[tuple[str, ...]] = [("scout", "epochs", "training loss", validated, "took", "")]
        rows += [self._cells(one) for one in self.trained]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        marks = [" ", *("*" if one is self.winner else " " for one in self.trained)]
        return [
            f"{mark} {name:<{widths[0]}} "
            f"{' '.join(f'{cell:>{width + 1}}' for cell, width in zip(cells, widths[1:-1], strict=True))}"
            f"{'  ' if ended else ''}{ended}"
            for mark, (name, *cells, ended) in zip(marks, rows, strict=True)
        ]

    @staticmethod
    def _cells(one: TrainedScout) -> tuple[str, ...]:
        scout = one.scout
        last = (each[-1] if each else math.nan for each in (scout.train_losses, scout.scores))
        loss, score = ("-" if math.isnan(value) else figure(value) for value in last)
        ended = f"ended: {scout.ended}" if scout.ended else ""
        name = configuration(scout.batch_size, scout.lr)
        trained = figure(len(scout.train_losses) / scout.periods)
        return name, trained, loss, score, duration(one.seconds), ended

    def _why_unsure(self) -> str:
        """Say why nothing can be said of how sure the choice is; empty where something can."""
        winner = self.winner
        if winner is None:
            return "not at all, no scout came to a sound end"
        if len(self.trained) == 1:
            return "there is no other scout to compare with"
        if all(one.scout.ended is not None for one in self.trained if one is not winner):
            return "every other scout was ended before, so there is none to compare with"
        if self.margin is None:
            rivals = [one.scout for one in self.trained if one.scout.batch_size == winner.scout.batch_size]
            alone = all(one.ended is not None for one in rivals if one is not winner.scout)
            told = "no other scout of its size came to its end" if alone else _NO_RATIO
            return told if best_of(rivals) == winner.scout else _NOT_COUNTED
        if winner.scout.train_losses[-1] > LEARNT_NOTHING * (self.guessing or math.inf):
            return "not at all, no scout has learnt anything that shows in its training loss"
        return ""

    def _told_margin(self) -> str:
        if not self.trained and not self.failed:
            return ""
        if unsure := self._why_unsure():
            return f"how sure: {unsure}"
        assert self.winner is not None
        assert self.margin is not None
        if not math.isfinite(self.winner.scout.train_losses[-1]):
            return f"how sure: its validation figure is {percent(self.margin)} lower than the next scout's"
        size, sizes = self.winner.scout.batch_size, {one.scout.batch_size for one in self.trained}
        if size < max(sizes):
            return (
                f"how sure: that is not known; its loss is {percent(self.margin)} lower than the next scout's, but how "
                "often half the batch stays ahead to the end was not counted"
            )
        if size > SIZE:
            return (
                f"how sure: that is not known; its loss is {percent(self.margin)} lower than the next scout's, but how "
                "often such a scout stays ahead to the end was not counted with batches so large"
            )
        far, record = self.margin >= FAR_AHEAD, RECORD[self.margin >= FAR_AHEAD]
        others = "that of the next scout of its size" if len(sizes) > 1 else "the next scout's"
        return (
            f"how sure: its loss is {percent(self.margin)} lower than {others}; of {record[0]} scoutings of "
            f"small tasks {'as far apart' if far else 'this close'}, the best scout was also the best at the end in "
            f"{record[1]}"
        )

    def _told_costs(self) -> list[str]:
        if not self.trained and not self.failed:
            return []
        lines = [f"scouting took {duration(self.seconds)}"]
        if self.state is not None and self.winner is not None:
            lines[0] += f", {duration(self.winner.seconds)} of which are the winner's, which goes on from report.state"
        for size, seconds in self.epoch_seconds.items():
            whole = duration(seconds * self.epochs / self.periods)
            all_of = in_epochs(self.epochs, self.periods)
            lines.append(f"at s{size} an epoch takes {duration(seconds)}, all {all_of} {whole}")
        if self.timed.took and not self.timed.seconds:
            lines.append("what an example takes with smaller batches could not be found out")
        if self.timed.seconds and "times as long" not in self.note:
            (usual, longer), (wanted, shorter) = self.timed.seconds
            lines.append(
                f"an example takes {figure(longer / shorter)} times as long at s{usual} as at s{wanted}, by a few "
                "steps of each"
            )
        return lines

"""What trainings went through, epoch by epoch, as the table that surrogate dynamics are fitted to."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autobatch._arrays import Floats
from autobatch._errors import LibraryError
from autobatch._steps import steps_per_epoch
from autobatch.beacons import Beacon, BeaconLibrary, Branches, Journey, chance
from autobatch.envs.surrogate._law import Scale
from autobatch.policies import TaskInfo

Recorded = tuple[Mapping[str, Any], bool]

FIGURES = ("validation_loss", "train_loss", "validation_error")
"""What the dynamics carry besides the position, in this order; they are carried as logarithms."""

_LEAST = np.array([1e-6, 1e-6, 1e-3])
"""Least values that are told apart: a loss in float32, and an error of one example in a thousand."""

_JOURNEY = 3.0
_LEAST_SPAN = 0.1

_OTHER_SCHEDULE = 1e-6
"""Doublings of the rate by which a training that did not keep its task's schedule is told from one that did."""


def log_figures(values: Floats) -> Floats:
    """Return the natural logarithms of ``FIGURES``, shape (..., 3)."""
    logs: Floats = np.log(np.maximum(values, _LEAST))
    return logs


@dataclass(frozen=True, eq=False)
class Epochs:
    """Epochs of recorded trainings, those of one training together and in order.

    Attributes:
        inputs: what the law says of each, shape (n, INPUTS).
        passed: intrinsic time of each, relative to the best beacon's training, shape (n,).
        before: logarithms of ``FIGURES`` before it, shape (n, 3); those of guessing before the first.
        outcome: logarithms of ``FIGURES`` after it, then of the mean condition number of its steps and of what it added
            to L, shape (n, 5); meaningless where the epoch diverged.
        diverged: whether the training ended in the epoch because it diverged, shape (n,).
        run: which training each belongs to, shape (n,).
        epoch: finished epochs before it, shape (n,).
        size: log2 of its batch size, shape (n,).
        rate: log2 of its effective learning rate, shape (n,).
    """

    inputs: Floats
    passed: Floats
    before: Floats
    outcome: Floats
    diverged: NDArray[np.bool_]
    run: NDArray[np.int64]
    epoch: NDArray[np.int64]
    size: Floats
    rate: Floats

    @classmethod
    def joined(cls, parts: Sequence["Epochs"]) -> "Epochs":
        """Return several tables as one, with the rows of all."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))

    def take(self, rows: NDArray[np.intp]) -> "Epochs":
        """Return some of the rows."""
        return Epochs(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @property
    def continues(self) -> NDArray[np.bool_]:
        """Whether the row before is the epoch before of the same training, shape (n,)."""
        known: NDArray[np.bool_] = np.zeros(len(self.run), dtype=np.bool_)
        known[1:] = (np.diff(self.run) == 0) & (np.diff(self.epoch) == 1)
        return known


@dataclass(frozen=True, eq=False)
class TaskRecords:
    """All that was recorded of a task.

    Attributes:
        task: the task as policies see it.
        library: its beacons.
        guessing: logarithms of ``FIGURES`` before training, shape (3,).
        scale: what its schedules are relative to.
        epochs: the table.
        offset: outcomes that count as 0, shape (5,): figures of the best fixed beacon, and means.
        span: from there to what counts as 1, shape (5,): to the figures of guessing.
        group: a number for each epoch, shape (n,); trainings of one configuration, and branches of one training, share
            it.
        weight: what each epoch counts in a fit, shape (n,); those of whole journeys, which alone show where chains of
            moves lead, count three times.
    """

    task: TaskInfo
    library: BeaconLibrary
    guessing: Floats
    scale: Scale
    epochs: Epochs
    offset: Floats
    span: Floats
    group: NDArray[np.int64]
    weight: Floats

    @classmethod
    def of(
        cls, library: BeaconLibrary, branches: Branches | None, task: TaskInfo, steered: Branches | None = None
    ) -> "TaskRecords":
        """Bring together what was recorded of a task.

        Args:
            library: its beacons.
            branches: its branch runs, if there are any.
            task: the task as policies see it.
            steered: its journeys that did not keep the task's schedule, if there are any.

        Returns:
            The records.

        Raises:
            LibraryError: the trainings lack figures that dynamics need.
        """
        chance, best = guessing(library), library.best_fixed()
        scale = Scale.of(task, best.batch_size, best.lr, schedule_factors(library, task.epochs))
        recorded: list[Recorded] = []
        groups, weights = [], []
        for beacon in library.beacons:
            count = len(beacon.rows["epoch"])
            constant = {"batch_size": np.full(count, beacon.batch_size), "lr": np.full(count, beacon.lr)}
            recorded.append(({**beacon.rows, **constant}, not diverged(beacon)))
            groups.append(library.configurations.index((beacon.batch_size, beacon.lr)))
            weights.append(1.0)
        journeys = [one for own in (branches, steered) if own is not None for one in own.journeys]
        for journey in journeys:
            recorded.append((journey.rows, not diverged(journey)))
            groups.append(journey.seed)
            whole = journey.kind == "journey" and (journey.finished or diverged(journey))
            weights.append(_JOURNEY if whole else 1.0)
        epochs = tabulate(recorded, chance, scale)
        finals = np.stack([
            [own.rows[name][-1] for name in FIGURES]
            for own in library.beacons
            if (own.batch_size, own.lr) == (best.batch_size, best.lr)
        ])
        middle = epochs.outcome[~epochs.diverged, 3:].mean(axis=0)
        level = log_figures(finals).mean(axis=0)
        return cls(
            task,
            library,
            chance,
            scale,
            epochs,
            np.concatenate([level, middle]),
            np.concatenate([np.maximum(chance - level, _LEAST_SPAN), np.ones(2)]),
            np.array(groups)[epochs.run],
            np.array(weights)[epochs.run],
        )


def diverged(training: Beacon | Journey) -> bool:
    """Say whether a training broke in its last epoch, and was not merely ended before its time, by whomever."""
    figures = (training.rows[name][-1] for name in (*FIGURES, "c_bar", "l_cum"))
    return not training.finished and (
        training.stopped_because.startswith("diverged") or not all(map(np.isfinite, figures))
    )


def guessing(library: BeaconLibrary) -> Floats:
    """Return the logarithms of ``FIGURES`` of a classifier that guesses.

    Args:
        library: the beacons, of a task that says how many classes it has.

    Returns:
        Shape (3,).

    Raises:
        LibraryError: it does not say.
    """
    classes = library.task.get("num_classes")
    if not isinstance(classes, int):
        raise LibraryError(
            f"a surrogate needs to know where training starts, and the library of '{library.task_name}' does not say "
            "how many classes there are (num_classes)"
        )
    loss = chance("train_loss", classes)
    return log_figures(np.array([loss, loss, chance("validation_error", classes)]))


def schedule_factors(library: BeaconLibrary, epochs: int) -> Floats:
    """Return the schedule's factor on the learning rate in each epoch, as the beacons had it.

    Args:
        library: the beacons.
        epochs: length of a training.

    Returns:
        Shape (epochs,).

    Raises:
        LibraryError: no beacon has that many epochs.
    """
    for beacon in library.beacons:
        if len(beacon.rows["lr_effective"]) == epochs:
            factors: Floats = beacon.rows["lr_effective"] / beacon.lr
            return factors
    raise LibraryError(
        f"a surrogate needs a whole training, and no beacon of '{library.task_name}' has {epochs} epochs"
    )


def tabulate(recorded: Iterable[Recorded], guessing: Floats, scale: Scale) -> Epochs:
    """Return the epochs of some trainings.

    Args:
        recorded: (columns, whether the last epoch was sound) of each; a training whose first row is not epoch 1 did
            what that row says from its first epoch on.
        guessing: logarithms of ``FIGURES`` before training, shape (3,).
        scale: what the task's schedules are relative to.

    Returns:
        The table.

    Raises:
        LibraryError: nothing has the figures that dynamics need.
    """
    given = list(recorded)
    parts = []
    followed = _followed([rows for rows, _ in given], scale)
    for run, ((rows, sound), own) in enumerate(zip(given, followed, strict=True)):
        parts.append(_epochs_of(rows, sound, run, guessing, own))
    if not sum(len(part.run) for part in parts):
        raise LibraryError(
            f"a surrogate needs epochs with {', '.join(FIGURES)}, and no training of the library has them"
        )
    return Epochs.joined(parts)


def _followed(runs: Sequence[Mapping[str, Any]], scale: Scale) -> list[tuple[Floats, ...]]:
    """Return what the law says of each epoch that was recorded, its intrinsic time, size and effective rate."""
    longest = len(scale.factors)
    size, rate = np.zeros((2, len(runs), longest))
    factor = np.tile(np.log2(scale.factors), (len(runs), 1))
    for index, rows in enumerate(runs):
        before = int(rows["epoch"][0]) - 1
        for found, name in ((size, "batch_size"), (rate, "lr")):
            own = np.log2(np.asarray(rows[name], dtype=np.float64))
            found[index] = own[-1]
            found[index, :before], found[index, before : before + len(own)] = own[0], own
        given = np.log2(np.asarray(rows["lr_effective"]) / np.asarray(rows["lr"])) if "lr_effective" in rows else None
        epochs = slice(before, before + len(rows["lr"]))
        if given is not None and (np.abs(given - factor[index, epochs]) > _OTHER_SCHEDULE).any():
            factor[index, :before], factor[index, epochs] = given[0], given
    steps = np.vectorize(lambda own: float(steps_per_epoch(scale.train_size, round(own))))(np.exp2(size))
    memory, said, took = scale.began(len(runs)), [], []
    for epoch in range(longest):
        now = np.full(len(runs), epoch)
        memory, inputs, passed = scale.advance(
            memory, now, size[:, epoch], rate[:, epoch], steps[:, epoch], factor=factor[:, epoch]
        )
        said.append(inputs)
        took.append(passed)
    every = np.stack(said, axis=1), np.stack(took, axis=1), size, rate + factor
    return [
        tuple(part[index, np.asarray(rows["epoch"], dtype=np.int64) - 1] for part in every)
        for index, rows in enumerate(runs)
    ]


def _epochs_of(
    rows: Mapping[str, Any], sound: bool, run: int, guessing: Floats, followed: tuple[Floats, ...]
) -> Epochs:
    figures = log_figures(np.stack([np.asarray(rows[name], dtype=np.float64) for name in FIGURES], axis=1))
    # Statistics of BatchNorm can make a validation loss of hundreds that means no more than guessing does.
    figures = np.minimum(figures, guessing)
    epoch = np.asarray(rows["epoch"], dtype=np.int64)
    steps, c_bar, l_cum = (np.asarray(rows[name], dtype=np.float64) for name in ("steps", "c_bar", "l_cum"))
    fresh = epoch[0] == 1
    # What the first recorded epoch of a branch brought is not known; its state only is.
    start, began = (0.0, guessing) if fresh else (np.nan, np.full(3, np.nan))
    taken, weighed, gained = (np.diff(own, prepend=start) for own in (steps, c_bar * steps, l_cum))
    with np.errstate(divide="ignore", invalid="ignore"):
        outcome = np.column_stack([figures, np.log(weighed / taken), np.log(gained)])
    ended = np.zeros(len(epoch), dtype=np.bool_)
    ended[-1] = not sound
    known = np.isfinite(outcome).all(axis=1) | ended
    known[0] &= fresh
    kept = np.flatnonzero(known)
    before = np.concatenate([began[None], figures[:-1]])
    inputs, passed, size, rate = (part[kept] for part in followed)
    return Epochs(
        inputs, passed, before[kept], outcome[kept], ended[kept], np.full(len(kept), run), epoch[kept] - 1, size, rate
    )

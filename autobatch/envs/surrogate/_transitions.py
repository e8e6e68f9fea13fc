"""What trainings went through, epoch by epoch, as the table that surrogate dynamics are fitted to."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autobatch._errors import LibraryError
from autobatch.beacons import BeaconLibrary, Branches

Floats = NDArray[np.float64]

FIGURES = ("validation_loss", "train_loss", "validation_error")
"""What the dynamics carry besides the position, in this order; they are carried as logarithms."""

_LEAST = np.array([1e-6, 1e-6, 1e-3])
"""Least values that are told apart: a loss in float32, and an error of one example in a thousand."""


def log_figures(values: Floats) -> Floats:
    """Return the natural logarithms of ``FIGURES``, shape (..., 3)."""
    logs: Floats = np.log(np.maximum(values, _LEAST))
    return logs


@dataclass(frozen=True, eq=False)
class Situation:
    """Where trainings stand before an epoch, and what the epoch uses: what dynamics predict from.

    Attributes:
        epoch: finished epochs, shape (n,).
        figures: logarithms of ``FIGURES`` after the last epoch, shape (n, 3); those of guessing before the first.
        log_c: natural logarithm of C̄, shape (n,); 0 before the first epoch.
        log_l: natural logarithm of L, likewise.
        log_steps: natural logarithm of the optimizer steps so far, likewise.
        last_size: log2 of the batch size of the last epoch, shape (n,); that of this one before the first.
        last_rate: log2 of the effective learning rate of the last epoch, likewise.
        size: log2 of the batch size to be used, shape (n,).
        rate: log2 of the base learning rate to be used, shape (n,).
    """

    epoch: Floats
    figures: Floats
    log_c: Floats
    log_l: Floats
    log_steps: Floats
    last_size: Floats
    last_rate: Floats
    size: Floats
    rate: Floats

    def take(self, rows: NDArray[np.intp]) -> "Situation":
        """Return a copy of some of the rows."""
        return Situation(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @classmethod
    def joined(cls, parts: Sequence["Situation"]) -> "Situation":
        """Return several tables as one.

        Args:
            parts: the tables.

        Returns:
            One table with the rows of all.
        """
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


@dataclass(frozen=True, eq=False)
class Transitions:
    """Epochs of recorded trainings, those of one training together and in order.

    Attributes:
        situation: where each stood before the epoch.
        outcome: logarithms of ``FIGURES`` after it, then of the mean condition number of its steps and of what it added
            to L, shape (n, 5); meaningless where the epoch diverged.
        diverged: whether the training ended in the epoch because it diverged, shape (n,).
        run: which training each epoch belongs to, shape (n,).
    """

    situation: Situation
    outcome: Floats
    diverged: NDArray[np.bool_]
    run: NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Sequence["Transitions"]) -> "Transitions":
        """Return several tables as one.

        Args:
            parts: the tables; a training has the same number in all of them.

        Returns:
            One table with the rows of all.
        """
        return cls(
            Situation.joined([part.situation for part in parts]),
            *(np.concatenate([getattr(part, name) for part in parts]) for name in ("outcome", "diverged", "run")),
        )

    def take(self, rows: NDArray[np.intp]) -> "Transitions":
        """Return some of the rows."""
        return Transitions(self.situation.take(rows), self.outcome[rows], self.diverged[rows], self.run[rows])


def transitions(library: BeaconLibrary, branches: Branches, guessing: Floats, factors: Floats) -> Transitions:
    """Return the epochs of all beacons and branch runs of a task.

    Args:
        library: the beacons.
        branches: the branch runs.
        guessing: logarithms of ``FIGURES`` before training, shape (3,).
        factors: the schedule's factor by epoch, shape (epochs,).

    Returns:
        The table.

    Raises:
        LibraryError: nothing has the figures that dynamics need.
    """
    recorded: list[tuple[Mapping[str, Any], bool]] = []
    for beacon in library.beacons:
        count = len(beacon.rows["epoch"])
        constant = {"batch_size": np.full(count, beacon.batch_size), "lr": np.full(count, beacon.lr)}
        recorded.append(({**beacon.rows, **constant}, beacon.finished))
    recorded += [(journey.rows, journey.stopped_because == "finished") for journey in branches.journeys]
    return tabulate(recorded, guessing, factors)


def tabulate(recorded: Iterable[tuple[Mapping[str, Any], bool]], guessing: Floats, factors: Floats) -> Transitions:
    """Return the epochs of some trainings.

    Args:
        recorded: (columns, whether the last epoch was sound) of each; a training whose first row is not epoch 1 begins
            with the state before its first epoch.
        guessing: logarithms of ``FIGURES`` before training, shape (3,).
        factors: the schedule's factor by epoch, shape (epochs,).

    Returns:
        The table.

    Raises:
        LibraryError: nothing has the figures that dynamics need.
    """
    situations, outcomes, diverged, runs = [], [], [], []
    for run, (rows, sound) in enumerate(recorded):
        situation, outcome = _epochs_of(rows, guessing, factors)
        ended = np.zeros(len(outcome), dtype=bool)
        ended[-1:] = not sound
        known = np.isfinite(outcome).all(axis=1) | ended
        known &= np.isfinite(situation.figures).all(axis=1) & np.isfinite(situation.log_c + situation.log_l)
        kept = np.flatnonzero(known)
        situations.append(situation.take(kept))
        outcomes.append(outcome[kept])
        diverged.append(ended[kept])
        runs.append(np.full(len(kept), run))
    if not sum(map(len, outcomes)):
        raise LibraryError(
            f"a surrogate needs epochs with {', '.join(FIGURES)}, and no training of the library has them"
        )
    return Transitions(
        Situation.joined(situations), np.concatenate(outcomes), np.concatenate(diverged), np.concatenate(runs)
    )


def _epochs_of(rows: Mapping[str, Any], guessing: Floats, factors: Floats) -> tuple[Situation, Floats]:
    """Return where a training stood before each of its epochs, and what each brought."""
    figures = log_figures(np.stack([np.asarray(rows[name], dtype=np.float64) for name in FIGURES], axis=1))
    steps, c_bar, l_cum, epoch = (
        np.asarray(rows[name], dtype=np.float64) for name in ("steps", "c_bar", "l_cum", "epoch")
    )
    size, rate = (np.log2(np.asarray(rows[name], dtype=np.float64)) for name in ("batch_size", "lr"))
    effective = rate + np.log2(factors[epoch.astype(np.int64) - 1])
    # Statistics of BatchNorm can make a validation loss of hundreds that means no more than guessing does.
    figures = np.minimum(figures, guessing)
    fresh = epoch[0] == 1
    if fresh:
        figures = np.concatenate([guessing[None], figures])
        steps, c_bar, l_cum = (np.concatenate([[0.0], own]) for own in (steps, c_bar, l_cum))
        size, rate, effective = (np.concatenate([own[:1], own]) for own in (size, rate, effective))
        epoch = np.concatenate([[0.0], epoch])
    with np.errstate(divide="ignore", invalid="ignore"):
        condition = np.log(np.diff(c_bar * steps) / np.diff(steps))
        gain = np.log(np.diff(l_cum))
        log_c, log_l, log_steps = (np.log(own[:-1]) for own in (c_bar, l_cum, steps))
    if fresh:
        log_c[0] = log_l[0] = log_steps[0] = 0.0
    situation = Situation(
        epoch[:-1], figures[:-1], log_c, log_l, log_steps, size[:-1], effective[:-1], size[1:], rate[1:]
    )
    return situation, np.column_stack([figures[1:], condition, gain])

"""Surrogate dynamics: what an epoch does to a training, fitted to the beacon libraries and branch runs of many tasks.

Where a training stands is what the law remembers of its batch sizes and rates (``_law.py``), so its course follows from
its schedule and errors do not add up. What the law leaves out is an ensemble's (``_ensemble.py``), and how a training
departs from what is to be expected is noise that goes with it and is forgotten in intrinsic time. Steps and cost are
not predicted: they follow from the batch size.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from autobatch._arrays import Floats
from autobatch._errors import ConfigError
from autobatch._steps import steps_per_epoch
from autobatch.beacons import BeaconLibrary, Branches, CostTable
from autobatch.envs.surrogate._ensemble import OUTPUTS, Ensemble, Table, fit_ensembles
from autobatch.envs.surrogate._epochs import Epochs, TaskRecords
from autobatch.envs.surrogate._law import MEMORY
from autobatch.envs.surrogate._scatter import Hazard, Scatter, limited
from autobatch.policies import Moves, ObservationBatch, ObservationView, Quality, TaskInfo
from autobatch.policies.view import EpochCosts, reference_rung

Rungs = NDArray[np.int64]
Flags = NDArray[np.bool_]

MODELLED_UNITS = ("modelled", "examples", "flops")
"""Cost units of a surrogate; real seconds are not to be had."""

MEMBERS = 5
_MARGIN = 0.25
_COLUMNS = 16 + OUTPUTS + MEMORY


class _Columns:
    """Some columns of a ``State``, as a view."""

    def __init__(self, at: int | slice) -> None:
        self._at = at

    def __get__(self, state: "State", owner: type["State"]) -> Floats:
        view: Floats = state.columns[:, self._at]
        return view


class State:
    """Trainings side by side; the attributes are views into ``columns``, so what is written into them stays.

    Args:
        columns: one row a training, shape (n, columns).

    Attributes:
        columns: the same.
        epoch: finished epochs, shape (n,).
        batch_rung: rung of the ladder in use, shape (n,).
        rate_rung: rung of the learning rates in use, shape (n,).
        totals: C̄ times steps, L, steps and cost in modelled seconds so far, shape (n, 4).
        before: C̄, L and the score of an epoch ago, shape (n, 3); NaN before the second epoch.
        scored: C̄, L and the score now, shape (n, 3); NaN before the first epoch.
        seen: natural logarithms of ``FIGURES``, shape (n, 3).
        departure: by how many standard deviations the last epoch's outcomes differ from what was to be expected, shape
            (n, 5).
        memory: what the law remembers, shape (n, MEMORY).
    """

    epoch = _Columns(0)
    batch_rung = _Columns(1)
    rate_rung = _Columns(2)
    totals = _Columns(slice(3, 7))
    before = _Columns(slice(7, 10))
    scored = _Columns(slice(10, 13))
    seen = _Columns(slice(13, 16))
    departure = _Columns(slice(16, 16 + OUTPUTS))
    memory = _Columns(slice(16 + OUTPUTS, None))

    def __init__(self, columns: Floats) -> None:
        self.columns = columns

    def take(self, rows: NDArray[np.intp]) -> "State":
        """Return a copy of some of the trainings."""
        return State(self.columns[rows])

    def put(self, rows: NDArray[np.intp], other: "State") -> None:
        """Replace some of the trainings."""
        self.columns[rows] = other.columns


@dataclass(frozen=True)
class Outcome:
    """What an epoch brought to each training.

    Attributes:
        score: the validation figure that ranks runs, shape (n,).
        cost: modelled seconds of the epoch, shape (n,).
        spread: disagreement of the ensemble: standard deviation over members of the logarithm of the validation loss,
            shape (n,).
        diverged: whether the training diverged, shape (n,).
        scatter: standard deviation of the logarithm of the validation loss about what is to be expected, shape (n,).
    """

    score: Floats
    cost: Floats
    spread: Floats
    diverged: Flags
    scatter: Floats


class Dynamics:
    """Fitted dynamics of one task; make them with ``fit`` or ``load_dynamics``.

    Args:
        records: what was recorded of the task.
        ensemble: what was fitted to it.

    Attributes:
        task: the task as policies see it.
        library: its beacons.
        members: members of the ensemble.
        epochs: length of a training.
        moves: the ladders.
        view: what agents see.
        quality: scale of the score.
        noise_size: standard normals that an epoch uses.
        scale: what the task's schedules are relative to.
        guessing: logarithms of ``FIGURES`` before training, shape (3,).
    """

    noise_size = OUTPUTS + 1

    def __init__(self, records: TaskRecords, ensemble: Ensemble) -> None:
        task, library = records.task, records.library
        self.task = task
        self.library = library
        self.members = ensemble.members
        self.epochs = task.epochs
        self.moves = Moves(task.batch_sizes, task.learning_rates)
        self.view = ObservationView(task, library)
        self.quality = Quality.of(library)
        self.scale = records.scale
        self.guessing = records.guessing
        self._sizes = np.log2(np.asarray(task.batch_sizes, dtype=np.float64))
        self._rates = np.log2(np.asarray(task.learning_rates, dtype=np.float64))
        self._steps = np.array([float(steps_per_epoch(task.train_size, size)) for size in task.batch_sizes])
        self._modelled = EpochCosts(task, library).by_rung
        self._factors = np.log2(records.scale.factors)
        self._ensemble = ensemble
        self._offset, self._span = records.offset, records.span
        self._hazard = Hazard(records.epochs)
        sound = np.flatnonzero(~records.epochs.diverged)
        epochs = records.epochs.take(sound)
        self._bounds = _widened(epochs.outcome)
        self._bounds[1, :3] = self.guessing
        standardised = ensemble.standardised(epochs.inputs)
        unseen = ensemble(standardised)[records.group[sound] % self.members, np.arange(len(sound))]
        missed = epochs.outcome - self._absolute(unseen)
        self._scatter = Scatter.fit(standardised, epochs, missed, records.weight[sound])

    @classmethod
    def fit(
        cls,
        library: BeaconLibrary,
        branches: Branches | None,
        task: TaskInfo,
        *,
        others: Sequence[TaskRecords] = (),
        members: int = MEMBERS,
    ) -> "Dynamics":
        """Fit the dynamics of a task.

        Args:
            library: its beacons.
            branches: its branch runs, if there are any.
            task: the task as policies see it.
            others: what was recorded of other tasks, which share all but a few numbers with it.
            members: members of the ensemble, at least 2.

        Returns:
            The dynamics; the same arguments give the same dynamics.

        Raises:
            LibraryError: the trainings lack figures that dynamics need.
        """
        records = TaskRecords.of(library, branches, task)
        return cls(records, fit_together([records, *others], members)[0])

    def charged_by(self, costs: CostTable) -> "Dynamics":
        """Return the same dynamics on another kind of device, of which nothing is known but what things cost.

        Args:
            costs: its cost table.

        Returns:
            The dynamics.

        Raises:
            ConfigError: the table lacks a batch size of the ladder.
        """
        own = copy.copy(self)
        own.task = replace(self.task, costs=costs)
        own.view = ObservationView(own.task, self.library)
        own._modelled = EpochCosts(own.task, self.library).by_rung
        return own

    def costs(self, unit: str) -> Floats:
        """Return what an epoch costs at each rung of the ladder.

        Args:
            unit: ``"modelled"`` seconds without measuring, ``"examples"``, or ``"flops"``, which go with the examples
                and are counted by them.

        Returns:
            Shape (rungs,).

        Raises:
            ConfigError: the unit is another one, or the library has no cost table.
        """
        if unit in {"examples", "flops"}:
            return np.full(len(self._sizes), float(self.task.train_size))
        if unit != "modelled":
            raise ConfigError(f"cost: a surrogate knows {', '.join(MODELLED_UNITS)}, not {unit!r}")
        if self.task.costs is None:
            raise ConfigError(
                f"cost: the library of '{self.task.name}' has no cost table, so 'modelled' seconds are not known; "
                "choose cost='examples'"
            )
        return self._modelled.copy()

    def reference(self, unit: str) -> float:
        """Return the cost of the whole training that rewards are relative to.

        Args:
            unit: as in ``costs``.

        Returns:
            That of the best fixed beacon's batch size.
        """
        return float(self.costs(unit)[reference_rung(self.task, self.library)]) * self.epochs

    def begin(self, n: int) -> State:
        """Return trainings before their first epoch.

        Args:
            n: how many.

        Returns:
            Their state, at the middle of the ladders.
        """
        state = State(np.zeros((n, _COLUMNS)))
        state.batch_rung[:], state.rate_rung[:] = self.moves.start
        state.seen[:], state.memory[:] = self.guessing, self.scale.began(n)
        state.before[:] = state.scored[:] = np.nan
        return state

    def step(
        self, state: State, batch_rung: Rungs, rate_rung: Rungs, member: NDArray[np.int64], noise: Floats
    ) -> tuple[State, Outcome]:
        """Train an epoch.

        Args:
            state: n trainings.
            batch_rung: rung of the ladder that each uses, shape (n,).
            rate_rung: rung of the learning rates that each uses, shape (n,).
            member: member of the ensemble that each follows, -1 for the mean of all, shape (n,).
            noise: standard normals, shape (n, noise_size); zeros for what is to be expected.

        Returns:
            The trainings after it, and what it brought.
        """
        return self.train(
            state,
            batch_rung,
            self._rates[rate_rung],
            member,
            noise,
            rate_rung=rate_rung,
        )

    def train(
        self,
        state: State,
        batch_rung: Rungs,
        rate: Floats,
        member: NDArray[np.int64],
        noise: Floats,
        *,
        factor: Floats | None = None,
        rate_rung: Rungs | None = None,
    ) -> tuple[State, Outcome]:
        """Train an epoch at any rate.

        Args:
            state: n trainings.
            batch_rung: rung of the ladder that each uses, shape (n,).
            rate: log2 of the base learning rate that each uses, shape (n,).
            member: as in ``step``.
            noise: as in ``step``.
            factor: log2 of what multiplies the base rate, shape (n,); None for the task's schedule.
            rate_rung: rung of the learning rates to note, where the rate has one, shape (n,).

        Returns:
            The trainings after it, and what it brought.
        """
        epoch = np.minimum(state.epoch.astype(np.int64), self.epochs - 1)
        size = self._sizes[batch_rung]
        memory, inputs, passed = self.scale.advance(
            state.memory, epoch, size, rate, self._steps[batch_rung], factor=factor
        )
        standardised = self._ensemble.standardised(inputs)
        every = self._ensemble(standardised)
        chosen = np.where(
            (member < 0)[:, None], every.mean(axis=0), every[np.maximum(member, 0), np.arange(len(epoch))]
        )
        departure = self._scatter.advance(state.departure, passed, state.epoch > 0, noise[:, :OUTPUTS])
        scatter = self._scatter.size(standardised)
        outcome = self._absolute(chosen) + limited(scatter * departure)
        np.clip(outcome, *self._bounds, out=outcome)
        chance = self._hazard(rate + (self._factors[epoch] if factor is None else factor), size, state.epoch)
        diverged = ndtr(noise[:, OUTPUTS]) > 1.0 - chance
        outcome[diverged, :3] = self.guessing
        after = State(state.columns.copy())
        after.before[:] = state.scored
        after.epoch[:] += 1.0
        after.batch_rung[:] = batch_rung
        if rate_rung is not None:
            after.rate_rung[:] = rate_rung
        after.seen[:], after.departure[:], after.memory[:] = outcome[:, :3], departure, memory
        gained, cost = np.exp(outcome[:, 3:]), self._modelled[batch_rung]
        steps = self._steps[batch_rung]
        after.totals[:] += np.stack([gained[:, 0] * steps, gained[:, 1], steps, cost], axis=1)
        score = np.exp(after.seen[:, 0 if self.task.score == "validation_loss" else 2])
        after.scored[:] = np.stack([after.totals[:, 0] / after.totals[:, 2], after.totals[:, 1], score], axis=1)
        spread = every[:, :, 0].std(axis=0) * self._span[0]
        return after, Outcome(score, cost, spread, diverged, scatter[:, 0])

    def predict(self, epochs: Epochs) -> Floats:
        """Return what is to be expected of epochs, each by what the one before came to.

        Args:
            epochs: epochs of trainings of the task.

        Returns:
            What the mean over members makes of ``Epochs.outcome``, shape (n, 5).
        """
        standardised = self._ensemble.standardised(epochs.inputs)
        expected = self._absolute(self._ensemble(standardised).mean(axis=0))
        size, after = self._scatter.size(standardised), np.flatnonzero(epochs.continues)
        departure = (epochs.outcome[after - 1] - expected[after - 1]) / size[after - 1]
        expected[after] += limited(self._scatter.kept(epochs.passed[after]) * departure * size[after])
        return np.clip(expected, *self._bounds)

    def observe(self, state: State) -> NDArray[np.float32]:
        """Return what agents see.

        Args:
            state: n trainings.

        Returns:
            A new array, float32, shape (n, view.size), in [-1, 1].
        """
        started = state.epoch > 0
        figures = np.where(started[:, None], np.exp(state.seen), np.nan)
        rungs, rates = state.batch_rung.astype(np.int64), state.rate_rung.astype(np.int64)
        return self.view.arrays(
            ObservationBatch(
                epoch=state.epoch,
                progress=state.epoch / self.epochs,
                batch_size=np.where(started, np.exp2(self._sizes)[rungs], 0.0),
                lr=np.where(started, np.exp2(self._rates)[rates], np.nan),
                c_bar=state.scored[:, 0],
                l_cum=state.scored[:, 1],
                validation_loss=figures[:, 0],
                train_loss=figures[:, 1],
                validation_error=figures[:, 2],
                c_before=state.before[:, 0],
                l_before=state.before[:, 1],
                score_before=state.before[:, 2],
                spent=state.totals[:, 3],
            )
        )

    def _absolute(self, relative: NDArray[np.floating]) -> Floats:
        """Return outcomes as logarithms, given what ensembles say of them."""
        absolute: Floats = relative * self._span + self._offset
        return absolute


def fit_together(records: Sequence[TaskRecords], members: int = MEMBERS) -> list[Ensemble]:
    """Fit one ensemble to what was recorded of several tasks.

    Args:
        records: the tasks.
        members: members of the ensemble, at least 2.

    Returns:
        The ensemble as each of the tasks sees it.
    """
    parts = []
    for index, own in enumerate(records):
        sound = np.flatnonzero(~own.epochs.diverged)
        targets = (own.epochs.outcome[sound] - own.offset) / own.span
        fold = own.group[sound] % members
        parts.append((own.epochs.inputs[sound], targets, own.weight[sound], np.full(len(sound), index), fold))
    return fit_ensembles(Table(*(np.concatenate(part) for part in zip(*parts, strict=True))), len(records), members)


def _widened(values: Floats) -> Floats:
    low, high = values.min(axis=0), values.max(axis=0)
    margin = _MARGIN * (high - low)
    margin[:3] = 0.1  # losses and errors far below anything recorded are not to be believed
    return np.stack([low - margin, high + margin])

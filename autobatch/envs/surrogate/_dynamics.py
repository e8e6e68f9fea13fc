"""Surrogate dynamics: what an epoch does to a training, fitted to a beacon library and its branch runs.

A training is carried as (validation loss, training loss, validation error, C̄, L, steps). What the next epoch makes of
it is predicted by ridge regression on random Fourier features (Rahimi and Recht, 2007) of where it stands and of the
batch size and learning rate to be used; an ensemble fitted to resampled trainings says how sure that is. Steps and cost
are not predicted: they follow from the batch size.

Predictions of one epoch lead to states that no training was in, so the fit is repeated with the states that it leads to
itself, each with what really came next ("data as demonstrator", Venkatraman, Hebert and Bagnell, 2015). The scatter of
single epochs, most of it BatchNorm's at high rates, is laid over what is seen and not carried on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr
from sklearn.linear_model import LogisticRegression

from autobatch._artefacts import find_artefact
from autobatch._errors import ConfigError, LibraryError
from autobatch._files import seen_in
from autobatch.beacons import BeaconLibrary, Branches
from autobatch.control import steps_per_epoch
from autobatch.envs.surrogate._transitions import FIGURES, Situation, Transitions, log_figures, transitions
from autobatch.policies import Moves, ObservationBatch, ObservationView, Quality, TaskInfo
from autobatch.policies.view import EpochCosts, reference_rung
from autobatch.training import load_task, task_info

Floats = NDArray[np.float64]
Rungs = NDArray[np.int64]
Flags = NDArray[np.bool_]

UNITS = ("modelled", "examples", "flops")
"""Cost units of a surrogate; real seconds are not to be had."""

MEMBERS = 5
_FEATURES = 768
_SCALE = 1.2
_AMPLITUDE = 10.0 * 2.0**0.5
_RIDGE = 20.0
_AGAIN = 2
"""Times that the fit is repeated with where its own predictions lead."""

_SEED = 20180101
_OUTPUTS = 5
_MARGIN = 0.25
_MOST_SCATTER = 1.5
"""Most that a single epoch may scatter by, in natural logarithms."""

_LEAST_HAZARD = 0.02


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
        columns: one row a training, shape (n, 19).

    Attributes:
        columns: the same.
        epoch: finished epochs, shape (n,).
        batch_rung: rung of the ladder in use, shape (n,).
        rate_rung: rung of the learning rates in use, shape (n,).
        figures: natural logarithms of ``FIGURES`` as they are carried on, shape (n, 3).
        totals: C̄ times steps, L, steps and cost in modelled seconds so far, shape (n, 4).
        before: C̄, L and the score of an epoch ago, shape (n, 3); NaN before the second epoch.
        scored: C̄, L and the score now, shape (n, 3); NaN before the first epoch.
        seen: natural logarithms of ``FIGURES`` as they are seen, with the epoch's scatter, shape (n, 3).
    """

    epoch = _Columns(0)
    batch_rung = _Columns(1)
    rate_rung = _Columns(2)
    figures = _Columns(slice(3, 6))
    totals = _Columns(slice(6, 10))
    before = _Columns(slice(10, 13))
    scored = _Columns(slice(13, 16))
    seen = _Columns(slice(16, 19))

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
    """

    score: Floats
    cost: Floats
    spread: Floats
    diverged: Flags


class Dynamics:
    """Fitted dynamics of one task; make them with ``fit`` or ``load_dynamics``.

    Attributes:
        task: the task as policies see it.
        library: its beacons.
        members: members of the ensemble.
        epochs: length of a training.
        moves: the ladders.
        view: what agents see.
        quality: scale of the score.
        noise_size: standard normals that an epoch uses.
        factors: the schedule's factor on the learning rate in each epoch, shape (epochs,).
        guessing: logarithms of ``FIGURES`` before training, shape (3,).
    """

    noise_size = _OUTPUTS + 1

    def __init__(
        self, task: TaskInfo, library: BeaconLibrary, table: Transitions, factors: Floats, members: int
    ) -> None:
        self.task = task
        self.library = library
        self.members = members
        self.epochs = task.epochs
        self.moves = Moves(task.batch_sizes, task.learning_rates)
        self.view = ObservationView(task, library)
        self.quality = Quality.of(library)
        self.factors = factors
        self.guessing = guessing(library)
        self._sizes = np.log2(np.asarray(task.batch_sizes, dtype=np.float64))
        self._rates = np.log2(np.asarray(task.learning_rates, dtype=np.float64))
        self._steps = np.array([float(steps_per_epoch(task.train_size, size)) for size in task.batch_sizes])
        self._modelled = EpochCosts(task, library).by_rung
        self._milestones = np.array([0.0, *task.milestones])
        self._fit(table)

    @classmethod
    def fit(cls, library: BeaconLibrary, branches: Branches, task: TaskInfo, *, members: int = MEMBERS) -> "Dynamics":
        """Fit the dynamics of a task.

        Args:
            library: its beacons.
            branches: its branch runs.
            task: the task as policies see it.
            members: members of the ensemble, at least 2.

        Returns:
            The dynamics; the same arguments give the same dynamics.

        Raises:
            LibraryError: the trainings lack figures that dynamics need.
        """
        factors = schedule_factors(library, task.epochs)
        return cls(task, library, transitions(library, branches, guessing(library), factors), factors, members)

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
            raise ConfigError(f"cost: a surrogate knows {', '.join(UNITS)}, not {unit!r}")
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
        state = State(np.zeros((n, 19)))
        state.batch_rung[:], state.rate_rung[:] = self.moves.start
        state.figures[:] = state.seen[:] = self.guessing
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
        situation = self._situation(state, batch_rung, rate_rung)
        features = self._features(situation)
        every = (features @ self._readout).reshape(len(features), self.members, _OUTPUTS).astype(np.float64)
        mean = every.mean(axis=1)
        chosen = np.where((member < 0)[:, None], mean, every[np.arange(len(every)), np.maximum(member, 0)])
        deviation = np.exp(np.clip(features @ self._log_noise, *self._noise_bounds))
        outcome = np.clip(chosen + self._base(situation), *self._bounds)
        scatter = deviation * (noise[:, :_OUTPUTS] @ self._correlation)
        np.clip(scatter, -_MOST_SCATTER, _MOST_SCATTER, out=scatter)
        diverged = ndtr(noise[:, _OUTPUTS]) > 1.0 - self._hazard(situation)
        after, score = self._after(state, batch_rung, rate_rung, (outcome, scatter), diverged)
        return after, Outcome(score, self._modelled[batch_rung], every[:, :, 0].std(axis=1), diverged)

    def predict(self, situation: Situation) -> Floats:
        """Return what is to be expected of the next epoch.

        Args:
            situation: where n trainings stand, and what they are to use.

        Returns:
            The mean over members of ``Transitions.outcome``, shape (n, 5).
        """
        every = (self._features(situation) @ self._readout).reshape(-1, self.members, _OUTPUTS)
        expected: Floats = every.mean(axis=1, dtype=np.float64) + self._base(situation)
        return expected

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

    def _situation(self, state: State, batch_rung: Rungs, rate_rung: Rungs) -> Situation:
        started = state.epoch > 0
        size, rate = self._sizes[batch_rung], self._rates[rate_rung]
        epochs = np.minimum(state.epoch.astype(np.int64), self.epochs - 1)
        last = np.log2(self.factors[np.maximum(epochs - 1, 0)]) + self._rates[state.rate_rung.astype(np.int64)]
        totals = np.maximum(state.totals, 1e-12)
        return Situation(
            epoch=state.epoch,
            figures=state.figures,
            log_c=np.where(started, np.log(totals[:, 0] / totals[:, 2]), 0.0),
            log_l=np.where(started, np.log(totals[:, 1]), 0.0),
            log_steps=np.where(started, np.log(totals[:, 2]), 0.0),
            last_size=np.where(started, self._sizes[state.batch_rung.astype(np.int64)], size),
            last_rate=np.where(started, last, rate + np.log2(self.factors[0])),
            size=size,
            rate=rate,
        )

    def _after(
        self, state: State, batch_rung: Rungs, rate_rung: Rungs, outcome: tuple[Floats, Floats], diverged: Flags
    ) -> tuple[State, Floats]:
        """Return the trainings after an epoch, and their scores."""
        after = State(state.columns.copy())
        after.before[:] = state.scored
        after.epoch[:] += 1.0
        after.batch_rung[:], after.rate_rung[:] = batch_rung, rate_rung
        expected, scatter = outcome
        after.figures[:] = expected[:, :3]
        after.figures[diverged] = self.guessing
        low, high = self._bounds[:, :3]
        after.seen[:] = np.clip(after.figures + scatter[:, :3], low, high)
        gained = np.exp(expected[:, 3:] + scatter[:, 3:])
        steps, cost = self._steps[batch_rung], self._modelled[batch_rung]
        after.totals[:] += np.stack([gained[:, 0] * steps, gained[:, 1], steps, cost], axis=1)
        index = 0 if self.task.score == "validation_loss" else 2
        score = np.exp(after.seen[:, index])
        after.scored[:] = np.stack([after.totals[:, 0] / after.totals[:, 2], after.totals[:, 1], score], axis=1)
        return after, score

    # Fitting ---------------------------------------------------------------------------------------------------------

    def _fit(self, table: Transitions) -> None:
        generator = np.random.default_rng(_SEED)
        inputs = self._inputs(table.situation)
        self._mean, self._deviation = inputs.mean(axis=0), inputs.std(axis=0) + 1e-6
        width = _SCALE * np.sqrt(inputs.shape[1])
        self._frequencies = (generator.standard_normal((inputs.shape[1], _FEATURES)) / width).astype(np.float32)
        self._phases = generator.uniform(0.0, 2.0 * np.pi, _FEATURES).astype(np.float32)
        self._hazard = _hazard(table, self.factors)
        sound = table.take(np.flatnonzero(~table.diverged))
        self._bounds = _widened(sound.outcome)
        self._bounds[1, :3] = self.guessing
        features, target = self._features(sound.situation), sound.outcome - self._base(sound.situation)
        own = sound
        for _ in range(_AGAIN):
            self._ensemble([_ridge(*self._equations(own), np.ones(len(own.run)))] * self.members)
            own = Transitions.joined([own, self._rolled_out(sound)])
        every, wanted = self._equations(own)
        count = int(table.run.max()) + 1
        readouts, outside = [], np.full((self.members, len(target), _OUTPUTS), np.nan)
        for member in range(self.members):
            drawn = np.bincount(generator.integers(count, size=count), minlength=count).astype(np.float64)
            readouts.append(_ridge(every, wanted, drawn[own.run]))
            unseen = drawn[sound.run] == 0
            outside[member, unseen] = target[unseen] - features[unseen] @ readouts[-1]
        self._ensemble(readouts)
        self._fit_noise(features, outside)

    def _equations(self, table: Transitions) -> tuple[NDArray[np.float32], Floats]:
        return self._features(table.situation), table.outcome - self._base(table.situation)

    def _ensemble(self, readouts: Sequence[Floats]) -> None:
        self._readout = np.concatenate(readouts, axis=1).astype(np.float32)

    def _rolled_out(self, table: Transitions) -> Transitions:
        """Return where the present fit comes to on the way of each training, with what really came next."""
        rows = _from_the_start(table, self.epochs)
        rungs = [
            np.abs(values[rows][:, :, None] - ladder).argmin(axis=2)
            for values, ladder in ((table.situation.size, self._sizes), (table.situation.rate, self._rates))
        ]
        count = len(rows)
        state, parts = self.begin(count), []
        still = np.zeros((count, _OUTPUTS))
        for epoch in range(self.epochs):
            batch, rate = (own[:, epoch] for own in rungs)
            situation = self._situation(state, batch, rate)
            on = np.flatnonzero(rows[:, epoch] >= 0)
            if epoch and on.size:
                real = table.take(rows[on, epoch])
                parts.append(Transitions(situation.take(on), real.outcome, real.diverged, real.run))
            expected = np.clip(self.predict(situation), *self._bounds)
            state, _ = self._after(state, batch, rate, (expected, still), np.zeros(count, dtype=bool))
        return Transitions.joined(parts) if parts else table.take(np.arange(0))

    def _fit_noise(self, features: NDArray[np.float32], outside: Floats) -> None:
        """Fit the size of what members that have not seen a training miss it by, and how its parts go together."""
        seen = np.isfinite(outside[:, :, 0]).any(axis=0)
        errors = np.nanmean(outside[:, seen], axis=0)
        logs = np.log(np.maximum(np.abs(errors), 1e-4))
        self._log_noise = _ridge(features[seen], logs, np.ones(int(seen.sum())))
        fitted = features[seen] @ self._log_noise
        self._noise_bounds = np.quantile(fitted, [0.02, 0.98], axis=0)
        scaled = errors / np.exp(np.clip(fitted, *self._noise_bounds))
        # The mean log of an absolute normal lies below that of its scale, and single epochs miss by far: a robust width
        # (68 % of a normal stay within one) brings the scale right.
        width = np.quantile(np.abs(scaled), 0.6827, axis=0)
        correlation = np.corrcoef(np.clip(scaled / width, -3.0, 3.0), rowvar=False)
        self._log_noise = self._log_noise.astype(np.float32)
        self._correlation = np.linalg.cholesky(correlation + 1e-9 * np.eye(_OUTPUTS)).T * width

    def _features(self, situation: Situation) -> NDArray[np.float32]:
        # In single precision: the cosines are most of what a step costs.
        scaled = ((self._inputs(situation) - self._mean) / self._deviation).astype(np.float32)
        np.clip(scaled, -4.0, 4.0, out=scaled)
        count = len(self._phases)
        features = np.empty((len(scaled), count + scaled.shape[1] + 1), dtype=np.float32)
        waves = features[:, :count]
        np.matmul(scaled, self._frequencies, out=waves)
        waves += self._phases
        np.cos(waves, out=waves)
        waves *= _AMPLITUDE * count**-0.5
        features[:, count:-1] = scaled
        features[:, -1] = 1.0
        return features

    def _inputs(self, situation: Situation) -> Floats:
        progress = situation.epoch / self.epochs
        factor = np.log2(self.factors[np.minimum(situation.epoch.astype(np.int64), self.epochs - 1)])
        passed = (progress[:, None] >= self._milestones - 1e-9).sum(axis=1) - 1
        started = situation.epoch > 0
        return np.column_stack([
            progress,
            progress - self._milestones[passed],
            factor,
            situation.size,
            situation.rate,
            situation.rate + factor,
            situation.size - situation.last_size,
            situation.rate + factor - situation.last_rate,
            situation.figures,
            np.where(started, situation.log_c, self._typical(0)),
            np.where(started, situation.log_l, self._typical(1)),
            situation.log_steps,
            started,
        ])

    def _typical(self, index: int) -> float:
        """Return what stands for log C̄ or log L before anything is measured: their means, once known."""
        return float(self._mean[11 + index]) if hasattr(self, "_mean") else 0.0

    def _base(self, situation: Situation) -> Floats:
        """Return what outcomes are predicted relative to: the figures of the last epoch."""
        return np.concatenate([situation.figures, np.zeros((len(situation.epoch), 2))], axis=1)


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
    return log_figures(np.array([np.log(classes), np.log(classes), 1.0 - 1.0 / classes]))


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


@lru_cache(maxsize=16)
def _loaded(folder: Path, stamp: tuple[tuple[str, int], ...]) -> Dynamics:
    library = BeaconLibrary.load(folder)
    task = load_task(folder)
    return Dynamics.fit(library, Branches.load(folder), task_info(task, library))


def load_dynamics(env: str | Path) -> Dynamics:
    """Fit the dynamics of a task, or take those of this process.

    Args:
        env: name or path of an env folder.

    Returns:
        The dynamics.

    Raises:
        LibraryError: there are no beacons or no branch runs; the message says how to record them.
    """
    folder = Path(find_artefact("envs", env)).parent.absolute()
    parts = [file for pattern in ("*.parquet", "*/*.parquet", "env.yaml") for file in seen_in(folder, pattern)]
    return _loaded(folder, tuple((str(file), file.stat().st_mtime_ns) for file in parts))


def _from_the_start(table: Transitions, epochs: int) -> NDArray[np.intp]:
    """Return the row of each epoch of the trainings that are known from their first, -1 after their last."""
    starts = np.flatnonzero(table.situation.epoch == 0)
    found = np.full((len(starts), epochs), -1, dtype=np.intp)
    for index, start in enumerate(starts.tolist()):
        own = np.arange(start, min(start + epochs, len(table.run)))
        wanted = (table.run[own] == table.run[start]) & (table.situation.epoch[own] == np.arange(len(own)))
        length = len(own) if wanted.all() else int(np.argmin(wanted))
        found[index, :length] = own[:length]
    return found


def _ridge(features: NDArray[np.float32], target: Floats, weights: Floats) -> Floats:
    used = np.flatnonzero(weights)
    features = features[used]
    weighted = features * weights[used, None].astype(np.float32)
    gram = (features.T @ weighted).astype(np.float64) + _RIDGE * np.eye(features.shape[1])
    return np.asarray(np.linalg.solve(gram, weighted.T @ target[used]), dtype=np.float64)


def _widened(values: Floats) -> Floats:
    low, high = values.min(axis=0), values.max(axis=0)
    margin = _MARGIN * (high - low)
    margin[:3] = 0.1  # losses and errors far below anything recorded are not to be believed
    return np.stack([low - margin, high + margin])


def _hazard(table: Transitions, factors: Floats) -> Callable[[Situation], Floats]:
    """Return the chance that an epoch diverges: logistic regression on rates and sizes, 0 where none ever did."""

    def inputs(situation: Situation) -> Floats:
        factor = factors[np.minimum(situation.epoch.astype(np.int64), len(factors) - 1)]
        rate = situation.rate + np.log2(factor)
        size = situation.size
        return np.column_stack([rate, size, rate * rate, size * size, rate * size, situation.epoch > 0]) / 10.0

    if not table.diverged.any():
        return lambda situation: np.zeros(len(situation.epoch))
    model = LogisticRegression(C=100.0, max_iter=5000).fit(inputs(table.situation), table.diverged)
    coefficients, intercept = model.coef_[0], model.intercept_[0]

    def chance(situation: Situation) -> Floats:
        hazard = expit(inputs(situation) @ coefficients + intercept)
        return np.where(hazard < _LEAST_HAZARD, 0.0, hazard)

    return chance


__all__ = ["FIGURES", "Dynamics", "Outcome", "State", "guessing", "load_dynamics", "schedule_factors"]

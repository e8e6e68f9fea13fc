"""Surrogate trainings side by side: what both forms of ``AutoBatch/Surrogate-v0`` step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autobatch._errors import ConfigError
from autobatch.envs._reward import Reward
from autobatch.envs._spaces import action_masks
from autobatch.envs.surrogate._dynamics import Dynamics, Outcome, State
from autobatch.envs.surrogate._load import load_dynamics
from autobatch.envs.surrogate._settings import SurrogateSettings
from autobatch.policies._moves import decode

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Rows = NDArray[np.intp]
Info = dict[str, NDArray[Any]]

MEAN = -1
"""The member that stands for the average of all."""


@dataclass(frozen=True)
class Step:
    """What one epoch brought to each run, arrays of shape (n,); only entries of runs that stepped mean something.

    Attributes:
        reward: the reward; 0 for a run that did not step.
        terminated: whether the episode is over; False for a run that did not step.
        info: other figures by name; they are finite.
    """

    reward: Floats
    terminated: Flags
    info: Info


class Runs(Protocol):
    """What an environment steps: trainings side by side, whatever can be done to them."""

    count: int
    size: int
    dynamics: list[Dynamics]
    task: NDArray[np.intp]

    @property
    def settings(self) -> SurrogateSettings:
        """The environment's arguments."""
        ...

    def begin(self, rows: Rows, generators: Sequence[np.random.Generator]) -> Info:
        """Begin an episode of some runs; return what is known of them."""
        ...

    def advance(self, actions: NDArray[Any], rows: Rows | None = None) -> Step:
        """Train an epoch of the runs that step, of all where nobody says."""
        ...

    def observe(self) -> NDArray[np.float32]:
        """Return what agents see of all runs."""
        ...

    def openings(self, rows: Rows) -> NDArray[np.float32]:
        """Return what agents see of runs that have just begun."""
        ...

    def action_masks(self) -> Flags:
        """Return which actions lead where they say."""
        ...


class SurrogateRuns:
    """Trainings on fitted dynamics, one epoch at a time; which task a run is of may differ from run to run.

    All that an episode leaves to chance is drawn when it begins, from the run's own generator. So what one run goes
    through depends on nothing that happens to the others.

    Args:
        settings: the environment's arguments.
        count: how many runs.

    Attributes:
        dynamics: the fitted dynamics, by task.
        task: each run's index into ``dynamics``.
        member: each run's member of the ensemble.
        batch_rung: each run's rung on the ladder.
        rate_rung: each run's rung of the learning rates.
        epoch: finished epochs of each run.
    """

    def __init__(self, settings: SurrogateSettings, count: int) -> None:
        self.settings = settings
        self.count = count
        self.dynamics = _load(settings)
        moves = [dynamics.moves for dynamics in self.dynamics]
        self.size = self.dynamics[0].view.size
        self._rewards = [
            Reward(dynamics.quality, dynamics.reference(settings.cost), settings.cost_weight)
            for dynamics in self.dynamics
        ]
        self._costs = _table([dynamics.costs(settings.cost).tolist() for dynamics in self.dynamics], np.float64)
        self._batch_sizes = _table([own.batch_sizes for own in moves], np.int64)
        self._rates = _table([own.learning_rates for own in moves], np.float64)
        self._top = np.array([(len(own.batch_sizes) - 1, len(own.learning_rates) - 1) for own in moves])
        self._epochs = np.array([dynamics.epochs for dynamics in self.dynamics])
        self._states = [dynamics.begin(count) for dynamics in self.dynamics]
        self._all = np.arange(count)
        self.task, self.epoch = np.zeros((2, count), dtype=np.intp)
        self.batch_rung, self.rate_rung = np.zeros((2, count), dtype=np.int64)
        self.member = np.full(count, settings.member if isinstance(settings.member, int) else MEAN)
        self._potential = np.zeros(count)
        self._openings = np.zeros((len(moves), *self._top.max(axis=0) + 1, self.size), dtype=np.float32)
        for index, own in enumerate(self.dynamics):
            seen = _first_seen(own)
            self._openings[index, : seen.shape[0], : seen.shape[1]] = seen
        self._noise = np.zeros((count, *np.max([(d.epochs, d.noise_size) for d in self.dynamics], axis=0)))

    def begin(self, rows: Rows, generators: Sequence[np.random.Generator]) -> Info:
        """Begin an episode of some runs.

        Args:
            rows: which runs.
            generators: the generators of all runs; those of ``rows`` are drawn from.

        Returns:
            What is known of the episodes by name, arrays of shape (count,); only entries of ``rows`` mean something.
        """
        for row in rows.tolist():
            self._draw(row, generators[row])
        names = np.full(self.count, None, dtype=object)
        for index, dynamics in enumerate(self.dynamics):
            own = rows[self.task[rows] == index]
            if own.size:
                state = dynamics.begin(own.size)
                state.batch_rung[:], state.rate_rung[:] = self.batch_rung[own], self.rate_rung[own]
                self._states[index].put(own, state)
                names[own] = self.settings.envs[index]
        self.epoch[rows] = 0
        self._potential[rows] = 0.0
        return {"env": names, "member": self.member.copy(), **self._figures()}

    def advance(self, actions: NDArray[Any], rows: Rows | None = None) -> Step:
        """Train an epoch.

        Args:
            actions: an action for each run, shape (count, ...); those of runs that do not step do not matter.
            rows: the runs that step; None for all.

        Returns:
            What it brought.
        """
        moving: Rows | slice = slice(None) if rows is None else rows
        self._move(actions, moving)
        reward, score, spread, c_bar, l_cum = np.zeros((5, self.count))
        diverged = np.zeros(self.count, dtype=np.bool_)
        cost = self._costs[self.task, self.batch_rung]
        for index, own in self._groups(rows):
            (state, outcome), signal = self._train(index, own), self._rewards[index]
            at = slice(None) if own is None else own
            potential = signal.potential(outcome.score, outcome.diverged)
            reward[at] = signal(self._potential[at], potential, cost[at])
            self._potential[at] = potential
            score[at], spread[at], diverged[at] = outcome.score, outcome.spread, outcome.diverged
            c_bar[at], l_cum[at] = state.scored[:, 0], state.scored[:, 1]
        if self.settings.pessimism:
            reward -= self.settings.pessimism * spread
        self.epoch[moving] += 1
        over = diverged.copy()
        over[moving] |= self.epoch[moving] >= self._epochs[self.task[moving]]
        figures = {"c_bar": c_bar, "l_cum": l_cum, "score": score, "cost": cost, "spread": spread, "diverged": diverged}
        return Step(reward, over, self._figures() | figures)

    def _figures(self) -> Info:
        return {
            "epoch": self.epoch.copy(),
            "batch_size": self._batch_sizes[self.task, self.batch_rung],
            "lr": self._rates[self.task, self.rate_rung],
            "quality": self._potential.copy(),
        }

    def observe(self) -> NDArray[np.float32]:
        """Return what agents see.

        Returns:
            A new array, float32, of shape (count, size), in [-1, 1].
        """
        if len(self.dynamics) == 1:
            return self.dynamics[0].observe(self._states[0])
        seen = np.zeros((self.count, self.size), dtype=np.float32)
        for index, own in self._groups(None):
            assert own is not None
            seen[own] = self.dynamics[index].observe(self._states[index].take(own))
        return seen

    def action_masks(self) -> Flags:
        """Return which actions stay on the ladders, of each run; see ``autobatch.envs._spaces.action_masks``."""
        rungs = np.stack([self.batch_rung, self.rate_rung], axis=1)
        return action_masks(self.settings.actions, rungs, self._top[self.task])

    def openings(self, rows: Rows) -> NDArray[np.float32]:
        """Return what agents see of runs that have just begun, faster than ``observe`` does.

        Args:
            rows: which runs.

        Returns:
            A new array, float32, of shape (rows, size).
        """
        seen: NDArray[np.float32] = self._openings[self.task[rows], self.batch_rung[rows], self.rate_rung[rows]]
        return seen

    def _draw(self, row: int, generator: np.random.Generator) -> None:
        settings, several = self.settings, len(self.dynamics) > 1
        task = int(generator.integers(len(self.dynamics))) if several else 0
        dynamics = self.dynamics[task]
        moves = dynamics.moves
        self.task[row] = task
        if settings.member is None:
            self.member[row] = generator.integers(dynamics.members)
        start = moves.start
        if settings.start == "random":
            ladders = len(moves.batch_sizes), len(moves.learning_rates)
            start = int(generator.integers(ladders[0])), int(generator.integers(ladders[1]))
        self.batch_rung[row], self.rate_rung[row] = start
        if settings.noise:
            shape = dynamics.epochs, dynamics.noise_size
            self._noise[row, : shape[0], : shape[1]] = generator.standard_normal(shape)

    def _move(self, actions: NDArray[Any], rows: Rows | slice) -> None:
        batch_move, rate_move = decode(self.settings.actions, actions[rows])
        # Moves.apply over ladders that may differ from run to run.
        task = self.task[rows]
        self.batch_rung[rows] = np.clip(self.batch_rung[rows] + batch_move, 0, self._top[task, 0])
        self.rate_rung[rows] = np.clip(self.rate_rung[rows] + rate_move, 0, self._top[task, 1])

    def _train(self, index: int, rows: Rows | None) -> tuple[State, Outcome]:
        dynamics, at = self.dynamics[index], slice(None) if rows is None else rows
        state = self._states[index] if rows is None else self._states[index].take(rows)
        noise = self._noise[self._all[at], self.epoch[at], : dynamics.noise_size]
        after, outcome = dynamics.step(state, self.batch_rung[at], self.rate_rung[at], self.member[at], noise)
        if rows is None:
            self._states[index] = after
        else:
            self._states[index].put(rows, after)
        return after, outcome

    def _groups(self, rows: Rows | None) -> Iterator[tuple[int, Rows | None]]:
        if len(self.dynamics) == 1:
            if rows is None or rows.size:
                yield 0, rows
            return
        chosen = self._all if rows is None else rows
        task = self.task[chosen]
        for index in range(len(self.dynamics)):
            own = chosen[task == index]
            if own.size:
                yield index, own

    def __getstate__(self) -> dict[str, Any]:
        """Leave the dynamics out: they are loaded by name."""
        return {key: value for key, value in self.__dict__.items() if key != "dynamics"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load the dynamics again."""
        self.__dict__.update(state)
        self.dynamics = _load(self.settings)


def _load(settings: SurrogateSettings) -> list[Dynamics]:
    found = [load_dynamics(env) for env in settings.envs]
    check_members(settings, found)
    return found


def check_members(settings: SurrogateSettings, found: Sequence[Dynamics]) -> None:
    """Refuse a member of the ensemble that a task has not.

    Args:
        settings: the environment's arguments.
        found: the dynamics of its tasks.

    Raises:
        ConfigError: there is no such member.
    """
    member = settings.member
    for env, dynamics in zip(settings.envs, found, strict=True):
        if isinstance(member, int) and member >= dynamics.members:
            raise ConfigError(f"member: {env!r} has members 0 to {dynamics.members - 1}, got {member}")


def _table(rows: Sequence[Sequence[float]], dtype: Any) -> NDArray[Any]:
    """Return rows of differing lengths as one array, filled up with each row's last."""
    longest = max(map(len, rows))
    return np.array([[*row, *[row[-1]] * (longest - len(row))] for row in rows], dtype=dtype)


def _first_seen(dynamics: Dynamics) -> NDArray[np.float32]:
    """Return the first observation of an episode, by the rungs that it starts from."""
    shape = len(dynamics.moves.batch_sizes), len(dynamics.moves.learning_rates)
    batch_rung, rate_rung = (rungs.ravel() for rungs in np.indices(shape))
    state = dynamics.begin(len(batch_rung))
    state.batch_rung[:], state.rate_rung[:] = batch_rung, rate_rung
    return dynamics.observe(state).reshape(*shape, -1)

"""Surrogate trainings side by side: what both forms of ``AutoBatch/Surrogate-v0`` step."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autobatch.envs._reward import Reward
from autobatch.envs._spaces import action_masks
from autobatch.envs.surrogate._dynamics import Dynamics, Outcome, State
from autobatch.envs.surrogate._load import load_dynamics
from autobatch.envs.surrogate._settings import SurrogateSettings
from autobatch.envs.surrogate._side_by_side import Flags, Info, Rows, Runs, Step
from autobatch.policies._moves import decode


class SurrogateRuns(Runs[SurrogateSettings]):
    """Trainings whose schedule is the task's.

    Args:
        settings: the environment's arguments.
        count: how many runs.

    Attributes:
        batch_rung: each run's rung on the ladder.
        rate_rung: each run's rung of the learning rates.
        epoch: finished epochs of each run.
    """

    def __init__(self, settings: SurrogateSettings, count: int) -> None:
        super().__init__(settings, count)
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
        self.epoch = np.zeros(count, dtype=np.intp)
        self.batch_rung, self.rate_rung = np.zeros((2, count), dtype=np.int64)
        self._openings = np.zeros((len(moves), *self._top.max(axis=0) + 1, self.size), dtype=np.float32)
        for index, own in enumerate(self.dynamics):
            seen = _first_seen(own)
            self._openings[index, : seen.shape[0], : seen.shape[1]] = seen

    def begin(self, rows: Rows, generators: Sequence[np.random.Generator]) -> Info:
        """Begin an episode of some runs; see ``Runs.begin``."""
        for row in rows.tolist():
            self._draw(row, generators[row])
        for index, own in self._by_task(rows):
            state = self.dynamics[index].begin(own.size)
            state.batch_rung[:], state.rate_rung[:] = self.batch_rung[own], self.rate_rung[own]
            self._states[index].put(own, state)
        self.epoch[rows] = 0
        self._potential[rows] = 0.0
        return {**self._told(rows), **self._figures()}

    def advance(self, actions: NDArray[Any], rows: Rows | None = None) -> Step:
        """Move, and train an epoch; see ``Runs.advance``."""
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
        """Return what agents see of all runs; see ``Runs.observe``."""
        if len(self.dynamics) == 1:
            return self.dynamics[0].observe(self._states[0])
        seen = np.zeros((self.count, self.size), dtype=np.float32)
        for index, own in self._by_task(self._all):
            seen[own] = self.dynamics[index].observe(self._states[index].take(own))
        return seen

    def action_masks(self) -> Flags:
        """Return which actions stay on the ladders, of each run; see ``autobatch.envs._spaces.action_masks``."""
        rungs = np.stack([self.batch_rung, self.rate_rung], axis=1)
        return action_masks(self.settings.actions, rungs, self._top[self.task])

    def openings(self, rows: Rows) -> NDArray[np.float32]:
        """Return what agents see of runs that have just begun, faster than ``observe`` does."""
        seen: NDArray[np.float32] = self._openings[self.task[rows], self.batch_rung[rows], self.rate_rung[rows]]
        return seen

    def _draw(self, row: int, generator: np.random.Generator) -> None:
        moves = self.dynamics[self._draw_task(row, generator)].moves
        start = moves.start
        if self.settings.start == "random":
            ladders = len(moves.batch_sizes), len(moves.learning_rates)
            start = int(generator.integers(ladders[0])), int(generator.integers(ladders[1]))
        self.batch_rung[row], self.rate_rung[row] = start
        if self.settings.noise:
            self._draw_noise(row, generator)

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
        yield from self._by_task(self._all if rows is None else rows)

    @staticmethod
    def _load(env: str, settings: SurrogateSettings) -> Dynamics:
        return load_dynamics(env)


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

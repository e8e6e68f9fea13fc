"""Surrogate trainings whose schedule is the agent's: what both forms of ``AutoBatch/Surrogate-v1`` step."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from autobatch._arrays import Floats
from autobatch._steps import steps_per_epoch
from autobatch.envs._reward import LogGain
from autobatch.envs.steered._actions import as_parts, steered_masks
from autobatch.envs.steered._forks import NOISE, measured
from autobatch.envs.steered._varied import Variation, varied
from autobatch.envs.surrogate._dynamics import Dynamics, Outcome, State
from autobatch.envs.surrogate._load import load_steered
from autobatch.envs.surrogate._settings import SteeredSettings
from autobatch.envs.surrogate._side_by_side import Flags, Info, Rows, Runs, Step
from autobatch.policies import Scout, SteerParameters, SteerPolicy, TaskInfo
from autobatch.policies.general import FORK_ENTRIES, Course, CourseView, Forked, Limits, Seen, forking, rule_plan
from autobatch.policies.steer import no_worse
from autobatch.policies.steer._search import has_larger_batches

_SCOUTS = 4
"""Scouts that an episode may have: three rates, and half the batch."""


class SteeredRuns(Runs[SteeredSettings]):
    """Trainings whose rate falls and which end where the agent says.

    Args:
        settings: the environment's arguments.
        count: how many runs.

    Attributes:
        course: how each goes on.
        limits: what binds the runs, by task.
        seen: what each has shown.
        forked: what the last fork of each came to.
    """

    size = CourseView.size

    def __init__(self, settings: SteeredSettings, count: int) -> None:
        super().__init__(settings, count)
        if settings.forks:
            self.size = CourseView.size + len(FORK_ENTRIES)
        self._tasks = [_steered_task(dynamics) for dynamics in self.dynamics]
        self._views = [CourseView(task.train_size, adaptive=task.adaptive) for task in self._tasks]
        self._gains = [LogGain(_guessing(dynamics)) for dynamics in self.dynamics]
        self._costs = [dynamics.costs(settings.cost) for dynamics in self.dynamics]
        self._steps = [_epoch_steps(task) for task in self._tasks]
        self._recorded = [Variation.none(*own) for own in zip(self._tasks, self._costs, strict=True)]
        longest = max(dynamics.epochs for dynamics in self.dynamics)
        self.limits = [_limits(task, costs, count) for task, costs in zip(self._tasks, self._costs, strict=True)]
        nowhere = np.zeros(count, dtype=np.int64)
        self.course = Course.begun(nowhere, np.zeros(count), np.full(count, longest))
        self.seen = Seen.nothing(count, longest, math.nan)
        self._owed, self._reference = np.zeros((2, count))
        self.forked = Forked.none(count)
        self._fork_noise = np.zeros((count, longest, NOISE))

    def begin(self, rows: Rows, generators: Sequence[np.random.Generator]) -> Info:
        """Begin an episode of some runs; see ``Runs.begin``."""
        # Of runs that would draw alike, as where many policies play one episode, scouts go for the first only.
        first: dict[str, int] = {}
        firsts = np.array([first.setdefault(str(generators[row].bit_generator.state), row) for row in rows.tolist()])
        drawn = {row: self._draw(row, generators[row]) for row in first.values()}
        begun = np.array(list(drawn))
        for index, own in self._by_task(begun):
            self._begin(index, own, [drawn[row] for row in own.tolist()])
        twins = firsts != rows
        self._copy(firsts[twins], rows[twins])
        for row, like in zip(rows[twins].tolist(), firsts[twins].tolist(), strict=True):
            generators[row].bit_generator.state = generators[like].bit_generator.state
        return {**self._told(rows), **self._figures()}

    def advance(self, actions: NDArray[np.int64], rows: Rows | None = None) -> Step:
        """Do what actions say, and train an epoch; see ``Runs.advance``."""
        parts = as_parts(self.settings.actions, actions)
        reward, score, spread, c_bar, l_cum, cost = np.zeros((6, self.count))
        diverged, stopped, over, forked = np.zeros((4, self.count), dtype=np.bool_)
        for index, own in self._by_task(self._all if rows is None else rows):
            course, limits = self.course.take(own), self.limits[index].take(own)
            before = self.course.take(own) if self.settings.forks else None
            stopped[own] = ends = course.advance(parts[own], limits)
            self.course.put(own, course)
            going = own[~ends]
            potential = self._potential[own]
            if going.size:
                asked = None if before is None else (parts[going], before.take(np.flatnonzero(~ends)))
                state, outcome, forked[going] = self._train(index, going, asked)
                score[going], spread[going], diverged[going] = outcome.score, outcome.spread, outcome.diverged
                c_bar[going], l_cum[going] = state.scored[:, 0], state.scored[:, 1]
                cost[going] = self.limits[index].seconds[going, self.course.size[going]]
                cost[going] += np.where(forked[going], self.forked.cost[going], 0.0)
                gained = np.where(outcome.diverged, -1.0, self._gains[index](outcome.score))
                potential[~ends] = gained
            self.seen.spent[own] += cost[own]
            cost[own] += self._owed[own]
            self._owed[own] = 0.0
            share = cost[own] / self._reference[own]
            reward[own] = potential - self._potential[own] - self.settings.cost_weight * share
            self._potential[own] = potential
            done = (self.course.epoch[own] >= np.minimum(self.course.end[own], limits.epochs)) | diverged[own]
            over[own] = stopped[own] | done
        if self.settings.pessimism:
            reward -= self.settings.pessimism * spread
        figures = {"c_bar": c_bar, "l_cum": l_cum, "score": score, "cost": cost, "spread": spread}
        if self.settings.forks:
            figures |= {name: np.nan_to_num(own) for name, own in self.forked.told(forked).items()}
        return Step(reward, over, self._figures() | figures | {"stopped": stopped, "diverged": diverged})

    def openings(self, rows: Rows) -> NDArray[np.float32]:
        """Return what agents see of some runs; see ``Runs.openings``."""
        found = np.zeros((len(rows), self.size), dtype=np.float32)
        for index, view in enumerate(self._views):
            at = np.flatnonzero(self.task[rows] == index)
            if at.size:
                own = rows[at]
                course, limits = self.course.take(own), self.limits[index].take(own)
                found[at, : view.size] = view.arrays(course, limits, self.seen.take(own))
                if self.settings.forks:
                    found[at, view.size :] = self.forked.take(own).arrays(course, limits.epochs)
        return found

    def action_masks(self) -> Flags:
        """Return which actions change something, of each run; see ``steered_masks``."""
        masks, actions, forks = [], self.settings.actions, self.settings.forks
        for row, index in enumerate(self.task.tolist()):
            own = self._all[row : row + 1]
            masks.append(steered_masks(actions, self.course.take(own), self.limits[index].take(own), forks=forks))
        return np.concatenate(masks)

    def _figures(self) -> Info:
        sizes, factor = np.zeros(self.count, dtype=np.int64), np.ones(self.count)
        for index, own in self._by_task(self._all):
            limits = self.limits[index]
            sizes[own] = np.rint(np.exp2(limits.sizes[self.course.size[own]]))
            before = self.course.take(own)
            before.epoch = np.maximum(before.epoch - 1, 0)
            factor[own] = before.factor(limits.sizes)
        return {
            "epoch": self.course.epoch.copy(),
            "batch_size": sizes,
            "lr": np.exp2(self.course.rate),
            "factor": factor,
            "quality": self._potential.copy(),
        }

    def _copy(self, source: Rows, target: Rows) -> None:
        """Have some runs stand where others stand."""
        for index in range(len(self.dynamics)):
            own = self.task[source] == index
            self._states[index].put(target[own], self._states[index].take(source[own]))
            self.limits[index].put(target[own], self.limits[index].take(source[own]))
        self.course.put(target, self.course.take(source))
        self.seen.put(target, self.seen.take(source))
        self.forked.put(target, self.forked.take(source))
        own = (self.task, self.member, self._noise, self._fork_noise, self._potential, self._owed, self._reference)
        for each in own:
            each[target] = each[source]

    def _draw(self, row: int, generator: np.random.Generator) -> tuple[Variation, Floats]:
        """Draw an episode; return how its task varies, and the noise of its scouts."""
        settings = self.settings
        index = self._draw_task(row, generator)
        dynamics, own = self.dynamics[index], self._recorded[index]
        if settings.vary:
            own = varied(own.task, self._costs[index], generator)
        if settings.start == "random":
            size = int(generator.integers(own.lowest, own.highest + 1))
            own = replace(own, start=(size, math.log2(float(generator.choice(own.task.learning_rates)))))
        shape = _SCOUTS, dynamics.epochs, dynamics.noise_size
        scouts = np.zeros(shape)
        self._noise[row] = 0.0
        if settings.noise:
            self._draw_noise(row, generator)
            if settings.start == "scouts":
                scouts = generator.standard_normal(shape)
            if settings.forks:
                self._fork_noise[row, : dynamics.epochs] = generator.standard_normal((dynamics.epochs, NOISE))
        return own, scouts

    def _begin(self, index: int, rows: Rows, drawn: Sequence[tuple[Variation, Floats]]) -> None:
        own = [variation for variation, _ in drawn]
        plans = [rule_plan(one.task.epochs, many=has_larger_batches(one.task)) for one in own]
        sizes = np.array([one.start[0] for one in own])
        rates = np.array([one.start[1] for one in own])
        epochs = np.array([one.task.epochs for one in own])
        limits = Limits(
            self.limits[index].sizes,
            np.array([one.lowest for one in own]),
            np.array([one.highest for one in own]),
            np.log2([one.task.learning_rates[0] for one in own]),
            np.log2([one.task.learning_rates[-1] for one in own]),
            epochs,
            np.array([float(plan.decay_from) for plan in plans]),
            np.array([plan.end for plan in plans]),
            np.stack([one.seconds for one in own]),
        )
        course = Course.begun(sizes, rates, epochs)
        seen = Seen.nothing(len(rows), self.seen.train.shape[1] - 1, _guessing(self.dynamics[index]))
        state = self.dynamics[index].begin(len(rows))
        self._owed[rows] = self._potential[rows] = 0.0
        self.forked.put(rows, Forked.none(len(rows)))
        if self.settings.start == "scouts":
            state = self._scouted(index, rows, drawn, (course, limits, seen, state))
        limits.slowest = np.minimum(limits.slowest, course.start_rate)
        limits.fastest = np.maximum(limits.fastest, course.start_rate)
        self._states[index].put(rows, state)
        self.limits[index].put(rows, limits)
        self.course.put(rows, course)
        self.seen.put(rows, seen)
        self._reference[rows] = limits.seconds[np.arange(len(rows)), course.start_size] * epochs

    def _scouted(
        self,
        index: int,
        rows: Rows,
        drawn: Sequence[tuple[Variation, Floats]],
        begun: tuple[Course, Limits, Seen, State],
    ) -> State:
        """Let the scouts of ``steer`` go, and have each run begin where the chosen one has come to."""
        course, limits, seen, state = begun
        parameters = SteerParameters()
        policies = [SteerPolicy(parameters) for _ in drawn]
        for policy, (own, _) in zip(policies, drawn, strict=True):
            policy.reset(own.task, None)
        parties = [_Party(policy) for policy in policies]
        while True:
            coming = [(at, asked) for at, party in enumerate(parties) if (asked := party.coming()) is not None]
            if not coming:
                break
            at = np.array([place for place, _ in coming])
            noise = np.stack([drawn[place][1][len(parties[place].scouts)] for place in at])
            self._train_scouts(index, rows[at], [parties[place] for place in at], [a for _, a in coming], noise)
        for place, (party, row) in enumerate(zip(parties, rows.tolist(), strict=True)):
            chosen = party.policy.take(party.scouts).scout if party.scouts else None
            course.size[place], course.rate[place] = _place(limits.sizes, *party.policy.start)
            if party.scouts:
                seen.told_by(place, party.scouts, chosen)
                cost = sum(
                    len(one.train_losses) * limits.seconds[place, _place(limits.sizes, one.batch_size, one.lr)[0]]
                    for one in party.scouts
                )
                seen.spent[place] = self._owed[row] = cost
                if chosen is not None:
                    scout = party.scouts[chosen]
                    done = len(scout.train_losses)
                    course.epoch[place] = done
                    seen.train[place, 1 : done + 1] = np.log(scout.train_losses)
                    seen.score[place, 1 : done + 1] = party.validated[chosen]
                    state.put(np.array([place]), party.states[chosen])
            plan = party.policy.plan
            limits.rule_from[place], limits.rule_end[place] = plan.decay_from, plan.end
        course.start_size, course.start_rate = course.size.copy(), course.rate.copy()
        course.fall_size = course.size.copy()
        return state

    def _train_scouts(
        self,
        index: int,
        rows: Rows,
        parties: "Sequence[_Party]",
        asked: Sequence[tuple[int, float, int]],
        noise: Floats,
    ) -> None:
        dynamics = self.dynamics[index]
        state = dynamics.begin(len(rows))
        sizes = self.limits[index].sizes
        placed = [_place(sizes, size, lr) for size, lr, _ in asked]
        size, rate = np.array([own[0] for own in placed]), np.array([own[1] for own in placed])
        count = np.array([epochs for _, _, epochs in asked])
        losses: list[list[float]] = [[] for _ in asked]
        scores: list[list[float]] = [[] for _ in asked]
        validated: list[list[float]] = [[] for _ in asked]
        ended: list[str | None] = [None] * len(asked)
        for epoch in range(count.max()):
            going = np.flatnonzero([epoch < own and end is None for own, end in zip(count, ended, strict=True)])
            if not going.size:
                break
            after, outcome = dynamics.train(
                state.take(going),
                size[going],
                rate[going],
                self.member[rows[going]],
                noise[going, epoch],
                factor=np.zeros(len(going)),
            )
            state.put(going, after)
            for place, at in enumerate(going.tolist()):
                losses[at].append(math.exp(after.seen[place, 1]))
                scores[at].append(float(outcome.score[place]))
                validated[at].append(float(after.seen[place, 0]))
                if outcome.diverged[place]:
                    ended[at] = "diverged"
        for at, (party, (batch_size, lr, _)) in enumerate(zip(parties, asked, strict=True)):
            party.scouts.append(Scout(batch_size, lr, tuple(losses[at]), tuple(scores[at]), ended[at]))
            party.validated.append(validated[at])
            party.states.append(state.take(np.array([at])))

    def _train(
        self, index: int, rows: Rows, asked: tuple[NDArray[np.int64], Course] | None
    ) -> tuple[State, Outcome, Flags]:
        """Train an epoch of some runs; ``asked`` is what they were told, and where they stood before, with forks."""
        course = self.course.take(rows)
        state, outcome = self._predicted(index, rows, course)
        forked = np.zeros(len(rows), dtype=np.bool_)
        if asked is not None:
            at = np.flatnonzero(forking(asked[0], asked[1], course, self.limits[index].sizes))
            if at.size:
                forked[at] = self._fork(index, rows[at], asked[1].take(at), (at, course, state, outcome))
                self.course.put(rows, course)
        self._states[index].put(rows, state)
        epoch = course.epoch + 1
        self.course.epoch[rows] = epoch
        self.seen.score[rows, epoch], self.seen.train[rows, epoch] = state.seen[:, 0], state.seen[:, 1]
        return state, outcome, forked

    def _predicted(self, index: int, rows: Rows, course: Course) -> tuple[State, Outcome]:
        """Return what an epoch does to some runs where they go on in some way; they stay as they are."""
        dynamics = self.dynamics[index]
        factor = np.log2(course.factor(self.limits[index].sizes))
        noise = self._noise[rows, course.epoch, : dynamics.noise_size]
        state = self._states[index].take(rows)
        return dynamics.train(state, course.size, course.rate, self.member[rows], noise, factor=factor)

    def _fork(self, index: int, rows: Rows, stays: Course, tried: tuple[Rows, Course, State, Outcome]) -> Flags:
        """Train runs as they were to be, too, and put that in place of what was tried where the test says so.

        Args:
            index: their task.
            rows: the runs.
            stays: how they would have gone on.
            tried: places of these runs, course, state and outcome of more of them after what was tried.

        Returns:
            Whether there was something to try: they have not diverged as they were, shape (rows,).
        """
        at, course, state, outcome = tried
        kept, told = self._predicted(index, rows, stays)
        made = ~told.diverged
        loss, ratio = np.exp(kept.seen[:, 0]), np.exp(state.seen[at, 0] - kept.seen[:, 0])
        change, error = measured(ratio, outcome.scatter[at], self._fork_noise[rows, stays.epoch])
        difference = np.expm1(change)
        difference[outcome.diverged[at]] = np.nan
        taken = made & no_worse(1.0, difference, error)
        size = np.where(taken, stays.size, course.size[at])
        steps = self._steps[index][size]
        lost = self.limits[index].seconds[rows, size]
        said = Forked(stays.epoch.astype(np.float64), loss, loss * difference, loss * error, taken * 1.0, lost, steps)
        self.forked.put(rows[made], said.take(np.flatnonzero(made)))
        back = np.flatnonzero(~taken)
        state.put(at[back], kept.take(back))
        course.put(at[back], stays.take(back))
        for name in ("score", "cost", "spread", "diverged", "scatter"):
            getattr(outcome, name)[at[back]] = getattr(told, name)[back]
        return made

    @staticmethod
    def _load(env: str, settings: SteeredSettings) -> Dynamics:
        return load_steered(env, settings.without)


class _Party:
    """The scouts of one run."""

    def __init__(self, policy: SteerPolicy) -> None:
        self.policy = policy
        self.scouts: list[Scout] = []
        self.validated: list[list[float]] = []
        self.states: list[State] = []

    def coming(self) -> tuple[int, float, int] | None:
        """Return batch size, rate and epochs of the next scout; None where all have gone."""
        plan = self.policy.scouts(self.scouts)
        if len(self.scouts) >= min(len(plan.configurations), _SCOUTS):
            return None
        return (*plan.configurations[len(self.scouts)], plan.epochs)


def _steered_task(dynamics: Dynamics) -> TaskInfo:
    return replace(dynamics.task, steered=True, guessing=math.exp(dynamics.guessing[0]))


def _guessing(dynamics: Dynamics) -> float:
    """Return the logarithm of what guessing scores."""
    return float(dynamics.guessing[0 if dynamics.task.score == "validation_loss" else 2])


def _epoch_steps(task: TaskInfo) -> Floats:
    """Return the steps of an epoch at each rung."""
    return np.array([float(steps_per_epoch(task.train_size, size)) for size in task.batch_sizes])


def _limits(task: TaskInfo, costs: Floats, count: int) -> Limits:
    nothing = np.zeros(count, dtype=np.int64)
    return Limits(
        np.log2(np.asarray(task.batch_sizes, dtype=np.float64)),
        nothing,
        nothing + len(task.batch_sizes) - 1,
        np.zeros(count),
        np.zeros(count),
        nothing + task.epochs,
        np.zeros(count),
        nothing + task.epochs,
        np.tile(costs, (count, 1)),
    )


def _place(sizes: Floats, batch_size: int, lr: float) -> tuple[int, float]:
    return int(np.abs(sizes - math.log2(batch_size)).argmin()), math.log2(lr)

"""One real training whose schedule and end are the agent's: what ``AutoBatch/Train-v1`` steps."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autobatch.envs.steered._actions import as_parts, check_steered, steered_masks
from autobatch.envs.steered._real_forks import Side, fork_by_hand
from autobatch.envs.train import TrainedEpisode, TrainingRules, train_epoch
from autobatch.policies import Scout, ScoutPlan, SteerParameters, SteerPolicy, TaskInfo
from autobatch.policies.general import Course, CourseView, Forked, Limits, Seen, forking, rule_plan
from autobatch.policies.steer._search import has_larger_batches, start_without_scouts
from autobatch.training import EpochRow
from autobatch.training._trial import Trial
from autobatch.training.running._scout_runs import train_scout


@dataclass(frozen=True, eq=False)
class SteeredRules(TrainingRules):
    """What all episodes of an environment share; beacons are left out.

    Attributes:
        info: the task as a policy would know it.
        gain: potential of a score.
        weight: what a whole training's cost weighs in the reward.
        seconds: what an epoch costs at each rung as far as it is known before, shape (rungs,).
        scouts: whether the scouts of ``steer`` go first.
        forks: whether actions may be tried.
    """

    info: TaskInfo
    gain: Callable[[Any], Any]
    weight: float
    seconds: NDArray[np.float64]
    scouts: bool
    forks: bool


class SteeredEpisode(TrainedEpisode[SteeredRules]):
    """One training, an epoch a step.

    Args:
        rules: what the episodes share.
        seed: the training's seed.
    """

    keeps = ("_course", "_limits", "_seen", "_stopped", "_owed", "_forked", "_has_forked")
    _course: Course

    def __init__(self, rules: SteeredRules, seed: int) -> None:
        super().__init__(rules, seed)
        self._owed = 0.0
        self._stopped = False
        self._forked, self._has_forked = Forked.none(1), False
        self._view = CourseView(rules.info.train_size, adaptive=rules.info.adaptive)
        self._seen = Seen.nothing(1, rules.info.epochs, math.log(rules.info.guessing or math.nan))
        self._lay(start_without_scouts(rules.info), rule_plan(rules.info.epochs, many=has_larger_batches(rules.info)))

    def begin(self) -> None:
        """Send scouts, where the rules have some."""
        if self.rules.scouts:
            self._send_scouts()

    @property
    def finished(self) -> bool:
        """Whether the agent has stopped, the rate has come to nothing, the last epoch is done, or it has diverged."""
        course = self._course
        return self._stopped or self._trial.finished or int(course.epoch[0]) >= int(course.end[0])

    @property
    def configuration(self) -> tuple[int, float]:
        """Batch size and base learning rate, before its fall, in force."""
        size = self.rules.setting.task.batch_sizes[int(self._course.size[0])]
        return size, float(np.exp2(self._course.rate[0]))

    @property
    def reference(self) -> float:
        """Cost of the whole task at the batch size that the training began with."""
        return self.rules.pricing.whole(self.rules.setting.task.batch_sizes[int(self._course.start_size[0])])

    def act(self, actions: str, action: Any) -> float:
        """Do what an action says, and train an epoch unless it says stop.

        Args:
            actions: the kind of action.
            action: the action.

        Returns:
            The reward.
        """
        parts = as_parts(actions, check_steered(actions, action, forks=self.rules.forks)[None])
        before = self._course.take(np.array([0]))
        stopped = bool(self._course.advance(parts, self._limits)[0])
        cost, potential, self._owed, self._has_forked = self._owed, self.quality, 0.0, False
        if stopped:
            self._stopped = True
        else:
            forks = self.rules.forks and bool(forking(parts, before, self._course, self._limits.sizes)[0])
            row, epoch_cost = self._fork(before) if forks else self._train()
            self._saw(row, epoch_cost)
            cost += epoch_cost
            score = getattr(row, self.rules.setting.task.score)
            potential = -1.0 if self.diverged else float(self.rules.gain(score))
        gained = potential - self.quality - self.rules.weight * cost / self.reference
        self.quality = potential
        self.costs.append(cost)
        self.rewards.append(gained)
        return gained

    def masks(self, actions: str) -> NDArray[np.bool_]:
        """Return which actions change what they say, shape (choices,)."""
        masks: NDArray[np.bool_] = steered_masks(actions, self._course, self._limits, forks=self.rules.forks)[0]
        return masks

    def observation(self) -> NDArray[np.float32]:
        """Return the flat view of where the training stands, a new array each time."""
        seen: NDArray[np.float32] = self._view.arrays(self._course, self._limits, self._seen)[0]
        if self.rules.forks:
            seen = np.concatenate([seen, self._forked.arrays(self._course, self._limits.epochs)[0]])
        return seen

    def figures(self) -> dict[str, Any]:
        """Return plain figures by name; one that is not known or not finite is left out."""
        row = self.rows[-1] if self.rows else None
        told = self._forked.told(np.array([self._has_forked])) if self.rules.forks else {}
        return self._figures(
            progress=len(self.rows) / self.rules.info.epochs,
            cost_total=math.fsum(self.costs) + self._owed,
            stopped=self._stopped,
            **({} if row is None else {"factor": row.lr_effective / row.lr}),
            **{name: own.item() for name, own in told.items()},
        )

    def _train(self) -> tuple[EpochRow, float]:
        """Train an epoch; return its figures and its cost."""
        side, start = self._side(self._course), time.perf_counter()
        row = self._carry_out(lambda: train_epoch(self._trial, *side))
        return row, self.rules.pricing.epoch(side[0], time.perf_counter() - start)

    def _fork(self, before: Course) -> tuple[EpochRow, float]:
        """Train an epoch as it was to be, and as the action says; return the figures of one and the cost of both."""
        stays, tried, pricing = self._side(before), self._side(self._course), self.rules.pricing
        start = time.perf_counter()
        row, record = self._carry_out(lambda: fork_by_hand(self._trial, stays, tried))
        seconds = time.perf_counter() - start
        if record is None or not record.taken:
            self._course = before
        if record is None:
            return row, pricing.epoch(stays[0], seconds)
        kept, thrown = (tried, stays) if record.taken else (stays, tried)
        lost = pricing.epoch(thrown[0], record.seconds)
        said = (record.loss, record.difference, record.standard_error, record.taken, lost, record.optimizer_steps)
        self._forked, self._has_forked = Forked(*np.array([(record.epoch, *said)], dtype=np.float64).T), True
        return row, pricing.epoch(kept[0], seconds - record.seconds) + lost

    def _side(self, course: Course) -> Side:
        size, factor = self.rules.info.batch_sizes[int(course.size[0])], course.factor(self._limits.sizes)
        return size, float(np.exp2(course.rate[0])), float(factor[0])

    def _lay(self, start: tuple[int, float], plan: Any) -> None:
        info = self.rules.info
        size, rate = info.batch_sizes.index(start[0]), math.log2(start[1])
        self._limits = Limits(
            np.log2(np.asarray(info.batch_sizes, dtype=np.float64)),
            np.array([0]),
            np.array([len(info.batch_sizes) - 1]),
            np.array([min(rate, math.log2(info.learning_rates[0]))]),
            np.array([max(rate, math.log2(info.learning_rates[-1]))]),
            np.array([info.epochs]),
            np.array([float(plan.decay_from)]),
            np.array([plan.end]),
            self.rules.seconds[None],
        )
        self._course = Course.begun(np.array([size]), np.array([rate]), np.array([info.epochs]))

    def _send_scouts(self) -> None:
        """Train scouts, and go on with the one that is chosen."""
        info, pricing = self.rules.info, self.rules.pricing
        policy = SteerPolicy(SteerParameters())
        policy.reset(info, None)
        parties: list[tuple[Trial, list[EpochRow]]] = []
        scouts: list[Scout] = []
        while True:
            plan: ScoutPlan = policy.scouts(scouts)
            if len(scouts) >= len(plan.configurations):
                break
            key = plan.configurations[len(scouts)]
            trial, rows = self._carry_out(self._new_trial), list[EpochRow]()
            epoch = partial(_train_into, rows, trial, key)
            train = partial(train_scout, trial, epoch, rows, plan=plan, key=key, others=tuple(scouts))
            start = time.perf_counter()
            scouts.append(self._carry_out(train))
            seconds = (time.perf_counter() - start) / max(len(rows), 1)
            self._owed += len(rows) * pricing.epoch(key[0], seconds)
            parties.append((trial, rows))
        if not scouts:
            return
        chosen = policy.take(scouts).scout
        self._lay(policy.start, policy.plan)
        self._seen.told_by(0, scouts, chosen)
        self._seen.spent[0] = self._owed
        for place, (trial, rows) in enumerate(parties):
            if place == chosen:
                self._trial.controller.close()
                self._trial = trial
                for row in rows:
                    self._saw(row, 0.0)
            else:
                trial.controller.close()

    def _saw(self, row: EpochRow, cost: float) -> None:
        self.rows.append(row)
        self._course.epoch = self._course.epoch + 1
        epoch = int(self._course.epoch[0])
        with np.errstate(divide="ignore", invalid="ignore"):
            self._seen.train[0, epoch] = np.log(row.train_loss)
            self._seen.score[0, epoch] = np.log(row.validation_loss)
        self._seen.spent[0] += cost


def _train_into(rows: list[EpochRow], trial: Trial, key: tuple[int, float]) -> None:
    rows.append(train_epoch(trial, *key, factor=1.0))

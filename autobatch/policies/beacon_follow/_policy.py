"""Steer by the beacons: the fastest configuration that is still predicted to end nearly as well as the best.

For every (batch size, learning rate) on the ladder the beacons say where C̄ and L would end, the landscape says which
final score such an end has, and the cost table says how long it would take. The rule that picks one is in
``_corridor.py``; ``docs/concepts/beacon-follow.md`` has the equations.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from autobatch._errors import CheckpointError, ConfigError
from autobatch.beacons import BeaconLibrary, Landscape, Standing, forecast
from autobatch.policies._parameters import PolicyParameters
from autobatch.policies._protocol import Candidate, Decision, Observation, TaskInfo
from autobatch.policies._registry import register_policy
from autobatch.policies._wording import configuration, count
from autobatch.policies.beacon_follow._corridor import Choice, CorridorRule, Weighed, best_of, choose
from autobatch.policies.beacon_follow._telling import Teller
from autobatch.policies.beacon_follow._trust import told_mismatch
from autobatch.policies.steer import (
    Fork,
    Scout,
    ScoutChoice,
    ScoutPlan,
    SteerParameters,
    SteerPolicy,
)


class BeaconFollowParameters(PolicyParameters):
    """Parameters of the kind ``beacon-follow``."""

    tolerance: float = Field(
        default=0.05,
        ge=0,
        le=10,
        description="Width of the corridor: share by which the upper end of a candidate's predicted score may exceed "
        "that of the best. The current choice leaves the corridor at twice this share.",
    )
    standard_errors: float = Field(
        default=1.0,
        ge=0,
        le=10,
        description="Standard errors above the predicted score at which a candidate's upper end lies.",
    )
    min_gain: float = Field(
        default=0.05, ge=0, lt=1, description="Share of the remaining time that a change must save to be made."
    )
    cooldown: int = Field(default=2, ge=1, description="Epochs that every choice lasts for at least.")
    max_rungs: int = Field(
        default=1, ge=1, description="Rungs of the ladder, and of the learning rates, that one change may take."
    )
    landscape: Literal["gaussian-process", "nearest"] = Field(
        default="gaussian-process", description="Rule that predicts the final score over the plane."
    )
    without_beacons: SteerParameters = Field(
        default_factory=SteerParameters, description="What is done for a task that has no beacons, as kind 'steer'."
    )


@register_policy(
    "beacon-follow",
    BeaconFollowParameters,
    changes="batch size, rate; without beacons the end",
    when="Beacons of this very task are there, for many trainings of it; without them it does as steer.",
)
class BeaconFollowPolicy(SteerPolicy):
    """Follow the beacons, see the module and ``docs/concepts/beacon-follow.md``; without any, do as ``steer``."""

    needs_library = True

    def __init__(self, parameters: BeaconFollowParameters) -> None:
        super().__init__(parameters.without_beacons)
        self._follow = parameters
        self._run: _Run | None = None

    def reset(self, task: TaskInfo, library: BeaconLibrary | None) -> None:
        """Fit the landscape, and note what the beacons promise before training; without beacons, steer as ``steer``.

        Args:
            task: the task about to start.
            library: its beacons; None where there are none.

        Raises:
            ConfigError: none of the beacons lies on the task's ladder and rates, or the cost table lacks a batch size.
        """
        super().reset(task, None)
        self._changed_at = 0
        self._shares: dict[tuple[int, float], float] = {}
        self._losses: dict[int, float] = {}
        self._mismatch = ""
        self._run = None if library is None else _Run(self._follow, task, library)

    @property
    def planned_epochs(self) -> int | None:
        """Decision periods after which training is planned to end; None where beacons are there, and nothing is."""
        return super().planned_epochs if self._run is None else None

    def begin_from(self, library: BeaconLibrary) -> None:
        """Start from the best of beacons of the same task that trained longer or shorter, and steer from there.

        At another length neither a position nor a final score of theirs can be held against this run's; which of them
        was best still says more than scouts do.

        Args:
            library: the beacons.

        Raises:
            LibraryError: every configuration has a diverged seed.
            RuntimeError: this run has beacons of its own length.
        """
        best = library.best_fixed()
        lr = self.rate_at_another_length(best.lr, library.epochs or 0)
        task = self._known_task()
        reason = (
            f"the best of {count(len(library.beacons), 'beacon')} of this task, which trained "
            f"{count(library.epochs or 0, 'epoch')}"
        )
        if lr != best.lr:
            reason = (
                f"{configuration(best.batch_size, best.lr)} was {reason}, and a training of {task.told(task.epochs)} "
                f"wants a {'higher' if lr > best.lr else 'lower'} rate"
            )
        self.begin(best.batch_size, lr, f"{configuration(best.batch_size, lr)}: {reason}")

    def scouts(self, done: Sequence[Scout] = ()) -> ScoutPlan:
        """Return the short trainings to make first: none where there are beacons.

        Args:
            done: those that have been made.

        Returns:
            The plan.
        """
        return super().scouts(done) if self._run is None else ScoutPlan((), 1)

    def take(self, scouts: Sequence[Scout]) -> ScoutChoice:
        """Choose among the scouts, and go on from there.

        Args:
            scouts: what they came to.

        Returns:
            The choice.

        Raises:
            RuntimeError: there are beacons, so none was asked for.
        """
        if self._run is not None:
            raise RuntimeError("this run has beacons and asked for no scouts and no forks")
        return super().take(scouts)

    def fork(self, observation: Observation) -> Fork | None:
        """Return what to try beside what is in force: nothing where there are beacons.

        Args:
            observation: where the run stands.

        Returns:
            The fork.
        """
        return super().fork(observation) if self._run is None else None

    @property
    def best_period(self) -> int | None:
        """Finished epochs after which the weights are worth keeping, where nothing but ``steer`` decides."""
        return super().best_period if self._run is None else None

    def decide(self, observation: Observation) -> Decision:
        """Weigh every candidate and choose.

        Args:
            observation: where the run stands.

        Returns:
            The decision, with all candidates as its alternatives.

        Raises:
            RuntimeError: ``reset`` was not called.
        """
        run = self._run
        if run is None:
            return super().decide(observation)
        used = (observation.batch_size, observation.lr)
        if self._misled(observation):
            return _stay(observation, self._mismatch)
        if new := max(observation.progress - math.fsum(self._shares.values()), 0.0):
            self._shares[used] = self._shares.get(used, 0.0) + new
        decision = run.decide(observation, self._shares, epochs_since_change=observation.epoch - self._changed_at)
        if (decision.batch_size, decision.lr) != used:
            self._changed_at = observation.epoch
        return decision

    def _misled(self, observation: Observation) -> bool:
        """Say whether the beacons are of another training; only what has not changed since its start can tell."""
        if not self._mismatch and self._run is not None and observation.epoch and not self._changed_at:
            self._losses[observation.epoch] = observation.train_loss
            used = (observation.batch_size, observation.lr)
            self._mismatch = told_mismatch(self._run.library, used, self._losses)
        return bool(self._mismatch)

    def state_dict(self) -> dict[str, Any]:
        """Return the last change, the share of the training under each configuration, and whether the beacons fit."""
        return {
            "changed_at": self._changed_at,
            "shares": [[*used, share] for used, share in self._shares.items()],
            "train_losses": [[epoch, loss] for epoch, loss in self._losses.items() if math.isfinite(loss)],
            "mismatch": self._mismatch,
            "steer": super().state_dict() if self._run is None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the epoch of the last change and the shares.

        Args:
            state: what ``state_dict`` returned.

        Raises:
            CheckpointError: it is of a run that began with beacons and has none now, or the other way round.
        """
        steer = state.get("steer")  # states of older versions have none
        if (steer is None) != (self._run is not None):
            begun, now = ("without", "they are there") if steer is not None else ("with", "they are missing")
            raise CheckpointError(
                f"policy 'beacon-follow' began this run {begun} beacons of the task, and now {now}: it cannot go on"
            )
        self._changed_at = int(state["changed_at"])
        if steer is not None:
            super().load_state_dict(steer)
        used = state.get("shares", ())  # states of older versions have none
        self._shares = {(int(size), float(lr)): float(share) for size, lr, share in used}
        self._losses = {int(epoch): float(loss) for epoch, loss in state.get("train_losses", ())}
        self._mismatch = str(state.get("mismatch", ""))


class _Run:
    """What stays the same through one run: the landscape, the candidates, and what was promised."""

    def __init__(self, parameters: BeaconFollowParameters, task: TaskInfo, library: BeaconLibrary) -> None:
        self.parameters = parameters
        self.task = task
        self.library = library
        self.configurations = _candidates(task, library)
        self.landscape = Landscape.fit(library, rule=parameters.landscape)
        self.rule = CorridorRule(parameters.tolerance, parameters.min_gain, parameters.max_rungs)
        self.teller = Teller(task.score, task.costs is not None, self.rule)
        start = Standing(progress=0.0, c_bar=math.nan, l_cum=0.0, steps=0.0)
        best = best_of(self.weigh(start, task.epochs, {}))
        self.promised = best.upper if best else -math.inf

    def decide(
        self, observation: Observation, shares: Mapping[tuple[int, float], float], epochs_since_change: int
    ) -> Decision:
        """Return the decision, given what the training has used so far and how long ago the last change was."""
        epochs_left = self.task.epochs - observation.epoch
        started = observation.batch_size > 0
        if started and epochs_left <= 0:
            return _stay(observation, "the training is over")
        if started and not (observation.c_bar > 0 and observation.l_cum > 0):
            return _stay(observation, "C̄ and L have not been measured yet, so nothing can be predicted")
        weighed = self.weigh(observation, epochs_left, shares)
        current = (observation.batch_size, observation.lr) if started else None
        choice = choose(weighed, current, self.promised, self.rule)
        reason = self.teller.tell(choice, observation, epochs_left)
        alternatives = tuple(one.candidate for one in weighed)
        if choice.chosen is None:
            return self._nothing_known(observation, reason, alternatives)
        hindrance = self._hindrance(epochs_since_change, epochs_left)
        if started and choice.chosen is not choice.current and hindrance:
            return _wait(observation, choice, f"{hindrance}; otherwise {reason}", alternatives)
        chosen = choice.chosen.candidate
        return Decision(chosen.batch_size, chosen.lr, reason, (chosen.c_bar, chosen.l_cum), alternatives)

    def _hindrance(self, epochs_since_change: int, epochs_left: int) -> str | None:
        """Return why no change is allowed now, where none is: every choice lasts for ``cooldown`` epochs."""
        cooldown = self.parameters.cooldown
        if epochs_since_change < cooldown:
            return f"for {count(cooldown - epochs_since_change, 'epoch')} more, since it is new"
        if epochs_left < cooldown:
            rest = "epoch" if epochs_left == 1 else f"{epochs_left} epochs"
            return f"for the last {rest}, too late for a change"
        return None

    def weigh(
        self, here: Observation | Standing, epochs_left: int, shares: Mapping[tuple[int, float], float]
    ) -> list[Weighed]:
        """Predict the end, the score and the cost of every candidate.

        Args:
            here: where the run stands.
            epochs_left: epochs until the end of training.
            shares: share of the training under each configuration so far.

        Returns:
            All candidates, by batch size and learning rate.
        """
        ends = [forecast(self.library, here, batch_size, lr) for batch_size, lr in self.configurations]
        rest = 1.0 - here.progress
        wholes = [{**shares, own: shares.get(own, 0.0) + rest} for own in self.configurations]
        predicted = self.landscape.predict([end.c_bar for end in ends], [end.l_cum for end in ends], wholes)
        uppers = predicted.score + self.parameters.standard_errors * predicted.uncertainty
        seconds = [
            self._seconds(batch_size, end.steps_left, epochs_left)
            for (batch_size, _), end in zip(self.configurations, ends, strict=True)
        ]
        return [
            Weighed(
                Candidate(
                    batch_size=batch_size,
                    lr=lr,
                    c_bar=end.c_bar,
                    l_cum=end.l_cum,
                    score=float(predicted.score[index]),
                    uncertainty=float(predicted.uncertainty[index]),
                    seconds=seconds[index],
                    known=bool(predicted.known[index]),
                ),
                upper=float(uppers[index]),
                cost=end.steps_left if self.task.costs is None else seconds[index],
            )
            for index, ((batch_size, lr), end) in enumerate(zip(self.configurations, ends, strict=True))
        ]

    def _seconds(self, batch_size: int, steps: float, epochs: int) -> float:
        """Return the time for the rest, with measuring at its full budget; NaN without a cost table."""
        costs = self.task.costs
        if costs is None:
            return math.nan
        return costs.training_seconds(batch_size, steps, epochs) * (1.0 + self.task.measuring_budget)

    def _nothing_known(self, observation: Observation, reason: str, alternatives: tuple[Candidate, ...]) -> Decision:
        if observation.batch_size > 0:
            return Decision(observation.batch_size, observation.lr, reason, None, alternatives)
        score = self.library.score
        recorded = {(result.batch_size, result.lr): result.mean[score] for result in self.library.results()}
        best = min(self.configurations, key=lambda configuration: recorded[configuration])
        return Decision(*best, f"{reason}, {configuration(*best)}", None, alternatives)


def _candidates(task: TaskInfo, library: BeaconLibrary) -> list[tuple[int, float]]:
    """Return the configurations that may be chosen.

    Args:
        task: the task with its ladder and rates.
        library: its beacons.

    Returns:
        Every recorded (batch size, learning rate) on the ladder and the rates of which no seed diverged.

    Raises:
        ConfigError: there is none.
    """
    sound = {(result.batch_size, result.lr) for result in library.results() if not result.diverged}
    found = [(size, lr) for size in task.batch_sizes for lr in task.learning_rates if (size, lr) in sound]
    if found:
        return found
    ladder = ", ".join(str(size) for size in task.batch_sizes)
    rates = ", ".join(f"{lr:g}" for lr in task.learning_rates)
    raise ConfigError(
        f"policy 'beacon-follow' cannot steer: the beacon library of '{library.task_name}' has no finished beacon at "
        f"any batch size of {ladder} with a learning rate of {rates}; record them with 'autobatch beacons record'"
    )


def _stay(observation: Observation, reason: str) -> Decision:
    stay = configuration(observation.batch_size, observation.lr)
    return Decision(observation.batch_size, observation.lr, f"{reason}: stay with {stay}")


def _wait(observation: Observation, choice: Choice, reason: str, alternatives: tuple[Candidate, ...]) -> Decision:
    """Keep the present choice although the rule would change it.

    Args:
        observation: where the run stands.
        choice: what would have been chosen.
        reason: why it is kept, and why it would have been changed.
        alternatives: all candidates.

    Returns:
        The decision to stay.
    """
    stay = configuration(observation.batch_size, observation.lr)
    target = None if choice.current is None else (choice.current.candidate.c_bar, choice.current.candidate.l_cum)
    return Decision(observation.batch_size, observation.lr, f"stay with {stay} {reason}", target, alternatives)

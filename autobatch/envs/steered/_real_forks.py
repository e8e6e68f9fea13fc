"""A fork of a real training: the coming epoch under two configurations, by the code and the test of a run's forks."""

from typing import Any

from autobatch.policies import Observation
from autobatch.policies.steer import Fork, ForkChoice, Forking, ForkOutcome, ForkRule
from autobatch.training import EpochRow
from autobatch.training._trial import Trial
from autobatch.training.running._forking import ForkRecord, fork_epoch

Side = tuple[int, float, float]
"""What an epoch is trained under: batch size, base learning rate, and what multiplies it."""


def fork_by_hand(trial: Trial, stays: Side, tried: Side) -> tuple[EpochRow, ForkRecord | None]:
    """Train the coming epoch under what is in force and under something else, as ``autobatch run`` forks.

    Args:
        trial: a training that is steered by hand.
        stays: what is in force.
        tried: what is tried beside it.

    Returns:
        The epoch that the training has gone on with, and what the fork came to; None where the training diverged under
        what was in force.
    """
    trial.decide(*stays[:2], "chosen by the agent", factor=stays[2])
    forked = fork_epoch(trial, _ByTest(trial, stays, tried), Fork(*tried[:2]), lambda step, steps: None)
    return forked.kept.row, forked.record


class _ByTest(Forking):
    """Chooses by the paired test of ``steer``; the training itself keeps what it was told."""

    def __init__(self, trial: Trial, stays: Side, tried: Side) -> None:
        self._trial, self._stays, self._tried = trial, stays, tried

    def turn(self, fork: Fork) -> None:
        self._trial.decide(fork.batch_size, fork.lr, "tried by the agent", factor=self._tried[2])

    def judge(self, fork: Fork, outcome: ForkOutcome, observation: Observation) -> ForkChoice:
        return ForkRule.choice(*self._stays[:2], fork, outcome)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass

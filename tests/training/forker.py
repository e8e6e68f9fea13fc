"""A policy that forks and is not ``steer``."""

from typing import Any

import pytest

from autobatch.policies import Decision, Observation
from autobatch.policies.baselines import FixedParameters, FixedPolicy
from autobatch.policies.steer import Fork, ForkChoice, ForkOutcome


class Forker(FixedPolicy):
    """Stays at 16, and tries 32 in its first two epochs."""

    tried: Fork | None = None

    def __init__(self) -> None:
        super().__init__(FixedParameters(batch_size=16, lr=0.1))

    def decide(self, observation: Observation) -> Decision:
        """Return what is fixed, or what is tried."""
        tried = self.tried
        return super().decide(observation) if tried is None else Decision(tried.batch_size, tried.lr, "a try")

    def state_dict(self) -> dict[str, Any]:
        """Return what is tried."""
        return {"tried": self.tried}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what is tried."""
        self.tried = state["tried"]

    def fork(self, observation: Observation) -> Fork | None:
        """Return 32 in the first two epochs."""
        return Fork(32, 0.1) if observation.epoch < 2 else None

    def turn(self, fork: Fork) -> None:
        """Take the fork."""
        self.tried = fork

    def judge(self, fork: Fork, outcome: ForkOutcome, observation: Observation) -> ForkChoice:
        """Stay."""
        return ForkChoice(False, "it was only a try")


def in_place_of_any(patch: pytest.MonkeyPatch) -> None:
    """Have every run follow it, whatever its configuration says."""
    patch.setattr("autobatch.training.running._carry_out.make_policy", lambda spec: Forker())

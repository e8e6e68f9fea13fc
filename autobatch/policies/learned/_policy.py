"""Policies that were learned: a small network looks at the flat view and says how far to move on both ladders."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autobatch.beacons import BeaconLibrary
from autobatch.policies._moves import Moves, decode
from autobatch.policies._parameters import PolicyParameters, Weights, after_reset
from autobatch.policies._protocol import Decision, Observation, TaskInfo
from autobatch.policies._registry import register_policy
from autobatch.policies._wording import configuration, percent
from autobatch.policies.learned._files import (
    check_card_kind,
    check_ladders,
    check_same_weights,
    check_size,
    load_learned,
)
from autobatch.policies.learned._telling import influences
from autobatch.policies.view import ENTRIES, ObservationView, Trail


class LearnedParameters(PolicyParameters):
    """Parameters of the kind ``learned``."""

    weights: Weights


@register_policy(
    "learned",
    LearnedParameters,
    changes="batch size, rate",
    when="To see what was learned; no gain over beacon-follow was found.",
)
class LearnedPolicy:
    """Make the moves that a learned network rates highest.

    Beacons are used where there are some: the view tells the network where they lie, and masks them where there are
    none.
    """

    needs_library = False

    def __init__(self, parameters: LearnedParameters) -> None:
        self.parameters = parameters
        self.network, self.card = load_learned(parameters.weights)
        check_card_kind(parameters.weights, self.card, "learned")
        self._view: ObservationView | None = None

    def reset(self, task: TaskInfo, library: BeaconLibrary | None) -> None:
        """Check the task's ladders against those the policy runs on, and prepare the view.

        Args:
            task: the task about to start.
            library: its beacons, where there are some.

        Raises:
            ConfigError: the policy was learned for another ladder, other learning rates, or another view.
        """
        check_ladders(self.parameters.weights, self.card, task)
        self._view = ObservationView(task, library)
        check_size(self.parameters.weights, self.card, self._view.size)
        self._trail: Trail | None = None
        self._without_beacons = library is None

    def decide(self, observation: Observation) -> Decision:
        """Make the moves with the highest logits.

        Args:
            observation: where the run stands.

        Returns:
            The decision; its reason says how sure the network is and what it went by.

        Raises:
            RuntimeError: ``reset`` was not called.
        """
        view = after_reset(self._view)
        self._trail = view.follow(self._trail, observation)
        entries = view.array(observation, self._trail)
        logits, weights = self.network.weigh(entries)
        moves = Moves(view.task.batch_sizes, view.task.learning_rates)
        before = moves.rungs(observation.batch_size, observation.lr)
        wanted = tuple(int(move) for move in decode(self.card.actions, self.network.choose(logits)))
        rungs = tuple(int(rung) for rung in moves.apply(*before, *wanted))
        batch_size, lr = moves.at(*rungs)
        held = [want != after - old for want, after, old in zip(wanted, rungs, before, strict=True)]
        change = configuration(batch_size, lr)
        if observation.batch_size == 0:
            change = f"start with {change}"
        elif rungs != before:
            change = f"{configuration(*moves.at(*before))} -> {change}"
        else:
            change = f"stay with {change}"
        reason = f"{change}: {self._moves(wanted, held, logits)}; {influences(entries, weights, ENTRIES)}"
        if self._without_beacons and observation.epoch == 0:
            reason += "; there are no beacons to go by"
        return Decision(batch_size, lr, reason=reason)

    def state_dict(self) -> dict[str, Any]:
        """Return what the view must remember between decisions, and which weights decide."""
        return {"trail": None if self._trail is None else self._trail.to_dict(), "sha256": self.card.sha256}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what the view must remember.

        Args:
            state: what ``state_dict`` returned.

        Raises:
            CheckpointError: other weights decided then.
        """
        check_same_weights(self.parameters.weights, self.card, state["sha256"])
        self._trail = None if state["trail"] is None else Trail.from_dict(state["trail"])

    def _moves(self, wanted: tuple[int, ...], held: list[bool], logits: NDArray[np.float32]) -> str:
        sure = [percent(round(share, 2)) for share in self.network.confidence(logits)]
        told = [
            f"{name} {_move(move)}{' (the ladder ends here)' if stopped else ''}"
            for name, move, stopped in zip(("batch size", "learning rate"), wanted, held, strict=True)
        ]
        if len(sure) == 1:
            return f"{' and '.join(told)} ({sure[0]} sure)"
        return ", ".join(f"{part} ({share} sure)" for part, share in zip(told, sure, strict=True))


def _move(rungs: int) -> str:
    if rungs == 0:
        return "as it is"
    return f"{'one rung' if abs(rungs) == 1 else 'two rungs'} {'up' if rungs > 0 else 'down'}"

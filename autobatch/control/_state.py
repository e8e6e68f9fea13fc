"""What a restart needs of a training, and how a training goes on from it."""

from collections.abc import Mapping
from typing import Any

from autobatch._errors import CheckpointError, ConfigError
from autobatch.control._training import Training

SCOUT = "scout"
"""Key that the state of a scout's controller has besides, so that another one knows how to go on from it."""

_VERSION = 3


def state_of(training: Training) -> dict[str, Any]:
    """Return what a restart needs, in JSON-able values; refused within a step."""
    training.stepping.refuse_inside("state_dict()")
    return {
        "version": _VERSION,
        "identity": training.identity(),
        "course": training.course.state_dict(),
        "period": training.period.state_dict(),
        "stopped": training.course.stopped,
        "decisions": training.decisions.state_dict(),
        "micro_batches": training.passage.micro.state_dict(),
        "measuring": training.measured.state_dict(),
        **training.account.state_dict(),
    }


def restore(training: Training, state: dict[str, Any]) -> None:
    """Have a training go on from what ``state_of`` returned.

    Args:
        training: the training.
        state: the state, of a training with the same identity.

    Raises:
        AutoBatchError: a step has begun and is not ended.
        CheckpointError: the state is damaged, of another version, or of another training.
    """
    training.stepping.refuse_inside("load_state_dict()")
    if not isinstance(state, Mapping):
        raise CheckpointError(f"controller state: expected what state_dict() returned, got {state!r}")
    training.stepping.leave_batch()
    adopted = bool(state.get(SCOUT))
    if adopted:
        state = adopted_state(state, training.settings.policy.state_dict())
    try:
        if state["version"] != _VERSION:
            raise CheckpointError(f"controller state: expected version {_VERSION}, got {state['version']!r}")
        _check_identity(state["identity"], training.identity())
        stopped = None if state["stopped"] is None else str(state["stopped"])
        training.course.load_state_dict(state["course"])
        training.period.load_state_dict(state["period"])
        training.decisions.load_state_dict(state["decisions"], training.course.waiting)
        training.passage.micro.load_state_dict(state["micro_batches"])
        training.measured.load_state_dict(state["measuring"])
        training.account.load_state_dict(state)
    except (LookupError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"controller state is damaged: {error!r}") from None
    training.course.stopped = stopped
    training.rewinding.leave(training.account.periods)
    training.feed.break_off()
    training.recorder.resume(training.course.examples, training.account.seconds)
    training.log.resume(
        progress=training.course.progress,
        examples=training.course.examples,
        steps=training.stepping.steps,
        last=training.decisions.last,
    )
    if adopted and not training.course.finished:  # what the scout's policy decided for the coming epoch does not hold
        training.periods.redecide()


def adopted_state(state: dict[str, Any], policy: dict[str, Any]) -> dict[str, Any]:
    """Return a scout's state, with the policy's, as that of a training which goes on from it."""
    return {**state, "stopped": None, "decisions": {**state.get("decisions", {}), "policy": policy}}


def _check_identity(theirs: dict[str, Any], mine: dict[str, Any]) -> None:
    differing = [key for key, value in mine.items() if theirs.get(key) != value]
    if differing:
        raise CheckpointError(
            "the controller state belongs to another training: "
            + "; ".join(f"'{key}' was {theirs.get(key)} and is {mine[key]}" for key in differing)
        )

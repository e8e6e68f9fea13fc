"""How long a training is: epochs of a data set, or so many examples where there are no epochs."""

import math
from dataclasses import replace

import torch.distributed as dist

from autobatch._errors import ConfigError
from autobatch._ranges import check_whole
from autobatch.control.settings._settings import Settings
from autobatch.policies.steer import PacingPolicy, usual_sizes

DECISIONS, BATCHES = 20, 10
"""Decisions of a training without epochs where nothing else is said, and batches of the largest size between two."""


def with_length(
    settings: Settings, dataset_size: int | None, epochs: int | None, examples: int | None
) -> tuple[Settings, int, int]:
    """Bring the ways to say a training's length together: one without epochs is a single one, with decisions within.

    Args:
        settings: what the controller was told.
        dataset_size: training examples, where there are epochs.
        epochs: how many there are.
        examples: examples of the whole training, where there are none.

    Returns:
        The settings, examples of an epoch, and epochs.

    Raises:
        ConfigError: too little was said, or both.
    """
    if examples is None:
        if dataset_size is None or epochs is None:
            raise ConfigError(
                "the controller needs dataset_size and epochs, or examples where the loop has no epochs: give them "
                "here or to attach()"
            )
        return _paced(_laddered(settings, dataset_size, epochs), dataset_size, epochs), dataset_size, epochs
    if dataset_size is not None or epochs is not None:
        raise ConfigError("examples is the length of a training without epochs: leave out dataset_size and epochs")
    check_whole(examples, "examples")
    settings = _laddered(settings, examples, 1)
    periods = min(DECISIONS, examples // (BATCHES * settings.batch_sizes[-1]))
    if settings.plan.decide_every is None and periods > 1:
        settings = replace(settings, plan=replace(settings.plan, decide_every=math.ceil(examples / periods)))
    return settings, examples, 1


def _laddered(settings: Settings, dataset_size: int, epochs: int) -> Settings:
    """Give a training the ladder of its length where nobody names one, of sizes that can be split as its loop does."""
    if settings.batch_sizes or not _are_sizes(dataset_size, epochs):
        return settings
    ranks = dist.get_world_size(settings.processes.group) if dist.is_available() and dist.is_initialized() else 1
    parts, usual = ranks * settings.plan.accumulation, usual_sizes(dataset_size, epochs)
    fits = tuple(size for size in usual if parts == 1 or (size % parts == 0 and size >= 2 * parts))
    return replace(settings, batch_sizes=fits or usual)


def _are_sizes(*numbers: object) -> bool:
    """Say whether these are numbers of examples or epochs; wrong ones are refused where all are checked."""
    return all(isinstance(number, int) and number > 0 for number in numbers)


def _paced(settings: Settings, dataset_size: int, epochs: int) -> Settings:
    """Have decisions taken within the epochs where nobody says how often: as the scouts did, or the policy wants it."""
    policy, plan, sizes, scouts = settings.policy, settings.plan, settings.batch_sizes, settings.scouts
    if plan.decide_every is not None or settings.library is not None or not _are_sizes(dataset_size, epochs, *sizes):
        return settings
    every = None
    if scouts is not None and scouts.loop:
        every = scouts.loop["decide_every"]
    elif isinstance(policy, PacingPolicy) and sizes:
        periods = policy.periods_of_epoch(sizes, dataset_size, epochs)
        every = None if periods == 1 else math.ceil(dataset_size / periods)
    return replace(settings, plan=replace(plan, decide_every=every))

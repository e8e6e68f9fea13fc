"""The paper's dynamic sampling: a sequence of batch sizes over equal stages of epochs (section 4.3).

``s32-to-128`` runs through its sequence once; ``s32-to-128-ms`` runs through it again within each learning-rate
value, that is between the milestones of the schedule (the paper's "-MS"). With ``starts`` the stages are as long as one
likes.
"""

import itertools
import math

from pydantic import Field, PositiveInt, model_validator

from autobatch._errors import ConfigError
from autobatch.beacons import BeaconLibrary
from autobatch.policies._parameters import BaseRate, PolicyParameters, Stateless, after_reset, require_on_ladder
from autobatch.policies._protocol import Decision, Observation, TaskInfo
from autobatch.policies._registry import register_policy
from autobatch.policies._wording import configuration
from autobatch.policies.baselines._notation import parse_start, problem_of, told_start

_ROUNDING = 1e-9

PAPER_STAGES = 5
"""Stages of the paper's dynamic sampling (section 4.3)."""


class StagesParameters(PolicyParameters):
    """Parameters of the kind ``stages``."""

    batch_sizes: tuple[PositiveInt, ...] = Field(
        min_length=1, description="Batch size of each stage, in order; the stages are equally long."
    )
    starts: tuple[str, ...] | None = Field(
        default=None,
        description="Where each stage starts instead, in examples such as 0, 250K or 1.5M, or in epochs such as 5e.",
    )
    within_rates: bool = Field(
        default=False, description="Run through the sequence within each learning-rate value of the schedule."
    )
    lr: BaseRate = None

    @model_validator(mode="after")
    def _starts_fit(self) -> "StagesParameters":
        if self.starts is not None:
            if problem := problem_of(self.starts, self.batch_sizes):
                raise ValueError(f"'starts': {problem}")
            if self.within_rates:
                raise ValueError("'within_rates' is for stages of equal length, without 'starts'")
        return self


def spread_sizes(first: int, last: int) -> tuple[int, ...]:
    """Spread the powers of two between two batch sizes over the paper's five stages.

    With m sizes and n stages, stage k takes the size with index floor(k m / n). More than five sizes get a stage
    each, so that the last size is always reached.

    Args:
        first: batch size of the first stage, a power of two.
        last: batch size of the last stage, a power of two.

    Returns:
        One batch size per stage: ``spread_sizes(32, 128) == (32, 32, 64, 64, 128)``.

    Raises:
        ConfigError: an end is not a power of two.
    """
    for size in (first, last):
        if size < 1 or size & (size - 1):
            raise ConfigError(
                f"s{first}-to-{last}: {size} is not a power of two; "
                "list other sizes under batch_sizes in a policy YAML of kind 'stages'"
            )
    low, high = sorted((first.bit_length() - 1, last.bit_length() - 1))
    sizes = [2**power for power in range(low, high + 1)]
    if first > last:
        sizes.reverse()
    stages = max(PAPER_STAGES, len(sizes))
    return tuple(sizes[stage * len(sizes) // stages] for stage in range(stages))


def segment_bounds(epochs: int, milestones: tuple[float, ...]) -> list[tuple[int, int]]:
    """Split the epochs at a schedule's milestones into ranges of indices, one per rate that lasts for an epoch."""
    # An epoch belongs to the rate that holds when it starts; the slack keeps 0.7 * 10 from rounding up to 8.
    cuts = [0, *(math.ceil(milestone * epochs - 1e-9) for milestone in milestones), epochs]
    return [(start, stop) for start, stop in itertools.pairwise(cuts) if start < stop]


def stage_at(epoch: int, start: int, stop: int, stages: int) -> int:
    """Return the stage that an epoch belongs to: floor(n x progress within the segment).

    Where the epochs do not divide by the stages, some stages are one epoch longer than others.

    Args:
        epoch: epoch index from 0; one past the end counts as the last epoch.
        start: first epoch of the segment.
        stop: epoch after the segment's last.
        stages: number of stages n.

    Returns:
        The stage, from 0 to n - 1.
    """
    return (min(epoch, stop - 1) - start) * stages // (stop - start)


@register_policy(
    "stages", StagesParameters, blind=True, changes="batch size", when="To compare with the paper's dynamic sampling."
)
class StagesPolicy(Stateless):
    """Go through a sequence of batch sizes in stages of equally many epochs."""

    needs_library = False

    def __init__(self, parameters: StagesParameters) -> None:
        self.parameters = parameters
        self._segments: list[tuple[int, int]] | None = None
        self._shares: list[float] = []

    def reset(self, task: TaskInfo, library: BeaconLibrary | None) -> None:
        """Lay the stages over the epochs of ``task``."""
        require_on_ladder(self.parameters.batch_sizes, task)
        whole = task.epochs * task.train_size
        starts = [parse_start(start) for start in self.parameters.starts or ()]
        self._shares = [number / (task.epochs if epochs else whole) for number, epochs in starts]
        self._segments = segment_bounds(task.epochs, task.milestones if self.parameters.within_rates else ())

    def decide(self, observation: Observation) -> Decision:
        """Return the batch size of the stage that the coming epoch belongs to."""
        segments = after_reset(self._segments)
        sizes = self.parameters.batch_sizes
        if self.parameters.starts is not None:
            begun = [index for index, share in enumerate(self._shares) if share <= observation.progress + _ROUNDING]
            stage = begun[-1]
            reason = f"{configuration(sizes[stage], self.parameters.lr)}: the schedule has it from "
            return Decision(sizes[stage], self.parameters.lr, reason=reason + told_start(self.parameters.starts[stage]))
        position = next(
            (index for index, (_, stop) in enumerate(segments) if observation.epoch < stop),
            len(segments) - 1,
        )
        stage = stage_at(observation.epoch, *segments[position], len(sizes))
        reason = f"{configuration(sizes[stage], self.parameters.lr)}: stage {stage + 1} of {len(sizes)}"
        if len(segments) > 1:
            reason += f" within learning-rate value {position + 1} of {len(segments)}"
        return Decision(sizes[stage], self.parameters.lr, reason=reason)

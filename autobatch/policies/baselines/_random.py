"""Batch size and learning rate drawn at random: the floor that a clever policy has to beat."""

import numpy as np
from pydantic import Field

from autobatch.beacons import BeaconLibrary
from autobatch.policies._parameters import PolicyParameters, Stateless, after_reset
from autobatch.policies._protocol import Decision, Observation, TaskInfo
from autobatch.policies._registry import register_policy
from autobatch.policies._wording import configuration, count

_PURPOSE = 0x72616E64
"""Sets these draws apart from every other generator that is derived from the run's seed."""


class RandomParameters(PolicyParameters):
    """Parameters of the kind ``random``."""

    every: int = Field(default=1, gt=0, description="Epochs that a draw is kept for.")


@register_policy("random", RandomParameters, blind=True, changes="batch size, rate", when="The floor to compare with.")
class RandomPolicy(Stateless):
    """Draw uniformly from the ladder and the task's learning rates.

    A draw is a pure function of the run's seed and of the epoch in which it falls, so that a resumed run needs no
    generator state to continue as it would have.
    """

    needs_library = False

    def __init__(self, parameters: RandomParameters) -> None:
        self.parameters = parameters
        self._task: TaskInfo | None = None

    def reset(self, task: TaskInfo, library: BeaconLibrary | None) -> None:
        """Remember the task."""
        self._task = task

    def decide(self, observation: Observation) -> Decision:
        """Return the draw of the coming epoch."""
        task = after_reset(self._task)
        draw = observation.epoch // self.parameters.every
        generator = np.random.default_rng([task.seed, _PURPOSE, draw])
        batch_size = task.batch_sizes[int(generator.integers(len(task.batch_sizes)))]
        lr = task.learning_rates[int(generator.integers(len(task.learning_rates)))]
        kept = count(self.parameters.every, "epoch")
        reason = f"{configuration(batch_size, lr)}: draw {draw + 1} of seed {task.seed}, kept for {kept}"
        return Decision(batch_size, lr, reason=reason)

"""What a training's loss depends on by functional scaling laws, as running figures of its batch sizes and rates.

Such laws (https://arxiv.org/abs/2509.19189) say that the loss is a power of intrinsic time, the sum of learning rates
over steps, plus noise of the size of rate over batch size that is forgotten as that time goes on; multi-power laws
(https://arxiv.org/abs/2503.12811) say the same of decays. So a training is remembered by its intrinsic time, its
steps, the highest rate and the loudest noise so far, and averages of the noise that forget at five speeds: a mixture of
exponentials for the laws' power kernel. All are relative to the task's best beacon, so tasks can be told together.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autobatch._arrays import Floats
from autobatch._steps import steps_per_epoch
from autobatch.policies import TaskInfo

_FORGETTING = np.array([0.01, 0.03, 0.1, 0.3, 1.0])
"""Intrinsic times in which an average forgets, relative to that of the best beacon's whole training."""

_EPOCHS = 3.0
"""Epochs in which averages of size and rate forget: not all that they do passes in intrinsic time."""

_NOISE = slice(6, 6 + len(_FORGETTING))

MEMORY = 6 + len(_FORGETTING)
"""Running figures of a training: intrinsic time, steps, highest rate, loudest noise, averages of rate, size, noise."""

INPUTS = 12 + len(_FORGETTING)
"""Figures that an epoch is predicted from."""


@dataclass(frozen=True, eq=False)
class Scale:
    """What a task's schedules are relative to: those of its best fixed beacon.

    Attributes:
        size: log2 of its batch size.
        rate: log2 of its base learning rate.
        time: intrinsic time of its whole training.
        steps: steps of its whole training.
        factors: the schedule's factor on the learning rate in each epoch, shape (epochs,).
        train_size: examples of an epoch.
    """

    size: float
    rate: float
    time: float
    steps: float
    factors: Floats
    train_size: int

    @classmethod
    def of(cls, task: TaskInfo, batch_size: int, lr: float, factors: Floats) -> "Scale":
        """Return the scale of a task, given the configuration of its best fixed beacon and its schedule."""
        steps = float(steps_per_epoch(task.train_size, batch_size))
        time = float(lr * steps * factors.sum())
        return cls(float(np.log2(batch_size)), float(np.log2(lr)), time, steps * task.epochs, factors, task.train_size)

    def began(self, count: int) -> Floats:
        """Return what is remembered before the first epoch, shape (count, MEMORY)."""
        memory = np.zeros((count, MEMORY))
        memory[:, 2:4] = -np.inf
        return memory

    def advance(
        self,
        memory: Floats,
        epoch: NDArray[np.int64],
        size: Floats,
        rate: Floats,
        steps: Floats,
        *,
        factor: Floats | None = None,
    ) -> tuple[Floats, Floats, Floats]:
        """Train an epoch.

        Args:
            memory: what is remembered of n trainings, shape (n, MEMORY).
            epoch: their finished epochs, shape (n,).
            size: log2 of the batch size of the next one, shape (n,).
            rate: log2 of its base learning rate, shape (n,).
            steps: its steps, shape (n,).
            factor: log2 of what multiplies the base rate in it, shape (n,); None for the task's schedule.

        Returns:
            What is remembered after it; what the law says of it, shape (n, INPUTS); its intrinsic time, shape (n,).
        """
        factor = np.log2(self.factors[epoch]) if factor is None else factor
        high, wide = rate + factor - self.rate, size - self.size
        noise = high - wide
        passed = np.exp2(high + self.rate) * steps / self.time
        after = np.empty_like(memory)
        after[:, 0], after[:, 1] = memory[:, 0] + passed, memory[:, 1] + steps / self.steps
        np.maximum(memory[:, 2], high, out=after[:, 2])
        np.maximum(memory[:, 3], noise, out=after[:, 3])
        kept = np.exp(-passed[:, None] / _FORGETTING)
        after[:, _NOISE] = kept * memory[:, _NOISE] + (1.0 - kept) * noise[:, None]
        lately = np.exp(-1.0 / _EPOCHS)
        after[:, 4], after[:, 5] = (
            lately * own + (1.0 - lately) * now for own, now in ((memory[:, 4], high), (memory[:, 5], wide))
        )
        progress = (epoch + 1.0) / len(self.factors)
        inputs = np.empty((len(memory), INPUTS))
        inputs[:, :2] = np.log2(after[:, :2])
        inputs[:, 2], inputs[:, 3] = np.log2(progress), progress
        inputs[:, 4], inputs[:, 5], inputs[:, 6] = high, wide, noise
        inputs[:, 7:9] = after[:, 2:4]
        inputs[:, 9] = factor
        # Averages that began at 0 are brought to the weight that they have gathered.
        inputs[:, 10:12] = after[:, 4:6] / -np.expm1(-(epoch[:, None] + 1.0) / _EPOCHS)
        inputs[:, 12:] = after[:, _NOISE] / -np.expm1(-after[:, :1] / _FORGETTING)
        return after, inputs, passed

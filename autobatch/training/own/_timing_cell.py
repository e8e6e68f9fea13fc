"""What examples take in a loop of somebody's own at two batch sizes, by a few steps of each before its scouts."""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autobatch._errors import AutoBatchError
from autobatch.beacons import BeaconLibrary
from autobatch.control import NeverMeasure, Step
from autobatch.control.steps._step import Passing
from autobatch.policies import Decision, Observation, TaskInfo
from autobatch.policies._parameters import Stateless
from autobatch.policies.steer import TimedSizes, sizes_to_time
from autobatch.training.own._cell import LoopCell, RecordingController, Train

STEPS, BLOCKS = 8, 4
"""Steps of the larger size in a row, and such blocks of each size; the first of a size warms it up."""


_LOGGER = logging.getLogger("autobatch")


class TimingController(RecordingController):
    """A controller that tells its cell when a batch begins, and when an epoch's last one is over."""

    cell: "TimingCell"

    def step(self, *, samples: int | Tensor | None = None, batch_dim: int = 0) -> AbstractContextManager[Step]:
        """Return the context of ``AutoBatchController.step``; the batch that it begins is noted."""
        passing = super().step(samples=samples, batch_dim=batch_dim)
        if isinstance(passing, Passing):
            self.cell.begin(passing.cut.batch_size)
        return passing

    def end_epoch(self, **figures: Any) -> Any:
        """Close what was timed so far, since what a loop does between epochs is no part of it; end the epoch."""
        self.cell.close()
        return super().end_epoch(**figures)


class TimedPolicy(Stateless):
    """Goes to and fro between two batch sizes, a few steps of each."""

    needs_library = False

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = sizes
        self._rate = 0.0

    def periods_of_epoch(self, batch_sizes: Sequence[int], dataset_size: int, epochs: int) -> int:
        """Return how often the sizes change in an epoch."""
        return max(1, dataset_size // (STEPS * max(batch_sizes)))

    def reset(self, task: TaskInfo, library: BeaconLibrary | None) -> None:
        """Learn the rates, of which the lowest is taken: what is trained here is thrown away."""
        self._rate = task.learning_rates[0]

    def decide(self, observation: Observation) -> Decision:
        """Return the other size."""
        return Decision(self._sizes[observation.epoch % len(self._sizes)], self._rate, "to time the loop")


class TimingCell(LoopCell):
    """A call of the loop that times two batch sizes.

    Args:
        task: the task, as a scout has met it.
        arguments: arguments of the controller, grouped.
    """

    def __init__(self, task: TaskInfo, arguments: Mapping[str, Any]) -> None:
        self._begun = time.perf_counter()
        self._sizes = sizes_to_time(task)
        plain = {
            **arguments,
            "batch_sizes": self._sizes,
            "plan": replace(arguments["plan"], decide_every=None),
            "measuring": replace(arguments["measuring"], steps=NeverMeasure()),
        }
        super().__init__(TimingController(policy=TimedPolicy(self._sizes), **plain), plain)
        self._device = torch.device("cpu")
        self._blocks: dict[int, list[float]] = {size: [] for size in self._sizes}  # seconds of an example in each
        self._size = 0  # of the block that is under way
        self._begins: list[tuple[float, int]] = []  # when its batches began, and after how many examples
        self._periods, self._over = 0, False

    def timed(self, train: Train) -> TimedSizes:
        """Call the loop, and return what it takes; nothing where it fails."""
        try:
            self.call(train)
        except AutoBatchError as error:
            if not self._over:
                _LOGGER.warning("the loop could not be timed: %s", str(error).splitlines()[-1])
                self._blocks = {}
        known = {size: min(taken[1:]) for size, taken in self._blocks.items() if len(taken) > 1}
        seconds = tuple(known.items()) if len(known) == len(self._sizes) else ()
        return TimedSizes(seconds, time.perf_counter() - self._begun)

    def attach(self, model: nn.Module, optimizer: Optimizer, **sizes: Any) -> None:
        """Take down where the loop trains."""
        super().attach(model, optimizer, **sizes)
        self._device = next((each.device for each in model.parameters()), self._device)

    def observe(self, figures: Mapping[str, Any]) -> None:
        """End the training once every block has been timed."""
        self._periods += 1
        if self._periods == BLOCKS * len(self._sizes):
            self.close()
            self._over = True
            self.controller.stop("the loop is timed")

    def begin(self, size: int) -> None:
        """Note that a batch begins, or the next part of one."""
        if size != self._size:
            self.close()
        if self.controller.fetched_ahead:  # by workers, which have some batches ready whatever they take
            self._blocks = {}
        self._size, examples = size, self.controller.examples
        if not self._begins or examples > self._begins[-1][1]:
            self._begins.append((self._now(), examples))

    def close(self) -> None:
        """Note what a block of batches of one size has taken, from the beginning of the first to that of the last."""
        if len(self._begins) > 1 and self._size in self._blocks:
            (begun, before), (ended, after) = self._begins[0], self._begins[-1]
            self._blocks[self._size].append((ended - begun) / (after - before))
        self._begins = []

    def _now(self) -> float:
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        return time.perf_counter()

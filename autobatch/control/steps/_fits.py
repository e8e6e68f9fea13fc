"""Which batch sizes fit into an accelerator's memory, by what the largest that has been trained has taken."""

import logging
import math
from collections.abc import Callable, Sequence

import torch

from autobatch.control.measuring import allocated, capacity

_LOG = logging.getLogger("autobatch")

SLACK = 1.2
"""Times what a forward pass holds for its backward pass that the two take together at most."""

FULL = 0.95
"""Share of the memory that is planned with: the rest is lost between tensors."""


class Fits:
    """Foretells from one training step what larger batches would take of a CUDA device's memory.

    What a forward pass holds for its backward pass grows in proportion to the batch; parameters, gradients and what
    the optimizer keeps do not.

    Args:
        device: where the model is; of a CPU's memory nothing is foretold.
        gradients: returns the bytes that the gradients of the coming backward pass take.
    """

    def __init__(self, device: torch.device, gradients: Callable[[], int]) -> None:
        self._device, self._gradients = device, gradients
        self._below = math.inf
        self._trained = 0
        self._before: int | None = None
        self._fixed = self._held = 0
        self._told: int | None = None

    def learns(self, batch_size: int) -> bool:
        """Whether a batch says more than those before: it is larger, and its memory can be read."""
        return batch_size > self._trained and allocated(self._device) is not None

    def begin(self) -> None:
        """Note what lies in memory as a batch begins."""
        self._before = allocated(self._device)

    def passed_forward(self, batch_size: int) -> None:
        """Note what the forward pass of a batch holds, before its backward pass."""
        now = allocated(self._device)
        if now is not None and self._before is not None:
            self._fixed, self._held, self._trained = self._before + self._gradients(), now - self._before, batch_size
        self._before = None

    def ran_out(self, batch_size: int) -> None:
        """Note that a batch did not fit."""
        self._below = min(self._below, batch_size)

    def needs(self, batch_size: int) -> float:
        """Return the bytes that a training step takes with so many examples, all that lies in memory included."""
        return self._fixed + SLACK * self._held * batch_size / max(1, self._trained)

    def largest(self, ladder: Sequence[int]) -> int | None:
        """Return the largest batch size that fits.

        Args:
            ladder: the batch sizes to choose from, ascending.

        Returns:
            One of them, no smaller than what has been trained; None where nothing says that the largest does not fit.
        """
        fitting = [size for size in ladder if size < self._below]
        if self._trained:
            most = FULL * capacity(self._device)
            fitting = [size for size in fitting if size <= self._trained or self.needs(size) <= most]
        if not fitting or fitting[-1] == ladder[-1]:
            return None
        if self._told != fitting[-1]:
            self._told = fitting[-1]
            _LOG.info("batches of more than %d examples would not fit into memory: none is asked for", fitting[-1])
        return fitting[-1]

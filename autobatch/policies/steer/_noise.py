"""Whether a training is short of steps, by the noise scale of its gradients, and the batch size that follows."""

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from autobatch.policies._protocol import Observation, Policy

PERIODS = 2
"""Decision periods before the rate falls that the noise scale is taken from."""

WANTED = 8
"""Measured steps asked for in each of them: fewer leave the noise scale uncertain by a factor of 2."""

LEAST_SAMPLES = 4
"""Measured steps below which nothing is said."""

CLEARLY = 2.0
"""Times that the batch must be the noise scale, where nothing else says that a smaller one helps."""

GROWN_AGAIN = 4.0
"""Times that the noise scale must then be the batch, for that one to be again what it was."""

FOLLOWED = 4
"""Measured steps asked for in each period after that, while batches are small."""

RECENT = 3
"""Decision periods that the noise scale is then taken from."""


@runtime_checkable
class MeasuringPolicy(Policy, Protocol):
    """A policy that asks for measured steps."""

    @property
    def samples_wanted(self) -> int:
        """Steps of the coming period to measure at least, where anything is measured; known once it has decided."""
        ...


class Noise:
    """The noise scale of the gradients over the periods before the rate falls.

    With g_i the gradient of a sample and G the true gradient, it is tr cov(g_i) / ‖G‖², in examples (McCandlish et al.
    2018, arXiv 1812.06162, eq. 2.9). In a batch that is larger the noise is smaller than the gradient itself, so that a
    step of half the batch goes nearly as far (ibid., eq. 2.7).
    """

    def __init__(self) -> None:
        self._periods: dict[int, tuple[int, float, float]] = {}  # measured steps, variance, squared signal

    def take(self, observation: Observation) -> None:
        """Take in what the last period's measured steps tell of the gradients, where any do."""
        moments = observation.gradients
        if moments is not None and math.isfinite(moments.variance + moments.squared_signal):
            self._periods[observation.epoch] = (moments.samples, moments.variance, moments.squared_signal)

    @property
    def scale(self) -> float | None:
        """The noise scale; infinite where noise hides the gradient, None where too few steps were measured."""
        found = self._periods.values()
        if sum(samples for samples, *_ in found) < LEAST_SAMPLES:
            return None
        variance, signal = (math.fsum(one[0] * one[place] for one in found) for place in (1, 2))
        return variance / signal if signal > 0.0 else math.inf

    def size(self, batch_size: int, sizes: Sequence[int], margin: float) -> int | None:
        """Return the batch size that goes with the noise scale, where the one in use is too large.

        Args:
            batch_size: the size in use, one of ``sizes``.
            sizes: those to choose from, ascending, none of them larger.
            margin: times the noise scale that the one in use may be.

        Returns:
            The largest that is not above the noise scale, or the smallest where all are, which may be the one in use;
            None where that is not too large, and where nothing is known.
        """
        scale = self.scale
        if scale is None or batch_size <= margin * scale:
            return None
        return max((size for size in sizes if size <= scale), default=sizes[0])

    def has_grown(self, batch_size: int) -> bool:
        """Say whether over the last ``RECENT`` periods it was ``GROWN_AGAIN`` times a batch size; False if unknown."""
        self._periods = dict(sorted(self._periods.items())[-RECENT:])
        scale = self.scale
        return len(self._periods) == RECENT and scale is not None and scale >= GROWN_AGAIN * batch_size

    def state_dict(self) -> list[list[float]]:
        """Return what is known as JSON-able values."""
        return [[epoch, *period] for epoch, period in self._periods.items()]

    def load_state_dict(self, state: Sequence[Sequence[Any]]) -> None:
        """Restore what ``state_dict`` returned.

        Args:
            state: the state.
        """
        self._periods = {
            int(epoch): (int(samples), float(variance), float(signal)) for epoch, samples, variance, signal in state
        }

"""AdaScale: a large batch at a rate that the gradients' noise allows (Johnson et al. 2020, arXiv 2007.05105).

A batch of S times the base size has its rate multiplied by the gain (σ² + μ²) / (σ² / S + μ²), which lies between 1 and
S (eq. 2); σ² is the variance of a base batch's gradient and μ² the squared norm of the true one, both running averages
that a step decays by 1 - S / 1000. An estimate of μ² that comes out negative counts as 0, as in FairScale's program.

Departures: the gain changes once an epoch, 1 in the first; an epoch's measured steps stand for all of its steps. The
paper counts iterations by their gain and trains until those of the base size are reached, which lengthens a training;
here the length is that of the task, in examples.
"""

from typing import Any

from pydantic import Field

from autobatch.beacons import BeaconLibrary
from autobatch.policies._protocol import Observation, TaskInfo
from autobatch.policies._registry import register_policy
from autobatch.policies._rungs import nearest_rung
from autobatch.policies._wording import figure
from autobatch.policies.rivals._noise_average import NoiseAverage
from autobatch.policies.rivals._rival import Choice, Gradients, MeasuredRival, RivalParameters


class AdaScaleParameters(RivalParameters):
    """Parameters of the kind ``adascale``; ``batch_size`` is the base size, that the base rate belongs to."""

    scale: float = Field(
        default=8.0, ge=1, allow_inf_nan=False, description="S: what the base size is multiplied by; the nearest rung."
    )


@register_policy(
    "adascale", AdaScaleParameters, changes="rate", when="To compare with AdaScale: a large batch from the start."
)
class AdaScalePolicy(MeasuredRival[AdaScaleParameters]):
    """Train with a large batch throughout, at the base rate times AdaScale's gain."""

    sets_rate = True

    def reset(self, task: TaskInfo, library: BeaconLibrary | None) -> None:
        """Start anew, with nothing known of the noise."""
        super().reset(task, library)
        self._noise, self._steps = NoiseAverage(), 0

    def begin(self, task: TaskInfo) -> Choice:
        """Return the large batch at the base rate."""
        return Choice(self._large(task), f"s{self.first_batch_size} x {figure(self.parameters.scale)}, gain 1 so far")

    def steer(self, task: TaskInfo, observation: Observation, gradients: Gradients) -> Choice:
        """Return the large batch with the gain."""
        size, base = self._large(task), self.first_batch_size
        steps, self._steps = observation.steps - self._steps, observation.steps
        keep = max(0.0, 1.0 - size / base / 1000.0) ** max(1, steps)
        self._noise.update(gradients.variance, max(0.0, gradients.squared_signal), keep=keep)
        gain = self._noise.gain(size, base)
        return Choice(size, f"s{base} x {figure(size / base)}, rate x gain {figure(gain)}", gain)

    def state_dict(self) -> dict[str, Any]:
        """Return the last choice, the averages, and the steps that are in them."""
        return {**super().state_dict(), "noise": self._noise.state_dict(), "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        super().load_state_dict(state)
        self._noise.load_state_dict(state["noise"])
        self._steps = int(state["steps"])

    def _large(self, task: TaskInfo) -> int:
        return nearest_rung(self.parameters.scale * self.first_batch_size, task.batch_sizes)

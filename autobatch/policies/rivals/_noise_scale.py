"""The batch size follows the gradient noise scale (McCandlish, Kaplan, Amodei et al. 2018, arXiv 1812.06162).

The simple noise scale N = tr Σ / ‖G‖², of the covariance Σ of a single sample's gradient and the true gradient G, is
the batch size at which a step makes half the progress of one without noise (section 2.2); training at that size takes
twice the least number of examples and twice the least number of steps. tr Σ and ‖G‖² are estimated without bias and
averaged apart (appendix A.1). The best rate of SGD goes with 1 / (1 + N / B) (section 2.2), so that relative to the
first batch size B0 the base rate is multiplied by (1 + N / B0) / (1 + N / B).

Departures: the size changes once an epoch, to the nearest rung; the two averages are taken over epochs, each the mean
of its measured steps, with a weight that is this project's choice; two gradients of different batch sizes in the paper
are here a batch and its single samples.
"""

import math
from typing import Any

from pydantic import Field

from autobatch.beacons import BeaconLibrary
from autobatch.policies._protocol import Observation, TaskInfo
from autobatch.policies._registry import register_policy
from autobatch.policies._rungs import nearest_rung
from autobatch.policies._wording import figure
from autobatch.policies.rivals._noise_average import NoiseAverage
from autobatch.policies.rivals._rival import Choice, Gradients, MeasuredRival, RivalParameters


class NoiseScaleParameters(RivalParameters):
    """Parameters of the kind ``noise-scale``."""

    memory: float = Field(
        default=0.5, ge=0, lt=1, description="Weight of the epochs before in the averages, against that of the last."
    )
    scale_rate: bool = Field(
        default=True,
        description="Multiply the base learning rate by (1 + N / B0) / (1 + N / B); otherwise it is left alone.",
    )


@register_policy(
    "noise-scale",
    NoiseScaleParameters,
    changes="batch size, rate",
    when="To compare with the gradient noise scale; on small tasks it diverged.",
)
class NoiseScalePolicy(MeasuredRival[NoiseScaleParameters]):
    """Use the gradient noise scale as batch size."""

    sets_rate = True

    def reset(self, task: TaskInfo, library: BeaconLibrary | None) -> None:
        """Start anew, with nothing known of the noise."""
        super().reset(task, library)
        self._noise = NoiseAverage()

    def steer(self, task: TaskInfo, observation: Observation, gradients: Gradients) -> Choice:
        """Return the rung nearest to the noise scale."""
        self._noise.update(gradients.variance, gradients.squared_signal, keep=self.parameters.memory)
        noise_scale = self._noise.noise_scale
        if math.isnan(noise_scale):
            return self.keep(observation, "for the gradients are zero")
        size = nearest_rung(noise_scale, task.batch_sizes)
        factor = self._noise.gain(size, self.first_batch_size) if self.parameters.scale_rate else 1.0
        if math.isinf(noise_scale):
            told = f"the noise, variance {figure(gradients.variance)}, hides the gradient"
        else:
            told = f"nearest to the noise scale {figure(noise_scale)}"
        return Choice(size, told, factor)

    def state_dict(self) -> dict[str, Any]:
        """Return the last choice and the averages."""
        return {**super().state_dict(), "noise": self._noise.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        super().load_state_dict(state)
        self._noise.load_state_dict(state["noise"])

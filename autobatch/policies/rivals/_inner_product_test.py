"""The augmented inner-product test (Bollapragada, Byrd, Nocedal 2018, arXiv 1710.11258).

A batch of B samples with mean gradient g must be a direction of descent with high probability: the samples' inner
products with g vary by at most θ² ‖g‖⁴ B (eq. 2.6, the inner-product test), and what they have across g by at most
ν² ‖g‖² B (eq. 3.3, the orthogonality test). A batch that fails grows to the size that would have passed both, and
never shrinks. Split along g and across it, the variance of a sample's gradient is V = V∥ + V⊥, and that size is the
larger of V∥ / (θ² ‖g‖²) and V⊥ / (ν² ‖g‖²).

Departures: one test an epoch, on means over its measured steps, which also stand for the paper's running average of
gradients against noise in the test itself; the size asked for goes to the next rung; the paper's rate comes from an
estimate of the Lipschitz constant, here it is the training's own.
"""

import math

from pydantic import Field

from autobatch.policies._protocol import Observation, TaskInfo
from autobatch.policies._registry import register_policy
from autobatch.policies._rungs import rung_above
from autobatch.policies._wording import figure
from autobatch.policies.rivals._rival import Choice, Gradients, MeasuredRival, RivalParameters


class InnerProductTestParameters(RivalParameters):
    """Parameters of the kind ``inner-product-test``."""

    theta: float = Field(
        default=0.9, gt=0, allow_inf_nan=False, description="Error along the gradient that is accepted, over its norm."
    )
    nu: float = Field(
        default=5.84,
        gt=0,
        allow_inf_nan=False,
        description="Error across the gradient that is accepted, over its norm.",
    )


@register_policy(
    "inner-product-test",
    InnerProductTestParameters,
    changes="batch size",
    when="A good rate is known, and the batch may grow when the gradients say so.",
)
class InnerProductTestPolicy(MeasuredRival[InnerProductTestParameters]):
    """Grow the batch until it passes the inner-product and the orthogonality test."""

    def steer(self, task: TaskInfo, observation: Observation, gradients: Gradients) -> Choice:
        """Return what the tests ask for."""
        own, norm = self.parameters, gradients.mean_squared_norm
        if not math.isfinite(gradients.variance_along):
            return self.keep(observation, "for the samples do not say what lies along the gradient")
        asked = {
            "inner-product": _size(gradients.variance_along, own.theta**2 * norm),
            "orthogonality": _size(gradients.variance_across, own.nu**2 * norm),
        }
        name = max(asked, key=lambda test: asked[test])
        told = ", ".join(f"{test} test {figure(size)}" for test, size in asked.items())
        if asked[name] <= gradients.batch_size:
            return self.keep(observation, f"s{gradients.batch_size} passes both tests: least sizes {told}")
        size = max(observation.batch_size, rung_above(asked[name], task.batch_sizes))
        return Choice(size, f"s{gradients.batch_size} fails the {name} test: least sizes {told}")


def _size(variance: float, allowed: float) -> float:
    if allowed > 0.0:
        return variance / allowed
    return math.inf if variance > 0.0 else 0.0

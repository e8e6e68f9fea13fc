"""How the learning rate, and the momentum, go with the batch size where the policy leaves them open."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from autobatch._errors import ConfigError, near_names
from autobatch._ranges import check_number, check_whole, names_arguments
from autobatch.fisher import GradientMoments
from autobatch.policies.rivals import NoiseAverage

RuleName = Literal["none", "linear", "sqrt", "power", "adascale"]
Momentum = Literal["keep", "reset", "rescale"]


@names_arguments
@dataclass(frozen=True)
class LearningRateRule:
    """What a batch size B does to the learning rate that was chosen for a reference batch size B0.

    The factor on the rate is, with S = B / B0,

    * ``"none"``: 1, as in the paper's dynamic sampling;
    * ``"linear"``: S (Krizhevsky 2014, arXiv 1404.5997; Goyal et al. 2017, arXiv 1706.02677), for SGD;
    * ``"sqrt"``: sqrt(S) (Krizhevsky 2014; for Adam by Malladi et al. 2022, arXiv 2205.10287);
    * ``"power"``: S to the power of ``power``;
    * ``"adascale"``: the gain of AdaScale (Johnson et al. 2020, arXiv 2007.05105, eq. 2), between 1 and S, from the
      gradients' variance and squared mean that measuring gives; 1 before the first sample.

    Attributes:
        name: one of these.
        reference_batch_size: B0; None for the first batch size of the training.
        power: the exponent of ``"power"``.
        ramp: examples over which the rate goes from the old factor to the new one, linearly; 0 changes it at once.
        momentum: ``"keep"``; ``"reset"`` empties the momentum buffers at a change; ``"rescale"`` uses rho to the power
            of S, which keeps the number of examples that the momentum remembers (Busbridge et al. 2023, arXiv
            2307.13813; of Adam's coefficients the first).

    Raises:
        ConfigError: a value cannot be used.
    """

    name: RuleName = "none"
    reference_batch_size: int | None = None
    power: float | None = None
    ramp: int = 0
    momentum: Momentum = "keep"

    def __post_init__(self) -> None:
        """Check the values."""
        for key, value, known in (("LearningRateRule", self.name, RuleName), ("momentum", self.momentum, Momentum)):
            if value not in get_args(known):
                raise ConfigError(f"{key}: no rule is called {value!r}; {near_names(str(value), get_args(known))}")
        if (self.name == "power") != (self.power is not None):
            raise ConfigError("LearningRateRule: 'power' needs power=..., and no other rule takes it")
        if self.power is not None and not math.isfinite(check_number(self.power, "LearningRateRule: power")):
            raise ConfigError(f"LearningRateRule: power: expected a finite number, got {self.power}")
        if self.reference_batch_size is not None:
            check_whole(self.reference_batch_size, "LearningRateRule: reference_batch_size")
        check_whole(self.ramp, "LearningRateRule: ramp, in examples", least=0)

    def factor(self, batch_size: int, reference: int, noise: "GradientNoise") -> float:
        """Return what the reference rate is multiplied by.

        Args:
            batch_size: B.
            reference: B0.
            noise: what measuring has told of the gradients so far.

        Returns:
            The factor, positive.
        """
        scale = batch_size / reference
        if self.name == "linear":
            return scale
        if self.name == "sqrt":
            return math.sqrt(scale)
        if self.name == "power":
            assert self.power is not None
            return math.pow(scale, self.power)
        if self.name == "adascale":
            return noise.gain(batch_size, reference)
        return 1.0

    def describe(self, batch_size: int, reference: int, factor: float) -> str:
        """Return the rule's effect in words.

        Args:
            batch_size: B.
            reference: B0.
            factor: what ``factor`` returned.

        Returns:
            One clause; empty where nothing changes.
        """
        if self.name == "none" or batch_size == reference:
            return ""
        return f"rate x {factor:.4g} by the {self.name} rule (from s{reference})"


class GradientNoise(NoiseAverage):
    """Running variance and squared mean of the per-sample gradients, from measured steps.

    They are averaged with the decay that AdaScale uses, 1 - S / 1000 a step.
    """

    def add(self, trace: float, squared_sum: float, batch_size: int, steps: int, scale: float) -> None:
        """Add one measured step.

        Args:
            trace: tr F.
            squared_sum: 1ᵀF1, the squared norm of the summed gradient.
            batch_size: B of the step; a single sample says nothing of the variance.
            steps: optimizer steps that the sample stands for.
            scale: S, the batch size over the reference.
        """
        if batch_size < 2:
            return
        moments = GradientMoments.of_sums(batch_size, trace, squared_sum)
        self.update(moments.variance, moments.squared_signal, keep=max(0.0, 1.0 - scale / 1000.0) ** steps)

"""What is measured, and what a loop's losses and gradients are."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from autobatch._errors import ConfigError, near_names
from autobatch.control.measuring import MeasuringPlan
from autobatch.fisher._probe import BN_MEANINGS, LOSS_REDUCTIONS


@dataclass(frozen=True)
class Measuring:
    """What is measured, and what has to be known of the loop for that.

    Attributes:
        steps: which steps are measured. None takes the first batch of each epoch and every 50th after it, as far as
            2 % of the training time allow, see ``MeasureWithinBudget``. Without ``TaskFacts.costs`` the loop is timed
            for that, and a training run again may sample other steps.
        loss_reduction: how the loss reduces over a batch, ``"mean"`` or ``"sum"``.
        bn: what a sample's gradient means under BatchNorm, see ``FisherProbe``.
        reuse_weight_gradient: take the gradients of measured steps from what measuring computes anyway, which is
            faster and differs from the ordinary ones in round-off, see ``gradients="rows"`` of ``FisherProbe``.
        grad_scaler: the GradScaler that scales the loss, so that measuring can undo it.

    Raises:
        ConfigError: a value cannot be used.
    """

    steps: MeasuringPlan | None = None
    loss_reduction: Literal["mean", "sum"] = "mean"
    bn: Literal["rows", "exact", "eval"] = "rows"
    reuse_weight_gradient: bool = False
    grad_scaler: torch.amp.GradScaler | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.steps is not None and not isinstance(self.steps, MeasuringPlan):
            raise ConfigError(f"Measuring: steps: expected a plan such as MeasureAtInterval(50), got {self.steps!r}")
        for name, given, known in (
            ("loss_reduction", self.loss_reduction, LOSS_REDUCTIONS),
            ("bn", self.bn, BN_MEANINGS),
        ):
            if given not in known:
                raise ConfigError(f"Measuring: {name}={given!r}: {near_names(str(given), known)}")

    @classmethod
    def of(cls, given: "Measuring | MeasuringPlan | None") -> "Measuring":
        """Return what an argument stands for.

        Args:
            given: the settings, or only which steps are measured.

        Returns:
            The settings.
        """
        return given if isinstance(given, Measuring) else cls(steps=given)

    @property
    def probe_arguments(self) -> dict[str, Any]:
        """What ``FisherProbe`` is made with."""
        return {
            "loss_reduction": self.loss_reduction,
            "bn": self.bn,
            "gradients": "rows" if self.reuse_weight_gradient else "library",
            "grad_scaler": self.grad_scaler,
        }

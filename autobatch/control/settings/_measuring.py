"""What is measured, and what a loop's losses and gradients are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from autobatch._errors import ConfigError, near_names
from autobatch._ranges import check_whole, names_arguments
from autobatch.control.measuring import MeasuringPlan
from autobatch.fisher._probe import BN_MEANINGS, LOSS_REDUCTIONS, MEASURES, SKETCH_ROWS
from autobatch.fisher.gram import LEAST_ROWS_PER_SAMPLE


@names_arguments
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
        measure: ``"exact"``, or ``"sketched"``: a random projection of the gradients, seeded by the controller's seed,
            for large models on several processes or in micro-batches; see ``FisherProbe``.
        sketch_rows: of ``measure="sketched"``, at least two for each example of the largest batch.

    Raises:
        ConfigError: a value cannot be used.
    """

    steps: MeasuringPlan | None = None
    loss_reduction: Literal["mean", "sum"] = "mean"
    bn: Literal["rows", "exact", "eval"] = "rows"
    reuse_weight_gradient: bool = False
    grad_scaler: torch.amp.GradScaler | None = None
    measure: Literal["exact", "sketched"] = "exact"
    sketch_rows: int = SKETCH_ROWS

    def __post_init__(self) -> None:
        """Check the values."""
        if self.steps is not None and not isinstance(self.steps, MeasuringPlan):
            raise ConfigError(f"Measuring: steps: expected a plan such as MeasureAtInterval(50), got {self.steps!r}")
        for name, given, known in (
            ("loss_reduction", self.loss_reduction, LOSS_REDUCTIONS),
            ("bn", self.bn, BN_MEANINGS),
            ("measure", self.measure, MEASURES),
        ):
            if given not in known:
                raise ConfigError(f"Measuring: {name}={given!r}: {near_names(str(given), known)}")
        check_whole(self.sketch_rows, "Measuring: sketch_rows", least=2)
        if self.measure == "sketched" and self.bn == "exact":
            raise ConfigError('Measuring: measure="sketched" does not go with bn="exact"')

    @classmethod
    def of(cls, given: "Measuring | MeasuringPlan | None") -> "Measuring":
        """Return what an argument stands for: the settings, or only which steps are measured."""
        return given if isinstance(given, Measuring) else cls(steps=given)

    def check_sketch(self, batch_sizes: Sequence[int]) -> None:
        """Refuse a sketch that is too small for a batch.

        Args:
            batch_sizes: those that may be measured, ascending.

        Raises:
            ConfigError: it is.
        """
        least = LEAST_ROWS_PER_SAMPLE * batch_sizes[-1]
        if self.measure == "sketched" and self.sketch_rows < least:
            raise ConfigError(
                f"Measuring: sketch_rows={self.sketch_rows} is too small for batches of {batch_sizes[-1]}: give at "
                f"least {least}, {LEAST_ROWS_PER_SAMPLE} for each example"
            )

    def probe_arguments(self, seed: int) -> dict[str, Any]:
        """Return what ``FisherProbe`` is made with.

        Args:
            seed: of the projection.

        Returns:
            Its arguments by name.
        """
        return {
            "loss_reduction": self.loss_reduction,
            "bn": self.bn,
            "gradients": "rows" if self.reuse_weight_gradient else "library",
            "grad_scaler": self.grad_scaler,
            "measure": self.measure,
            "sketch_rows": self.sketch_rows,
            "sketch_seed": seed,
        }

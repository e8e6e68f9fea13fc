"""What a loop has declared of its steps, compared with what the optimizer has done."""

import logging

from autobatch.control.settings._settings import Settings

_LOG = logging.getLogger("autobatch")


class Declared:
    """Says once what a loop should have declared. What is counted are the steps that were taken, whatever was declared.

    Args:
        settings: what the controller was told.
    """

    def __init__(self, settings: Settings) -> None:
        self._accumulation = settings.plan.accumulation
        self._batch_size = settings.advise
        self._told = False

    def compare(self, batches: int, steps: int, first_step: int | None = None) -> None:
        """Compare a period's batches, each declared for one step, with the optimizer's steps."""
        if self._told or steps == batches:
            return
        self._told = True
        _LOG.warning(
            "the loop trained %d batches of the controller's, and the optimizer took %d steps, which are what counts: "
            "%s",
            batches,
            steps,
            self._advice(batches, steps, first_step),
        )

    def _advice(self, batches: int, steps: int, first_step: int | None) -> str:
        if not steps:
            return (
                "unless all were skipped, give the controller the optimizer whose step() the loop calls; in "
                "mid-training by replace()"
            )
        if steps > batches:
            per_step = max(1, round(self._accumulation * batches / steps))
            if self._accumulation > per_step:
                return f"accumulation={self._accumulation} was declared; say BatchPlan(accumulation={per_step})"
            if self._batch_size:
                return f"say advise={round(self._batch_size * batches / steps)}, if that is the loop's batch size"
            return "put every batch's forward and backward pass into `with controller.step()`"
        regular = first_step and steps in {batches // first_step, -(-batches // first_step)}  # a rest may have its own
        each = first_step if first_step and regular else batches / steps
        per_step = round(self._accumulation * each)
        if per_step > self._accumulation:
            return (
                f"if the loop accumulates {per_step} batches for a step, say plan=BatchPlan(accumulation={per_step}), "
                "or C̄ and L are those of its parts"
            )
        return "the others were skipped, as a GradScaler does where gradients are not finite"

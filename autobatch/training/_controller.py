"""The controller of a training that the engine carries out, which is validated after each of its decision periods."""

from autobatch.control import AutoBatchController


class EngineController(AutoBatchController):
    """A controller whose loop stops at the end of each decision period, also within an epoch."""

    _scouts_are_made = True

    @property
    def finished_periods(self) -> int:
        """Decision periods trained to their end, and decided on."""
        return self._training.account.periods

    @property
    def period_steps(self) -> int:
        """Optimizer steps that the running period has left, at the batch size in use."""
        return self._training.course.period_steps(self.batch_size)[0]

    @property
    def fits(self) -> int | None:
        """The largest batch size that fits into memory; None where nothing says that one does not."""
        return self._training.passage.fits.largest(self.task.batch_sizes)

    @property
    def part_over(self) -> bool:
        """Whether a period within an epoch is trained, and not decided on yet."""
        course = self._training.course
        return course.finished_periods > self.finished_periods and not course.epoch_trained

    def end_period(self, *, train_loss: float, validation_loss: float, validation_error: float, stop: bool) -> None:
        """Close the period that is trained, and have the next decision made.

        Args:
            train_loss: mean training loss over the period.
            validation_loss: mean validation loss after it.
            validation_error: share of validation examples classified wrongly after it, in [0, 1].
            stop: whether the training ends here; no decision is made then.
        """
        if not self.part_over:
            self.end_epoch(train_loss=train_loss, val_loss=validation_loss, val_error=validation_error, stop=stop)
            return
        if stop:
            self.stop("stopped by the loop")
        self._training.periods.end_if_due({
            "train_loss": train_loss,
            "validation_loss": validation_loss,
            "validation_error": validation_error,
        })

"""The loop's steps: which batch each one trains, whether it is measured, and what becomes of one that fails."""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor

from autobatch._errors import AutoBatchError
from autobatch._ranges import check_number, check_share
from autobatch.control._parts import Parts
from autobatch.control._periods import Periods
from autobatch.control.batches import examples_in, part_of
from autobatch.control.measuring import is_out_of_memory
from autobatch.control.steps import Cut, Passing, Step


class Stepping:
    """Trains one batch after another, in the order in which they are handed out.

    Args:
        parts: of the training.
        periods: ends a period where it is due.
    """

    def __init__(self, parts: Parts, periods: Periods) -> None:
        self._ranks, self._course, self._period = parts.ranks, parts.course, parts.period
        self._account, self._decisions = parts.account, parts.decisions
        self._passage, self._rates = parts.passage, parts.rates
        self._periods = periods
        self._advise = parts.advise
        self._passing: Passing | None = None
        self._orphans = 0

    @property
    def under_way(self) -> bool:
        """Whether a batch has begun and is not trained to its end."""
        return self._passing is not None

    @property
    def steps(self) -> int:
        """Optimizer steps taken."""
        return self._account.steps + self._period.steps

    def step(self, samples: int | Tensor | None, batch_dim: int) -> AbstractContextManager[Step]:
        """Return the context around one forward and backward pass, of a batch or of a part of one."""
        if self._passing is None:
            if self._orphans or self._is_beyond():
                self._orphans = max(0, self._orphans - 1)
                return nullcontext(Step())  # one that the controller does not count
            if self._course.stopped is not None and not self._course.waiting:  # what workers fetched ahead is trained
                self._course.refuse_finished()
            cut = self._enter()
            measured = self._period.measured and (cut.full or self._advise)
            self._passing = self._passage.passing(
                cut,
                self._passage.accumulated(cut.examples, cut.start),
                lr=self._rates.effective() if measured else math.nan,
                measured=measured,
                trainer=self,
            )
        if (probe := self._passing.probe) is not None:
            probe.samples, probe.batch_dim = samples, batch_dim
        return self._passing

    def micro_batches(self, batch: Any) -> Iterator[Any]:
        """Yield the parts of a batch, and again where memory runs out.

        Args:
            batch: one batch of the loader.

        Yields:
            Its parts, of the same structure.

        Raises:
            AutoBatchError: the loader returned another batch than asked for, a part was not trained, or a single
                example does not fit.
        """
        if self._is_beyond():
            yield batch
            return
        count = examples_in(batch)
        cut = self._enter()
        start, stop = self._ranks.share(cut.start, cut.stop)
        if count != stop - start:
            raise AutoBatchError(
                f"the loader returned a batch of {count} examples where {stop - start} were asked for (examples "
                f"{start} to {stop} of the epoch)"
            )
        measured = self._period.measured and cut.full
        self._passage.begin_batch()
        while True:
            self._passing = passing = self._passage.passing(
                cut,
                self._passage.sizes(cut.examples, cut.start),
                lr=self._rates.effective(),
                measured=measured,
                trainer=self,
                in_micro_batches=True,
            )
            left = True
            try:
                yield from _parts(passing, batch)
                again = self._passage.must_repeat(passing)
                if not again:
                    self._passage.end_batch()
                left = False
            finally:
                if left:
                    self._break_off(passing)
            if not again:
                break
            measured = False
        self.finish(passing)

    def hand_out(self) -> Cut | None:
        """Cut the next batch as the decision has it that holds there; None at the end of the epoch."""
        number = self._decisions.number_for(self._course.next_example)
        return self._course.hand_out(self._decisions.batch_size(number), number, plain=self._advise)

    def end_period_if_due(self) -> None:
        """End a period within the epoch that is trained; in the middle of a batch, nothing is due."""
        if self._passing is None:
            self._periods.end_if_due()

    def leave_batch(self) -> None:
        """Put a batch aside that the loop has left before its end, and what it still has of its parts."""
        self._break_off(self._passing)
        self._orphans = 0

    def end(self, given: Mapping[str, float | None], *, stop: bool) -> dict[str, float | None]:
        """Let the epoch be ended.

        Args:
            given: what the loop gives of the epoch; of several ranks' the first's count, and where they cannot be used,
                nothing is changed on any.
            stop: whether the loop stops the training here.

        Returns:
            The figures.

        Raises:
            AutoBatchError: a step is under way, or the training is finished.
            ConfigError: a figure is no number, or outside its range.
        """
        course = self._course
        if course.stopped is not None and not course.running:
            course.refuse_finished()

        def first() -> dict[str, Any]:
            return {"figures": _checked(given), "stopped": course.stopped or ("stopped by the loop" if stop else None)}

        told = self._ranks.first_makes(first)
        if told["stopped"]:
            course.stop(told["stopped"])
        if self._passing is not None and course.stopped is None:
            raise AutoBatchError("end_epoch() was called in the middle of a step")
        if course.running and (course.stopped is not None or self._advise):
            self._break_off(self._passing)
            course.skip_to_end()
        return told["figures"]  # type: ignore[no-any-return]

    def refuse_inside(self, what: str) -> None:
        """Refuse ``what`` within a step, lest a state lack a batch; one whose step was not even begun is put aside."""
        if self._passing is not None and self._passing.inside:
            raise AutoBatchError(f"{what} was called inside of a step; call it after optimizer.step()")
        if self._passing is None:
            self._course.fail()

    def _is_beyond(self) -> bool:
        """Whether a step is none that the controller counts."""
        if self._rates.repeats:
            return True
        if not self._advise or self._course.queued:  # a loop that is only advised may train more than it has said
            return False
        self._course.go_on()
        return self._course.finished or (self._course.running and self._course.epoch_trained)

    def _enter(self) -> Cut:
        self.end_period_if_due()
        if self._advise and not self._course.queued:  # the loop cuts its batches itself: they are counted as they come
            self._course.begin()
            self.hand_out()
        cut = self._course.enter()
        self._period.begin_step(cut.batch_size, self._course.period_steps, self._decisions.samples_wanted)
        self._decisions.apply(cut.decision, self._course.examples)
        return cut

    def fail(self, passing: Passing, error: BaseException) -> bool:
        """Deal with an error in a step: True where the batch is trained again."""
        if passing.in_micro_batches and self._passage.deals_with(passing, error):
            return True
        if is_out_of_memory(error):
            self._passage.fits.ran_out(passing.cut.batch_size)
            error.add_note(
                f"autobatch: a batch of {passing.cut.examples} examples. BatchPlan(micro_batch='auto') trains such a "
                "batch in parts that fit; a ladder of batch sizes that ends below it never asks for one"
            )
        self._forget(passing)
        if not passing.in_micro_batches:  # the parts that the loop still has of this batch
            self._orphans = len(passing.sizes) - 1 - passing.part
        return False

    def _forget(self, passing: Passing) -> None:
        """Put a batch aside whose step has raised; it is trained again unless the loop goes on."""
        if self._passing is passing:
            self._passing = None
            self._course.fail()

    def _break_off(self, passing: Passing | None) -> None:
        if passing is not None and self._passing is passing:
            if passing.done and self._ranks.size == 1:  # several have not brought their gradients together
                passing.measure()
                self.finish(passing)
            else:
                passing.abandon()
                self._forget(passing)

    def finish(self, passing: Passing) -> None:
        """Count a batch as trained."""
        self._passing = None
        self._rates.trained()
        if passing.probe is not None:
            self._period.samples.add(
                passing.probe,
                epoch=self._course.epoch + 1,
                step=self.steps + 1,
                batch_size=self._passage.measured_examples(passing.cut),
                lr=passing.lr,
                exact=not self._advise,
                full=passing.cut.full,
            )
            if self._period.timing:
                self._period.samples.settle()
        self._course.done()
        self._period.batches += 1


def _checked(given: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return what a loop gives of an epoch, as numbers in their ranges."""
    return {
        name: None if value is None else _CHECKS[name](value, f"end_epoch({name}=...)") for name, value in given.items()
    }


_CHECKS = {"val_loss": check_number, "val_error": check_share, "train_loss": check_number}


def _parts(passing: Passing, batch: Any) -> Iterator[Any]:
    """Yield the parts of one attempt at a batch, until one is given up."""
    place = 0
    for part, size in enumerate(passing.sizes):
        yield batch if len(passing.sizes) == 1 else part_of(batch, place, place + size)
        place += size
        if passing.given_up:
            return
        if passing.part == part:
            raise AutoBatchError(
                "a part of micro_batches() was not trained: put its forward and backward pass into "
                "`with controller.step()`"
            )

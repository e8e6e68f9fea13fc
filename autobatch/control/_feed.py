"""The loop's batches: which examples it gets next, through a sampler, as indices, or out of a stream."""

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from autobatch._errors import AutoBatchError
from autobatch.control._parts import Parts
from autobatch.control._stepping import Stepping
from autobatch.control.batches import PlannedBatchSampler, permutation, rebatched
from autobatch.control.steps import Cut

_LOG = logging.getLogger("autobatch")


class Feed:
    """Hands out an epoch's batches, each cut as the decision has it that holds at its first example.

    Args:
        parts: of the training; the settings have the plan and the seed of the permutations.
        stepping: trains what is handed out.
        device: where indices are put.
    """

    def __init__(self, parts: Parts, stepping: Stepping, device: torch.device) -> None:
        self._ranks, self._course, self._passage = parts.ranks, parts.course, parts.passage
        self._decisions, self._recorder, self._log = parts.decisions, parts.recorder, parts.log
        self._account, self._rewinding = parts.account, parts.rewinding
        self._stepping = stepping
        self._device = device
        self._seed = parts.settings.seed
        self._accumulation = parts.settings.plan.accumulation
        self._advise = parts.advise
        self._iteration = 0
        self._told_longer = False

    def sampler(self) -> PlannedBatchSampler:
        """Return this rank's batches as lists of example indices."""
        return PlannedBatchSampler(self._parts, self._part_count, lambda: self._order().tolist())

    def batches(self) -> Iterator[Tensor]:
        """Yield this rank's batches of an epoch as tensors of example indices, each trained before the next."""
        order = self._order().to(self._device)
        for start, stop in self._in_turn("batches()"):
            yield order[start:stop]

    def sizes(self) -> Iterator[int]:
        """Yield the sizes of this rank's batches of an epoch, each trained before the next."""
        for start, stop in self._in_turn("sizes()"):
            yield stop - start

    def _in_turn(self, what: str) -> Iterator[tuple[int, int]]:
        for start, stop in self._parts():
            yield start, stop
            if not self._stepping.under_way and self._course.queued:
                raise AutoBatchError(
                    f"a batch of {what} was not trained: put its forward and backward pass into "
                    "`with controller.step()`"
                )

    def rebatched(self, source: Iterable[Any]) -> Iterator[Any]:
        """Return this rank's batches of an epoch out of a stream.

        Args:
            source: the stream's own batches.

        Returns:
            Batches of the same structure, of the sizes that are decided. They raise an AutoBatchError where the stream
            has no example, or where what it holds cannot be joined.
        """
        skip = self._ranks.passed(self._course.examples - self._course.epoch * self._course.dataset_size)
        return rebatched(
            source, self._parts(), skip, shorten=self._shorten, longer=self._tell_longer, ahead=self._ahead
        )

    def break_off(self) -> None:
        """Have an iteration that is running end with an error: the training goes on from another place."""
        self._iteration += 1

    def _order(self) -> Tensor:
        return permutation(self._course.dataset_size, self._seed, self._course.epoch)

    def _cuts(self) -> Iterator[Cut]:
        """Hand out the epoch's batches; those that an earlier iteration has left untrained come first."""
        course = self._course
        course.refuse_finished()
        self._log.begin()
        self._recorder.begin()
        self._stepping.leave_batch()
        if not course.running:
            self._rewinding.begin(self._account.periods, self._decisions.best_period)
        course.begin()
        self._iteration += 1
        iteration, epoch = self._iteration, course.epoch
        waiting = iter(course.waiting)
        while course.stopped is None and course.epoch == epoch:
            if iteration != self._iteration:
                raise AutoBatchError(
                    "this iteration over the controller's batches is over: another has begun, or a state was loaded"
                )
            course.go_on()
            self._stepping.end_period_if_due()
            if course.finished:  # that decision was to stop
                return
            cut = next(waiting, None) or self._stepping.hand_out()
            if cut is None:
                return
            yield cut

    def _parts(self) -> Iterator[tuple[int, int]]:
        """Yield where this rank's parts of the epoch's batches start and stop in the epoch's order."""
        for cut in self._cuts():
            place = self._ranks.share(cut.start, cut.stop)[0]
            for size in self._passage.accumulated(cut.examples, cut.start):
                yield place, place + size
                place += size

    def _part_count(self) -> int:
        steps = self._course.steps(self._decisions.last.batch_size, plain=self._advise)
        return steps * self._accumulation

    def _tell_longer(self) -> None:
        if self._course.stopped is None and not self._told_longer and self._ranks.leads:
            self._told_longer = True
            _LOG.warning(
                "the stream has more than dataset_size=%d examples; what comes after them is not trained in this epoch",
                self._course.dataset_size,
            )

    def _ahead(self, stop: int) -> int:
        single = self._ranks.size == self._accumulation == 1  # else a stream cannot end early
        return self._course.least if single and self._course.least > 1 and stop < self._course.dataset_size else 0

    def _shorten(self, start: int, examples: int) -> None:
        if self._ranks.size > 1 or self._accumulation > 1:
            raise AutoBatchError(
                "a stream ended before dataset_size examples; with several ranks or accumulated parts the others would "
                "wait for ever: give dataset_size the number of examples that every rank's stream has"
            )
        if not start and not examples:
            raise AutoBatchError(
                f"the stream gave no example in epoch {self._course.epoch + 1}: is it a generator that has ended? Give "
                "rebatch() something that can be gone through again, such as a loader"
            )
        _LOG.warning(
            "the stream ended %d examples before dataset_size=%d; the epoch ends with them",
            self._course.dataset_size - start - examples,
            self._course.dataset_size,
        )
        self._course.shorten(start, examples)

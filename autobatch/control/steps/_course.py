"""The way through the data: how it is cut into batches, which are handed out, and which are trained."""

import logging
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from autobatch._errors import AutoBatchError, CheckpointError
from autobatch._plain import Epochs
from autobatch._steps import epochs_of, steps_per_epoch
from autobatch.control.batches import full_steps_per_epoch
from autobatch.control.measuring import stretches

_LOG = logging.getLogger("autobatch")


@dataclass(frozen=True)
class Cut:
    """One global batch.

    Attributes:
        start: its first example, counted in the epoch's order.
        stop: the example after its last.
        batch_size: the batch size in force when it was cut; the batch itself may be larger or smaller at the end of a
            period.
        decision: number of the decision in force when it was cut.
    """

    start: int
    stop: int
    batch_size: int
    decision: int

    @property
    def examples(self) -> int:
        """Examples in the batch."""
        return self.stop - self.start

    @property
    def full(self) -> bool:
        """Whether the batch has exactly the batch size in force."""
        return self.examples == self.batch_size


class Course:
    """Cuts each epoch's order of examples into batches, and keeps account of every one of them.

    An epoch consists of one or more *periods*, after each of which a decision may be taken. Batches never reach across
    the end of a period; within one, the rule of ``batch_bounds`` holds. What is handed
    out (to a loader with workers that fetch ahead) waits in a queue until it is trained, so that a new batch size takes
    effect at the first example that is not handed out yet, and a restart goes on at the first that is not trained.

    Args:
        dataset_size: examples in one epoch.
        epochs: length of the whole training.
        periods: periods in one epoch.
        least: examples that a batch has at least, as far as the batch size allows it.
    """

    def __init__(self, dataset_size: int, epochs: int, periods: int = 1, least: int = 1) -> None:
        self.dataset_size = dataset_size
        self.epochs = epochs
        self.least = least
        self._ends = tuple(stop for _, stop in stretches(dataset_size, periods))
        self.epoch = 0
        """Finished epochs."""
        self.running = False
        """Whether an epoch has begun and is not ended."""
        self._handed_out = 0
        self._trained = 0
        self._iterated = 0
        self._queue: deque[Cut] = deque()
        self._current: Cut | None = None
        self._failed: Cut | None = None
        self._loaded_at_end = False
        self.stopped: str | None = None
        """Why the training was stopped before its last epoch; None where it was not."""

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the training was stopped."""
        return self.stopped is not None or self.epoch >= self.epochs

    def refuse_finished(self) -> None:
        """Refuse to go on after the end."""
        if self.finished:
            raise AutoBatchError(
                f"the training is finished after {self.epoch} of {self.epochs} epochs"
                + (f" ({self.stopped})" if self.stopped is not None else "")
                + ": write the loop as 'for epoch in controller.each_epoch()' or 'while not controller.finished', "
                "which end there"
            )

    def stop(self, reason: str) -> None:
        """End the training early; the first reason counts."""
        self.stopped = self.stopped or reason

    @property
    def examples(self) -> int:
        """Examples trained since the start of the training."""
        return self.epoch * self.dataset_size + self._trained

    @property
    def next_example(self) -> int:
        """The first example, counted since the start of the training, that is not handed out yet."""
        return self.epoch * self.dataset_size + self._handed_out

    @property
    def progress(self) -> float:
        """Examples trained / examples of the whole training, in [0, 1]."""
        return self.examples / (self.epochs * self.dataset_size)

    @property
    def periods(self) -> int:
        """Periods in one epoch."""
        return len(self._ends)

    @property
    def longest_period(self) -> int:
        """Examples in the longest period; the shortest has one less at most."""
        return max(stop - start for start, stop in zip((0, *self._ends), self._ends, strict=False))

    @property
    def finished_periods(self) -> int:
        """Periods trained to their end since the start of the training."""
        return self.epoch * self.periods + bisect_right(self._ends, self._trained)

    @property
    def finished_epochs(self) -> Epochs:
        """Finished epochs, with a part of one for the periods trained to their end in the running one."""
        return epochs_of(self.finished_periods, self.periods)

    @property
    def period_left(self) -> int:
        """Examples of the running period that are not trained yet."""
        return next((end - self._trained for end in self._ends if end > self._trained), 0)

    def period_steps(self, batch_size: int) -> tuple[int, int]:
        """Return the steps that the running period has left, and how many of them are worth measuring.

        Args:
            batch_size: global batch size.

        Returns:
            Steps, and those of exactly ``batch_size`` examples, see ``full_steps_per_epoch``.
        """
        left = self.period_left
        return steps_per_epoch(left, batch_size, self.least), full_steps_per_epoch(left, batch_size, self.least)

    @property
    def epoch_trained(self) -> bool:
        """Whether every example of the running epoch is trained."""
        return self._trained == self.dataset_size

    @property
    def waiting(self) -> tuple[Cut, ...]:
        """What is handed out and not trained, in order."""
        return (*(cut for cut in (self._failed,) if cut is not None), *self._queue)

    @property
    def queued(self) -> bool:
        """Whether something is handed out whose training has not begun."""
        return bool(self._queue)

    def steps(self, batch_size: int, *, plain: bool = False) -> int:
        """Return the optimizer steps of the running iteration over an epoch, if the batch size stays as it is.

        Args:
            batch_size: global batch size.
            plain: see ``hand_out``.

        Returns:
            Steps handed out since the iteration began, and those to come; of a whole epoch where none is running.
        """
        start, steps = (self._handed_out, self._iterated) if self.running else (0, 0)
        if plain:
            return steps + -(-(self.dataset_size - start) // batch_size)
        return steps + self._steps_from(start, batch_size)

    def steps_left(self, batch_size: int) -> int:
        """Return the optimizer steps to the end, of waiting batches too, if the batch size stays as it is."""
        if self.finished:
            return 0
        left = self.epochs - self.epoch - 1
        return self._steps_from(self._trained, batch_size) + left * self._steps_from(0, batch_size)

    def _steps_from(self, start: int, batch_size: int) -> int:
        """Return the optimizer steps of an epoch from an example on."""
        stops = [start, *(end for end in self._ends if end > start)]
        return sum(steps_per_epoch(stop - begun, batch_size, self.least) for begun, stop in pairwise(stops))

    def begin(self) -> None:
        """Begin an epoch, or go on with the one that is running; what was entered and not done is handed out again.

        After a restart between an epoch's last step and its end, one iteration has no batches.

        Raises:
            AutoBatchError: the running epoch is trained to its end and was not ended.
        """
        if not self.running:
            self.running, self._handed_out, self._trained = True, 0, 0
        elif self.epoch_trained and not self._loaded_at_end:
            raise AutoBatchError(
                f"epoch {self.epoch + 1} is trained to its end: call end_epoch() before the next one's batches"
            )
        self._loaded_at_end = False
        self.fail()
        self._try_again()
        self._iterated = len(self._queue)

    def hand_out(self, batch_size: int, decision: int, *, plain: bool = False) -> Cut | None:
        """Cut the next batch and put it into the queue.

        Args:
            batch_size: global batch size in force.
            decision: number of the decision in force.
            plain: whether it is cut as any loader does: full batches, and whatever is left at the end of the epoch.

        Returns:
            The batch; None at the end of the epoch.
        """
        start = self._handed_out
        place = bisect_right(self._ends, start)
        if place == len(self._ends):
            return None
        end = self._ends[place]
        if plain:
            stop = min(start + batch_size, self.dataset_size)
        else:
            stop = end if steps_per_epoch(end - start, batch_size, self.least) == 1 else start + batch_size
        cut = Cut(start, stop, batch_size, decision)
        self._queue.append(cut)
        self._handed_out = stop
        self._iterated += 1
        return cut

    def go_on(self) -> None:
        """Pass over a batch whose step raised: the loop has asked for another one."""
        if self._failed is not None:
            _LOG.warning(
                "the loop went on after a step that raised: examples %d to %d of epoch %d are not trained",
                self._failed.start,
                self._failed.stop,
                self.epoch + 1,
            )
            failed, self._failed = self._failed, None
            self._pass(failed)

    def enter(self) -> Cut:
        """Return the batch whose training begins: the oldest that is handed out.

        After a step that raised it is the same one again; but where the loop has asked for another (``go_on``), or
        cannot be seen to ask because everything is handed out, the next.

        Returns:
            The batch.

        Raises:
            AutoBatchError: nothing is handed out.
        """
        self.fail()
        if self._queue and self._handed_out == self.dataset_size:
            self.go_on()
        self._try_again()
        if not self._queue:
            raise AutoBatchError(
                "step() was called outside of a loop over the controller's batches: take them from batches(), from "
                "rebatch(...) or from a DataLoader with batch_sampler=controller.batch_sampler"
            )
        self._current = self._queue.popleft()
        return self._current

    def done(self) -> None:
        """Count the batch that was entered as trained."""
        assert self._current is not None
        self._pass(self._current)
        self._current = None

    def fail(self) -> None:
        """Put a batch that was entered aside: its step raised. It is trained again unless the loop goes on."""
        if self._current is not None:
            self._failed, self._current = self._current, None

    def shorten(self, start: int, examples: int) -> None:
        """End the running epoch early: a stream had fewer examples than were announced. Those missing count as seen.

        Args:
            start: where the last batch starts, which is handed out and not entered.
            examples: how many examples it has; with none it is taken back.
        """
        while self._queue and self._queue[-1].start >= start:
            cut = self._queue.pop()
            self._iterated -= 1
        if examples:
            self._queue.append(Cut(start, start + examples, cut.batch_size, cut.decision))
            self._iterated += 1
        self._handed_out = self.dataset_size
        if not self.waiting and self._current is None:
            self._trained = self.dataset_size

    def skip_to_end(self) -> None:
        """Count the rest of the running epoch as seen; for loops that cut batches by themselves, and at a stop."""
        self.running = True
        self._queue.clear()
        self._current = self._failed = None
        self._handed_out = self._trained = self.dataset_size

    def end(self) -> None:
        """End the epoch; refused where none has begun, or examples are left."""
        if not self.running:
            raise AutoBatchError("end_epoch() was called without an epoch of batches before it")
        self.fail()
        if not self._queue and self._handed_out == self.dataset_size:
            self.go_on()
        if not self.epoch_trained:
            raise AutoBatchError(
                f"end_epoch() was called in the middle of an epoch: {self._trained} of {self.dataset_size} examples "
                "are trained; every batch's forward and backward pass belongs into `with controller.step()`"
            )
        self.epoch += 1
        self.running, self._handed_out, self._trained = False, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the data, and what is handed out and not trained to its end, as JSON-able values."""
        waiting = self.waiting if self._current is None else (self._current, *self.waiting)
        return {
            "epoch": self.epoch,
            "running": self.running,
            "trained": self._trained,
            "waiting": [[cut.start, cut.stop, cut.batch_size, cut.decision] for cut in waiting],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned; where it is not of this course, nothing is changed."""
        epoch, running, trained = int(state["epoch"]), bool(state["running"]), int(state["trained"])
        waiting = [Cut(*(int(value) for value in cut)) for cut in state["waiting"]]
        place = trained
        for cut in waiting:
            if cut.start != place or not cut.start < cut.stop <= self.dataset_size or cut.batch_size < 1:
                raise CheckpointError(f"controller state is damaged: batches {state['waiting']} from example {trained}")
            place = cut.stop
        if not (0 <= epoch <= self.epochs and 0 <= trained <= self.dataset_size and (running or not place)):
            raise CheckpointError(f"controller state is damaged: epoch {epoch}, example {trained}, running {running}")
        self.epoch, self.running, self._trained, self._handed_out = epoch, running, trained, place
        self._queue, self._current, self._failed = deque(waiting), None, None
        self._iterated, self._loaded_at_end = len(waiting), self.epoch_trained

    def _try_again(self) -> None:
        if self._failed is not None:
            self._queue.appendleft(self._failed)
            self._failed = None

    def _pass(self, cut: Cut) -> None:
        self._trained = cut.stop
        if self._handed_out == self.dataset_size and not self._queue:
            self._trained = self.dataset_size

"""One global batch on its way through the model: its parts, what measures it, and what a loop's step gets."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any, Protocol

from torch import Tensor

from autobatch._errors import AutoBatchError, ConfigError
from autobatch.control.steps._course import Cut
from autobatch.control.steps._fits import Fits
from autobatch.fisher import FisherProbe


class Step:
    """What ``with controller.step() as step`` yields: the backward pass of a batch, or of a part of it.

    Args:
        passing: the batch; None where nothing is controlled any more.
    """

    def __init__(self, passing: "Passing | None" = None) -> None:
        self._passing = passing

    def backward(self, loss: Tensor, using: Callable[[Tensor], Any] | None = None) -> None:
        """Do what ``loss.backward()`` does; scale a part's loss to its share, and measure in the same pass.

        Args:
            loss: the loss of the batch or part, scaled where a GradScaler is in use; a scalar.
            using: what is called with the loss in place of ``loss.backward()``, such as ``accelerator.backward``.

        Raises:
            ConfigError: the loss is no tensor.
        """
        if not isinstance(loss, Tensor):
            raise ConfigError(f"step.backward(loss): expected Tensor, got {loss!r}")
        if self._passing is not None:
            self._passing.backward(loss, using)
        elif using is not None:
            using(loss)
        else:
            loss.backward()  # type: ignore[no-untyped-call]


class Trainer(Protocol):
    """What a batch is trained by, and counted: the controller's ``Stepping``."""

    def finish(self, passing: "Passing") -> None:
        """Count a batch as trained."""

    def fail(self, passing: "Passing", error: BaseException) -> bool:
        """Deal with an error in a step: True where the batch is trained again."""
        ...


class Passing:
    """A batch in training; the context manager around each of its parts' forward and backward pass.

    Args:
        cut: the global batch.
        sizes: examples of each part of this rank's share.
        weights: what each part's loss is multiplied by.
        contexts: what is entered around a part; called with the part's number.
        probe: what measures the batch; None where it is not measured.
        lr: effective learning rate of the step.
        unweighted: called where a part that needs its weight had no ``step.backward``.
        trainer: is told when the last part is done, and when one has raised.
        in_micro_batches: whether a loop over micro-batches sees to the end of the batch.
        fits: learns what the batch takes of memory; None where that would say nothing.
    """

    def __init__(
        self,
        cut: Cut,
        sizes: Sequence[int],
        weights: Sequence[float],
        *,
        contexts: Callable[[int], list[AbstractContextManager[Any]]],
        probe: FisherProbe | None,
        lr: float,
        unweighted: Callable[[], None],
        trainer: Trainer,
        in_micro_batches: bool,
        fits: Fits | None = None,
    ) -> None:
        self.cut = cut
        self.sizes = sizes
        self.weights = weights
        self.probe = probe
        self.lr = lr
        self.part = 0
        self.given_up = False
        self.measured = probe is not None
        self._contexts = contexts
        self._unweighted = unweighted
        self._trainer = trainer
        self.in_micro_batches = in_micro_batches
        self._fits = fits
        self._stack: ExitStack | None = None
        self.inside = False
        """Whether a part is on its way."""
        self._backward = False

    @property
    def done(self) -> bool:
        """Whether every part has gone through."""
        return self.part == len(self.sizes)

    def __enter__(self) -> Step:
        if self.inside:
            raise AutoBatchError("step() was entered inside of another step")
        if self.done or self.given_up:
            raise AutoBatchError("this step is over: call controller.step() anew for each batch")
        self._backward = False
        contexts = self._contexts(self.part)
        if self.probe is not None or contexts:
            self._enter(contexts)
        if self._fits is not None:
            self._fits.begin()
        self.inside = True
        return Step(self)

    def _enter(self, contexts: Sequence[AbstractContextManager[Any]]) -> None:
        with ExitStack() as stack:
            if self.probe is not None:
                if self.part == 0:
                    self.probe.__enter__()
                self.probe.resume()
                stack.callback(self.abandon)
            entered = ExitStack()
            stack.push(entered)
            for context in contexts:
                entered.enter_context(context)
            stack.pop_all()
        self._stack = entered

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self.inside = False
        if self._stack is not None:
            self._stack.__exit__(kind, error, traceback)
            self._stack = None
        if error is not None:
            self.abandon()
            self.given_up = self._trainer.fail(self, error)
            return self.given_up
        if self.weights[self.part] != 1.0 and not self._backward:
            self._refuse_plain_backward()
        self.part += 1
        if self.done and not self.in_micro_batches:
            self.measure()
            self._trainer.finish(self)
        elif self.probe is not None:  # what lies between two parts is not watched
            self.probe.pause()
        return False

    def backward(self, loss: Tensor, using: Callable[[Tensor], Any] | None) -> None:
        """Run the part's backward pass.

        Args:
            loss: its loss.
            using: what is called in place of ``loss.backward()``.

        Raises:
            AutoBatchError: the step has not begun, or is over.
        """
        if not self.inside:
            raise AutoBatchError("step.backward(loss) belongs into `with controller.step() as step`; that step is over")
        self._backward = True
        if self._fits is not None:
            self._fits.passed_forward(self.cut.batch_size)
        weight = self.weights[self.part]
        if weight != 1.0:
            loss = loss * weight
        if using is not None:
            using(loss)
        elif self.probe is not None:
            self.probe.backward(loss)
        else:
            loss.backward()  # type: ignore[no-untyped-call]

    def measure(self) -> None:
        """End measuring, on all ranks; where they measure the whole batch together, they exchange what each has."""
        if self.probe is not None and self.probe.entered:
            self.probe.__exit__(None, None, None)
            if self.probe.exchanges_after:
                self.probe.exchange()

    def abandon(self) -> None:
        """End measuring where the batch is broken off; says nothing to other ranks."""
        if self.probe is not None and self.probe.entered:
            self.probe.__exit__(AutoBatchError, AutoBatchError("the batch was broken off"), None)
        self.probe = None

    def _refuse_plain_backward(self) -> None:
        if not self.in_micro_batches:  # a framework's loop may have left out the backward pass
            self._unweighted()
            return
        self.abandon()
        refusal = AutoBatchError(
            "a part of a batch needs step.backward(loss) in place of loss.backward(): it scales the part's loss"
        )
        self._trainer.fail(self, refusal)
        raise refusal

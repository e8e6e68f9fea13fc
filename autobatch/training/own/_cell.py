"""One call of a loop of somebody's own: its controller, what it is, and where it stands after every decision period."""

import math
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from autobatch._errors import AutoBatchError, ConfigError
from autobatch.control import AutoBatchController
from autobatch.control.measuring import is_out_of_memory
from autobatch.control.settings._own_task import loop_facts
from autobatch.control.steps._finite import all_finite
from autobatch.training._engine import explosion

Train = Callable[[AutoBatchController], object]
"""A loop: trains with the controller that it is given, and may return a mapping with what belongs to it."""


class LoopCell:
    """One call of a loop; beacons and scouts are such.

    Args:
        controller: the controller that the loop is called with.
        arguments: what it was made with, grouped.

    Attributes:
        controller: the controller.
        given: names of the figures that the loop has given.
        rows: what is known of each decision period.
        facts: what could be seen of the loop; None until it has attached the controller.
        model: its network, from then on and until ``release``.
        out_of_memory: whether the loop has ended as memory ran out.
    """

    def __init__(self, controller: "RecordingController", arguments: Mapping[str, Any]) -> None:
        self.controller = controller
        self.given: set[str] = set()
        self.rows: list[dict[str, Any]] = []
        self.facts: dict[str, Any] | None = None
        self.model: nn.Module | None = None
        self.out_of_memory = False
        self._arguments = arguments
        controller.cell = self

    def attach(self, model: nn.Module, optimizer: Optimizer, **sizes: Any) -> None:
        """Take down what the loop is; ``sizes`` are dataset size and epochs, and the plan."""
        told = {**self._arguments, **{name: size for name, size in sizes.items() if size is not None}}
        if told.get("dataset_size") is None or told.get("epochs") is None:
            raise ConfigError("this takes a loop of epochs: give dataset_size and epochs to attach(), not examples")
        self.facts = loop_facts(
            model,
            optimizer,
            dataset_size=told["dataset_size"],
            epochs=told["epochs"],
            decide_every=told["plan"].decide_every,
            loss_reduction=told["measuring"].loss_reduction,
        )
        self.model = model

    def observe(self, figures: Mapping[str, Any]) -> None:
        """Take down where the controller stands at the end of a decision period, or of an epoch."""
        raise NotImplementedError

    def call(self, train: Train) -> object:
        """Call the loop and return what it does; an error of its own becomes an AutoBatchError with its frames."""
        try:
            return train(self.controller)
        except AutoBatchError:
            raise
        except Exception as error:
            self.out_of_memory = is_out_of_memory(error)
            # The loop's own frames only.
            told = traceback.format_exception(error.with_traceback(error.__traceback__ and error.__traceback__.tb_next))
            if getattr(error, "__notes__", None):  # the last line is what reports quote
                told.append(f"{type(error).__name__}: {error}".splitlines()[0])
            raise AutoBatchError(f"train raised\n{''.join(told).rstrip()}") from None
        finally:
            self.release()

    def check_attached(self) -> None:
        """Refuse a loop that has never attached its controller."""
        if self.facts is None:
            raise AutoBatchError(
                "train(controller) never attached the controller: call controller.attach(model, optimizer, "
                "dataset_size=..., epochs=...) in it"
            )

    def release(self) -> None:
        """Let go of the model, so that the next cell has its memory."""
        self.model = None


class RecordingController(AutoBatchController):
    """A controller that tells a cell that it is attached, and where it stands at the end of each decision period."""

    cell: LoopCell

    @property
    def fetched_ahead(self) -> bool:
        """Whether batches are handed out that are not trained."""
        return bool(self._training.course.waiting)

    def attach(self, model: nn.Module, optimizer: Optimizer, **sizes: Any) -> "RecordingController":
        """Attach, and tell the cell."""
        super().attach(model, optimizer, **sizes)
        self._training.periods.watcher = self._observe
        self.cell.attach(model, optimizer, plan=self._training.settings.plan, **sizes)
        return self

    def end_epoch(self, **figures: Any) -> Any:
        """Note which figures the loop has, and end the epoch."""
        self.cell.given |= {name for name, value in figures.items() if value is not None}
        return super().end_epoch(**figures)

    def _observe(self, figures: Mapping[str, float]) -> None:
        self.cell.observe({
            "progress": self.progress,
            "batch_size": self.batch_size,
            "lr_effective": self.lr_effective,
            "c_bar": self.c_bar,
            "l_cum": self.l_cum,
            "steps": self.steps,
            "samples": self.samples,
            "examples": self.examples,
            "measuring_seconds": self.measuring_seconds,
            "seconds": self.seconds,
            **figures,
        })


def divergence(figures: Mapping[str, Any], model: nn.Module | None, classes: int | None, when: str) -> str | None:
    """Say what shows that a training has diverged.

    NaN as a figure alone does not: it also stands for one that a loop does not know.

    Args:
        figures: training loss and validation figures.
        model: the network.
        classes: classes of the task, where it is a classification.
        when: when they were seen, for the message.

    Returns:
        What shows it; None where nothing does.
    """
    for figure in ("train_loss", "validation_loss", "validation_error"):
        if math.isinf(figures[figure]):
            return f"the {figure.replace('_', ' ')} became {figures[figure]} {when}"
    if model is not None and not all_finite(model.parameters()):
        return f"the parameters are no longer finite {when}"
    seen = explosion(figures["train_loss"], classes) if classes else None
    return None if seen is None else f"{seen}, {when}"

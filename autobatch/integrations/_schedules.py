"""Learning-rate schedules made for a number of steps, moved by the examples trained instead."""

import inspect
from collections.abc import Callable
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

from autobatch._errors import ConfigError
from autobatch.integrations._unwrapped import unwrapped_scheduler

_ROUND_OFF = 1e-6


class ScheduleByExamples:
    """A scheduler that is as far as the training is, whatever the sizes of its batches.

    A schedule such as "warm up for 100 steps, then decay until step 1,000" counts steps of one batch size. With batches
    of other sizes it would end too early or too late. This one goes on, whenever it is stepped, to the step at which it
    would be if all batches so far had had that size. A ``LambdaLR``, as nearly all of Transformers' own schedules are,
    takes every place in between; other schedulers make whole steps: none, one or several at a time.

    In all else it is the scheduler that it holds, and its state is that scheduler's.

    Args:
        scheduler: the scheduler; one that Accelerate has prepared is unwrapped.
        place: returns how many of its steps the scheduler shall have made by now, such as
            ``lambda: controller.progress * 1000``.

    Raises:
        ConfigError: the scheduler does not count steps.
    """

    def __init__(self, scheduler: Any, place: Callable[[], float]) -> None:
        scheduler = unwrapped_scheduler(scheduler)
        if counts_no_steps(scheduler):
            raise ConfigError(f"schedule: {type(scheduler).__name__} counts no steps that could be counted in examples")
        self._scheduler = scheduler
        self._place = place
        self._last = 0.0

    def step(self, *_: Any, **__: Any) -> None:
        """Go on to where the training is; called after every step of the optimizer."""
        place = self._place()
        if place == self._last:  # between the parts of an accumulated batch
            return
        self._last = place
        if isinstance(self._scheduler, LambdaLR):
            self._scheduler.last_epoch = place - 1  # type: ignore[assignment]
            self._scheduler.step()
            return
        for _step in range(int(place + _ROUND_OFF) - int(self._scheduler.last_epoch)):
            self._scheduler.step()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_scheduler":  # not there yet when a copy is being made
            raise AttributeError(name)
        return getattr(self._scheduler, name)


def counts_no_steps(scheduler: Any) -> bool:
    """Return whether a scheduler goes by something else than steps, such as a metric."""
    return "metrics" in inspect.signature(scheduler.step).parameters or not hasattr(scheduler, "last_epoch")

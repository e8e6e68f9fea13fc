"""A decision period as it is trained: which steps are measured, what they gave, how far it has come."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from autobatch._errors import CheckpointError
from autobatch.control.measuring._measuring import INTERVAL, MeasuringPlan, at_interval, middles, stretches
from autobatch.control.measuring._samples import MeasuredStep, Samples
from autobatch.control.measuring._timing import EpochTimer
from autobatch.fisher import SpectralPosition

_LOG = logging.getLogger("autobatch")

BY_SAMPLE = 4
"""Steps of a period that are measured where the policy asks for more and each takes a backward pass for each sample."""


class Period:
    """What happens between two decisions.

    Args:
        plan: says which steps are measured.
        device: where the model trains.
        gives_up: whether steps that cannot be measured end the measuring, with a warning, instead of the training.

    Attributes:
        samples: what was measured.
        batches: batches that were trained, each for one step of the optimizer where the loop does as it has declared.
        first_step: batches that had been trained when the optimizer took its first step; None before.
    """

    def __init__(self, plan: MeasuringPlan, device: torch.device, *, gives_up: bool = False) -> None:
        self.samples = Samples(gives_up=gives_up)
        self.batches = 0
        self.first_step: int | None = None
        self._steps = 0
        self._skipped: list[Tensor] = []
        self._plan = plan
        self._device = device
        self._chosen: frozenset[int] | None = None
        self._timer: EpochTimer | None = None
        self._last_batch_size: int | None = None

    def begin_step(self, batch_size: int, steps_left: Callable[[int], tuple[int, int]], wanted: int = 0) -> None:
        """Begin a step; the first one of a period asks the plan.

        Args:
            batch_size: global batch size in force.
            steps_left: returns for it the steps that the period has left, and how many of them, from the first, are
                worth measuring.
            wanted: how many the policy asks to have measured, at least.
        """
        if self._chosen is None:
            steps, full_steps = steps_left(batch_size)
            chosen = self._plan.choose(batch_size, steps, full_steps, changed=batch_size != self._last_batch_size)
            if wanted and self._plan.measures and not self._plan.timing:
                if self.samples.by_sample:
                    asked = middles(full_steps, min(wanted, BY_SAMPLE, full_steps))
                else:
                    asked = at_interval(full_steps, INTERVAL, wanted)
                if len(asked) > len(chosen):  # else the plan is denser, and no clock has had it choose fewer
                    self._plan.pay(batch_size, len(asked) - len(chosen))
                    chosen = asked
            self._chosen = frozenset(chosen)
            self._timer = EpochTimer(self._device, steps, chosen) if self._plan.timing else None
            self._last_batch_size = batch_size
            self.samples.clear()
        if self._timer is not None:
            self._timer.mark(self.batches)

    def took_step(self, skipped: Tensor | None = None) -> None:
        """Count a step of the optimizer; one before the period's first batch is none of this training's."""
        if self._chosen is None:
            return
        self._steps += 1
        self.first_step = self.batches if self.first_step is None else self.first_step
        if skipped is not None:
            self._skipped.append(skipped)

    @property
    def steps(self) -> int:
        """Steps that the optimizer has taken."""
        while self._skipped:
            self._steps -= bool(self._skipped.pop())
        return self._steps

    @property
    def measured(self) -> bool:
        """Whether the step that has begun is one of those to be measured."""
        return self._chosen is not None and self.batches in self._chosen and not self.samples.given_up

    @property
    def timing(self) -> bool:
        """Whether the period is being timed."""
        return self._timer is not None

    def timed(self) -> tuple[float, float] | None:
        """Return the seconds of a step and of a sample, where the period was timed; called at its end."""
        if self._timer is None:
            return None
        self._timer.finish(self.batches)
        measurements = self.samples.measurements
        return self._timer.seconds(measurements[-1].seconds) if measurements else None

    def close(self, position: SpectralPosition, lr: float) -> None:
        """Bring a position up to date with the period's samples, and get ready for the next period.

        Args:
            position: the training's position.
            lr: effective learning rate in force, for steps of which none was measured.
        """
        usable = [sample for sample in self.samples.measurements if sample.usable]
        lost = [sample for sample in self.samples.measurements if not sample.usable]
        nothing = [sample.step for sample in lost if sample.trace == 0.0]
        if nothing:
            _LOG.warning(
                "every gradient is zero in step %s: not counted towards C̄ and L; is the loss cut off from the "
                "parameters, or are all units dead?",
                _few(nothing),
            )
        if len(lost) > len(nothing):
            wild = [sample.step for sample in lost if sample.trace != 0.0]
            _LOG.warning("no finite gradients in step %s: not counted towards C̄ and L", _few(wild))
        if len(usable) > self.steps:  # of several batches for a step, one stands for it
            usable = [usable[index] for index in middles(len(usable), self.steps)]
        for sample, (start, stop) in zip(usable, stretches(self.steps, len(usable)), strict=True):
            position.add(
                sample.condition_number,
                sample.trace,
                batch_size=sample.batch_size,
                lr=sample.lr,
                steps=stop - start,
            )
        if not usable and self.steps:
            position.carry(self.steps, lr)
        self.batches, self._steps, self._chosen, self._timer = 0, 0, None, None
        self.first_step = None

    def state_dict(self) -> dict[str, Any]:
        """Return how far the period has come, as JSON-able values; what is held is decomposed for that."""
        self.samples.settle()
        running = self._chosen is not None
        return {
            "steps": self.steps,
            "batches": self.batches,
            "chosen": sorted(self._chosen) if self._chosen is not None else None,
            "samples": [sample.to_dict() for sample in self.samples.measurements] if running else [],
            "last_batch_size": self._last_batch_size,
            "by_sample": self.samples.by_sample,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned; a period that was being timed goes on untimed."""
        steps, chosen, last = int(state["steps"]), state["chosen"], state["last_batch_size"]
        batches = int(state.get("batches", steps))  # versions before counted batches as steps
        samples = [MeasuredStep.from_dict(sample) for sample in state["samples"]]
        if min(steps, batches) < 0 or (chosen is None and (steps or batches or samples)):
            raise CheckpointError(f"controller state is damaged: {steps} steps of a period that has not begun")
        for own in samples:
            if own.batch_size < 1 or not own.lr >= 0.0 or own.condition_number < 1.0 or own.trace < 0.0:
                raise CheckpointError(f"controller state is damaged: {own}")
        self.batches, self._steps, self._skipped = batches, steps, []
        self._last_batch_size, self._timer = None if last is None else int(last), None
        self._chosen = None if chosen is None else frozenset(int(step) for step in chosen)
        self.samples.restore(samples)
        self.samples.by_sample = bool(state.get("by_sample", False))  # versions before did not know


def _few(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps[:3])) + (f" and {len(steps) - 3} more" if len(steps) > 3 else "")

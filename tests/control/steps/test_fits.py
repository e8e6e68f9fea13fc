"""Which batch sizes fit into memory, by a device whose memory can be read, which is made up here."""

import logging
from typing import Any

import pytest
import torch

from autobatch.control.steps import _fits
from autobatch.control.steps._fits import FULL, SLACK, Fits
from autobatch.policies import Decision, Observation
from tests.control.test_steering import Loop, Steering

LADDER = (8, 16, 32, 64, 128)
CPU = torch.device("cpu")


class Device:
    """Memory of so many bytes, of which ``fixed`` are taken, and ``each`` by the forward pass of an example."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, size: float, fixed: int = 100, each: int = 10) -> None:
        self.size, self.fixed, self.each, self.taken = size, fixed, each, fixed
        monkeypatch.setattr(_fits, "allocated", lambda device: self.taken)
        monkeypatch.setattr(_fits, "capacity", lambda device: self.size)

    def passes(self, fits: Fits, batch_size: int) -> None:
        """Have a batch trained."""
        if fits.learns(batch_size):
            fits.begin()
            self.taken = self.fixed + self.each * batch_size
            fits.passed_forward(batch_size)
            self.taken = self.fixed


def needed(batch_size: int, fixed: int = 150) -> float:
    """What a batch needs of memory: 100 bytes and gradients of 50, and 10 an example with slack."""
    return fixed + SLACK * 10 * batch_size


@pytest.mark.parametrize(("largest", "told"), [(128, None), (64, 64), (32, 32), (16, 16)])
def test_the_largest_that_fits_is_foretold(monkeypatch: pytest.MonkeyPatch, largest: int, told: int | None) -> None:
    device = Device(monkeypatch, (needed(largest) + 1.0) / FULL)
    fits = Fits(CPU, lambda: 50)
    assert fits.largest(LADDER) is None  # nothing is known yet
    device.passes(fits, 16)
    assert fits.largest(LADDER) == told
    device.size = (needed(2 * largest) - 1.0) / FULL
    assert fits.largest(LADDER) == told


def test_what_was_trained_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch, 1.0)
    fits = Fits(CPU, lambda: 50)
    device.passes(fits, 32)
    assert fits.largest(LADDER) == 32
    device.passes(fits, 16)  # a smaller one says no more
    assert fits.largest(LADDER) == 32
    device.each = 5
    device.passes(fits, 64)
    device.size = (150 + SLACK * 5 * 128 + 1.0) / FULL
    assert fits.largest(LADDER) is None


def test_what_ran_out_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = Fits(CPU, lambda: 0)  # also of a CPU
    assert not fits.learns(8)
    fits.ran_out(64)
    assert fits.largest(LADDER) == 32
    fits.ran_out(128)
    assert fits.largest(LADDER) == 32
    fits.ran_out(8)
    assert fits.largest(LADDER) is None  # nothing smaller can be asked for


class Growing(Steering):
    """Asks for twice the batch after the first epoch, and remembers what it has seen of memory."""

    def __init__(self) -> None:
        super().__init__(Decision(4, 0.1, "begin"), Decision(8, 0.1, "more"))
        self.seen: list[int | None] = []

    def decide(self, observation: Observation) -> Decision:
        self.seen.append(observation.fits)
        return super().decide(observation)


@pytest.mark.parametrize("fit", [4, 8])
def test_a_loop_is_not_asked_for_more_than_fits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fit: int
) -> None:
    caplog.set_level(logging.INFO, "autobatch")
    gradients = 4 * (3 + 1)  # of a linear model of three inputs
    device = Device(monkeypatch, (100 + gradients + SLACK * 10 * fit + 1.0) / FULL)
    loop = Loop(policy := Growing())
    loop.model.register_forward_hook(lambda module, args, output: setattr(device, "taken", 100 + 10 * len(output)))
    loop.optimizer.register_step_post_hook(lambda optimizer, args, options: setattr(device, "taken", 100))
    loop.epoch()
    decision = loop.controller.decision
    assert policy.seen == [None, None if fit == 8 else 4]
    assert decision.batch_size == fit
    limit = "8 would not fit into memory; 4 is the largest that does"
    assert decision.limit == (None if fit == 8 else limit)
    told = "batches of more than 4 examples would not fit into memory: none is asked for"
    assert caplog.messages.count(told) == (fit == 4)
    loop.epoch()
    assert caplog.messages.count(told) == (fit == 4)  # said once


def test_a_loop_that_catches_the_error_gets_smaller_batches_from_the_next_decision_on() -> None:
    loop = Loop(Growing())
    loop.epoch()
    assert loop.controller.batch_size == 8
    train: Any = loop.train

    def short(indices: torch.Tensor) -> None:
        if len(indices) > 4:
            loop.model.register_forward_hook(raises := Raises())
            with pytest.raises(torch.OutOfMemoryError):
                train(indices)
            raises.over = True
            return
        train(indices)

    for indices in loop.controller.batches():
        short(indices)
    decision = loop.controller.end_epoch(val_loss=1.0)
    assert decision is not None
    assert decision.batch_size == 4


class Raises:
    """A hook that runs out of memory."""

    over = False

    def __call__(self, *args: Any) -> None:
        if not self.over:
            raise torch.OutOfMemoryError("none left")

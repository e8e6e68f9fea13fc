"""Steps are counted as they happen, and a loop that does not do as it has declared is told so once."""

import logging
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autobatch.control import AutoBatchController, BatchPlan, MeasureAtInterval, Measuring, NeverMeasure
from tests.control.loops import RATE, Toy, json_copy, weights


def train(toy: Toy, accumulated: int = 1, parts: int = 1) -> None:
    for count, (_, x, y) in enumerate(toy.loader()):
        with toy.controller.step() as step:
            step.backward(toy.loss(x, y) / accumulated)
        if (count + 1) % (accumulated * parts) == 0:
            toy.optimizer.step()
            toy.optimizer.zero_grad()
    toy.controller.end_epoch()


def test_a_loop_that_accumulates_by_hand_is_told_to_say_so(caplog: pytest.LogCaptureFixture) -> None:
    toy = Toy([4], size=64, epochs=2, measuring=MeasureAtInterval(1))
    train(toy, accumulated=4)
    train(toy, accumulated=4)
    assert (toy.controller.steps, len(toy.rates)) == (8, 8)
    assert caplog.text.count("trained 16 batches of the controller's, and the optimizer took 4 steps") == 1
    assert caplog.text.count("BatchPlan(accumulation=4)") == 1
    assert toy.controller.samples == 8
    assert math.isfinite(toy.controller.l_cum)


def test_batches_that_are_left_over_do_not_change_what_is_to_be_declared(caplog: pytest.LogCaptureFixture) -> None:
    train(Toy([4], size=40, epochs=1), accumulated=4)  # ten batches, two steps
    assert "BatchPlan(accumulation=4)" in caplog.text


def test_declared_accumulation_is_said_nothing_of_and_wrong_one_is(caplog: pytest.LogCaptureFixture) -> None:
    right = Toy([8], size=64, epochs=1, plan=BatchPlan(accumulation=4), batch_sizes=(8,))
    train(right, parts=4)
    assert right.controller.steps == 8
    assert "optimizer took" not in caplog.text
    wrong = Toy([8], size=64, epochs=1, plan=BatchPlan(accumulation=4), batch_sizes=(8,))
    train(wrong, parts=2)
    assert wrong.controller.steps == 16
    assert "accumulation=4 was declared; say BatchPlan(accumulation=2)" in caplog.text


def test_an_optimizer_that_never_steps_takes_no_steps(caplog: pytest.LogCaptureFixture) -> None:
    toy = Toy([8], size=64, measuring=MeasureAtInterval(1))
    other = torch.optim.SGD(toy.model.parameters(), lr=RATE)
    for _, x, y in toy.loader():
        with toy.controller.step() as step:
            step.backward(toy.loss(x, y))
        other.step()
    toy.controller.end_epoch()
    assert (toy.controller.steps, toy.controller.samples, toy.controller.l_cum) == (0, 0, 0.0)
    assert "give the controller the optimizer whose step() the loop calls" in caplog.text


@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_a_scaler_skips_are_not_counted(fused: bool, caplog: pytest.LogCaptureFixture) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    toy = Toy(
        [8],
        size=64,
        epochs=1,
        optimize=lambda model: torch.optim.SGD(model.parameters(), lr=RATE, fused=fused),
        measuring=Measuring(steps=MeasureAtInterval(2), grad_scaler=scaler),
    )
    kept = None
    for count, (_, x, y) in enumerate(toy.loader()):
        with toy.controller.step() as step:
            step.backward(scaler.scale(toy.loss(x, y) * (math.inf if count in {2, 5} else 1.0)))
        before = weights(toy.model)
        scaler.step(toy.optimizer)
        scaler.update()
        toy.optimizer.zero_grad()
        assert torch.equal(before, weights(toy.model)) == (count in {2, 5})
        if count == 3:
            kept = json_copy(toy.controller.state_dict())
            assert toy.controller.steps == 3
    toy.controller.end_epoch()
    assert toy.controller.steps == 6
    assert "the others were skipped" in caplog.text
    assert kept is not None
    assert (kept["period"]["steps"], kept["period"]["batches"]) == (3, 4)
    del kept["period"]["batches"]  # as older versions wrote it
    toy.controller.load_state_dict(kept)
    assert toy.controller.steps == 3


def advised(batch: int, declared: int, measuring: Any) -> AutoBatchController:
    torch.manual_seed(0)
    model = nn.Linear(6, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    controller = AutoBatchController(
        model,
        optimizer,
        policy="s16",
        batch_sizes=(16, 32),
        dataset_size=64,
        epochs=2,
        advise=declared,
        measuring=measuring,
    )
    for _ in range(2):
        for _ in range(64 // batch):
            with controller.step():
                F.cross_entropy(model(torch.randn(batch, 6)), torch.randint(4, (batch,))).backward()
            optimizer.step()
            optimizer.zero_grad()
        controller.end_epoch()
    return controller


def test_an_adviser_compares_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert advised(16, 16, MeasureAtInterval(1)).steps == 8
    assert not caplog.text
    assert advised(32, 16, MeasureAtInterval(1)).steps == 4
    assert caplog.text.count("advise=16 was declared, and the model was called with 32 examples in step 1") == 1
    assert advised(8, 16, NeverMeasure()).steps == 16
    assert "the optimizer took 8 steps, which are what counts: say advise=8" in caplog.text

"""Advice: the loop is as it would be without a controller, and the records say what would have been done."""

import json
import logging
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from autobatch._errors import ConfigError
from autobatch.control import BatchPlan, MeasureAtInterval
from autobatch.policies import SteerParameters, SteerPolicy
from tests.control.loops import Toy, weights


class Records:
    """A logger."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def begin(self) -> None:
        pass

    def resume(self, step: int) -> None:
        pass

    def log(self, record: Any, step: int) -> None:
        self.records.append(dict(record))

    def close(self) -> None:
        pass


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.3), nn.Linear(4, 2))


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01)


def advised(**more: Any) -> Toy:
    settings = {
        "advise": 5,
        "make": network,
        "optimize": adam,
        "measuring": MeasureAtInterval(2),
        "rates": "linear",
        **more,
    }
    return Toy([4, 8, (2, 0.3)], size=28, **settings)


def plain_loader(toy: Toy, batch_size: int = 5, **more: Any) -> DataLoader[Any]:
    return DataLoader(toy.data, batch_size=batch_size, shuffle=True, generator=torch.Generator().manual_seed(0), **more)


def without_a_controller(epochs: int, **loader: Any) -> Toy:
    toy = Toy([4], size=28, make=network, optimize=adam)
    toy.controller.close()
    batches = plain_loader(toy, **loader)
    torch.manual_seed(5)
    for _ in range(epochs):
        for _, x, y in batches:
            toy.loss(x, y).backward()
            toy.optimizer.step()
            toy.optimizer.zero_grad()
    return toy


@pytest.mark.parametrize("every", [None, 0.4])
@pytest.mark.parametrize(
    ("loader", "announced"),
    [
        ({}, 5),
        ({"drop_last": True}, 5),
        ({"batch_size": 4}, 5),  # more batches than announced
        ({"batch_size": 10}, 5),  # fewer
        ({"batch_size": 6, "drop_last": True}, 8),
        ({"batch_size": 28}, 2),
    ],
)
def test_nothing_is_changed(loader: dict[str, Any], announced: int, every: float | None) -> None:
    logger = Records()
    toy = advised(loggers=[logger], advise=announced, plan=BatchPlan(decide_every=every))
    batches = plain_loader(toy, **loader)
    torch.manual_seed(5)
    while not toy.controller.finished:
        for batch in batches:
            toy.step(batch)
        toy.controller.end_epoch(val_loss=0.5)
    assert toy.controller.end_epoch() is None
    plain = without_a_controller(3, **loader)
    assert torch.equal(weights(toy.model), weights(plain.model))
    assert repr(toy.optimizer.state_dict()) == repr(plain.optimizer.state_dict())
    assert set(toy.rates) == {0.01}
    assert toy.controller.samples > 0
    assert (toy.controller.epoch, toy.controller.examples) == (3, 84)
    if every is None:
        assert [record["requested_batch_size"] for record in logger.records] == [4, 8, 2, 2]
        assert [record["limit"] for record in logger.records[:3]] == [
            "advice: 4 at 0.01; nothing is changed",
            "advice: 8 at 0.02; nothing is changed",
            "advice: 2 at 0.3; nothing is changed",
        ]
        assert logger.records[1]["reason"] == "s8; rate x 2 by the linear rule (from s4)"
    assert {record["batch_size"] for record in logger.records} == {announced}
    assert {record["lr"] for record in logger.records} == {0.01}
    assert {record["lr_effective"] for record in logger.records} == {0.01}
    json.dumps(logger.records)


def test_where_the_rate_would_begin_to_fall_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "autobatch")
    policy = SteerPolicy(SteerParameters(scouts=0, length=1.0))
    toy = Toy(policy, epochs=8, advise=5, batch_sizes=(5,), rates="steered")
    for _ in range(8):
        for batch in plain_loader(toy):
            toy.step(batch)
        toy.controller.end_epoch(val_loss=1.0)
    told = [record.getMessage() for record in caplog.records if "advice: " in record.getMessage()]
    assert [" of 0.05; nothing is changed" in one for one in told] == [False, True]


def test_samples_are_those_of_the_batches_that_came() -> None:
    toy = advised(advise=8)
    toy.epoch(plain_loader(toy, drop_last=True))
    measured = toy.controller.measurements
    assert {sample.batch_size for sample in measured} == {5}
    assert all(sample.usable for sample in measured)


def test_a_loop_goes_on_after_its_last_epoch_and_after_errors() -> None:
    toy = advised(epochs=1)
    for count, batch in enumerate(plain_loader(toy, drop_last=True)):
        if count == 1:
            with pytest.raises(KeyError), toy.controller.step():
                raise KeyError("broken")
        else:
            toy.step(batch)
    toy.controller.end_epoch()
    assert toy.controller.finished
    before = toy.controller.steps
    for batch in plain_loader(toy, drop_last=True):
        for part in toy.controller.micro_batches(batch):
            toy.step(part)
    assert toy.controller.end_epoch() is None
    assert toy.controller.steps == before


def test_advice_goes_on_after_a_restart() -> None:
    whole, first = advised(), advised()
    for toy in (whole, first):
        torch.manual_seed(1)
        toy.epoch(plain_loader(toy))
    state = json.loads(json.dumps(first.controller.state_dict()))
    second = advised()
    second.controller.load_state_dict(state)
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    for toy in (whole, second):
        torch.manual_seed(2)
        toy.epoch(plain_loader(toy))
    assert torch.equal(weights(whole.model), weights(second.model))
    for name in ("c_bar", "l_cum", "samples", "steps", "examples"):
        assert getattr(whole.controller, name) == getattr(second.controller, name)


def test_the_controllers_own_sampler_gives_the_loops_batch_size() -> None:
    toy = advised(advise=8)
    loader = toy.loader()
    assert len(loader) == 4
    toy.epoch(loader)
    assert toy.sizes() == [8, 8, 8, 4]
    toy.check()


@pytest.mark.parametrize("size", [0, True, 5.0])
def test_advice_needs_the_loops_batch_size(size: Any) -> None:
    with pytest.raises(ConfigError, match="advise: expected the batch size that your loop really uses"):
        advised(advise=size)

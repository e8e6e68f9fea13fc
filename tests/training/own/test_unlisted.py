"""Scouts of a loop that names neither batch sizes nor learning rates: what there is to choose from, what is tried."""

import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autobatch import AutoBatchController, scout
from autobatch._errors import ConfigError
from autobatch.control import BatchPlan, Rates
from tests.training.own.own_loops import data

AROUND = tuple(0.02 * times for times in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0))


def train(
    controller: AutoBatchController, own: Any, kind: type[torch.optim.Optimizer] = torch.optim.SGD, warm_up: int = 0
) -> list[float]:
    """Train on 64 examples; return the rates that the controller chose."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = kind(model.parameters(), lr=own.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / (warm_up + 1)))
    x, y = (each[: getattr(own, "examples", None)] for each in data())
    controller.attach(model, optimizer, dataset_size=len(x), epochs=30)
    rates = []
    for _ in controller.each_epoch():
        rates.append(controller.lr)
        for indices in controller.batches():
            with controller.step() as step:
                step.backward(F.cross_entropy(model(x[indices]), y[indices]))
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        controller.end_epoch(val_loss=F.cross_entropy(model(x), y).item())
    return rates


def test_rates_lie_around_the_optimizers_own_and_go_up_where_the_loss_falls(tmp_path: Path) -> None:
    report = scout(partial(train, own=SimpleNamespace(lr=0.02)), out=tmp_path)
    assert report.learning_rates == pytest.approx(AROUND)
    assert report.own_rate == report.learning_rates[4] == 0.02
    assert report.batch_sizes == (8, 16)  # to a quarter of 64 examples
    tried = [one.scout.lr for one in report.trained]
    assert tried[:4] == pytest.approx([0.02, 0.06, 0.2, 0.6])
    assert report.lr == max(tried)
    told = str(report)
    assert "the best rate is the highest of those that were tried" in told
    assert "the learning rates lie around that of your optimizer, 0.02" in told
    assert "not tried" not in told  # what was tried follows from what came before, not from a list

    controller = AutoBatchController(policy="steer", scouts=report, rates="steered")
    rates = train(controller, SimpleNamespace(lr=0.02))
    assert rates[0] == report.lr
    assert controller._settings.batch_sizes == report.batch_sizes


def test_scouts_of_an_earlier_call_are_known_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = scout(partial(train, own=SimpleNamespace(lr=0.002)), out=tmp_path)
    with caplog.at_level(logging.WARNING, "autobatch"):
        again = scout(partial(train, own=SimpleNamespace(lr=0.002)), out=tmp_path)
    assert again.trained == first.trained
    assert (again.batch_sizes, again.learning_rates, again.own_rate) == (
        first.batch_sizes,
        first.learning_rates,
        first.own_rate,
    )
    assert caplog.text.count("not trained again") == len(first.trained)


@pytest.mark.parametrize("missing", ["b16-lr0.06-*", "nothing"])
def test_another_rate_of_the_optimizer_has_them_trained_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, missing: str
) -> None:
    own = [0.002]

    class Own:  # nothing that a fingerprint of the code sees
        lr = property(lambda _: own[0])

    first = scout(partial(train, own=Own()), out=tmp_path)
    own[0] = 0.2
    for path in tmp_path.glob(missing):
        path.unlink()
    with caplog.at_level(logging.WARNING, "autobatch"):
        again = scout(partial(train, own=Own()), out=tmp_path)
    assert "learning rates around the optimizer's own: 2e-05, 6e-05" in caplog.text
    assert "trained anew" in caplog.text
    assert again.own_rate == 0.2
    assert again.trained[0].scout.lr == 0.2
    assert first.own_rate == 0.002


def test_other_data_have_them_trained_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    examples = [64]

    class Size:
        lr = 0.002
        examples = property(lambda _: examples[0])

    scout(partial(train, own=Size()), out=tmp_path)
    examples[0] = 40
    with caplog.at_level(logging.WARNING, "autobatch"):
        again = scout(partial(train, own=Size()), out=tmp_path)
    assert "batch sizes of the training's length: 8, 16 there, 8 here" in caplog.text
    assert again.loop["dataset_size"] == 40
    assert again.batch_sizes == (8,)


def test_a_rate_that_is_far_too_high_is_left_behind(tmp_path: Path) -> None:
    class Exploding(torch.optim.SGD):
        def step(self, *_: Any) -> None:
            self.param_groups[0]["params"][0].data.fill_(math.nan)

    report = scout(partial(train, own=SimpleNamespace(lr=0.1), kind=Exploding), out=tmp_path)
    assert [one.scout.lr for one in report.trained] == pytest.approx([0.1, 0.01, 0.001])
    assert report.lr == pytest.approx(1e-4)
    assert report.reason.endswith("give the optimizer a lower rate")


@pytest.mark.parametrize("several", [np.array, torch.tensor, list, lambda rates: (rate for rate in rates)])
def test_lists_of_any_kind_are_lists(tmp_path: Path, several: Callable[[Any], Any]) -> None:
    loop = partial(train, own=SimpleNamespace(lr=0.1))
    report = scout(loop, out=tmp_path, learning_rates=several([0.1, 0.5, 0.02]), batch_sizes=several([16, 8]))
    assert report.batch_sizes == (8, 16)
    assert report.learning_rates == pytest.approx((0.02, 0.1, 0.5))
    assert Rates(learning_rates=several([0.5, 0.25])).learning_rates == (0.5, 0.25)


def test_a_loop_that_never_attaches_says_so_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"never came to controller.attach\(...\).*never attached the controller"):
        scout(lambda controller: None, out=tmp_path)
    with pytest.raises(ConfigError, match=r"(?s)never came to controller.attach.*no data"):
        scout(lambda controller: exec("raise ValueError('no data')"), out=tmp_path, learning_rates=(0.1, 0.3))


def test_a_controller_that_needs_no_beacons_needs_no_ladder() -> None:
    controller = AutoBatchController(policy="steer", rates=Rates(learning_rates="around", schedule="steered"))
    train(controller, SimpleNamespace(lr=0.1))
    assert controller._settings.batch_sizes == (8, 16)
    parts = AutoBatchController(policy="steer", plan=BatchPlan(accumulation=16))
    parts.attach(model := nn.Linear(6, 2), torch.optim.SGD(model.parameters(), lr=0.1), dataset_size=1000, epochs=9)
    assert parts._settings.batch_sizes == (32, 64, 128)
    with pytest.raises(ConfigError, match="the ladder to choose from is missing"):
        AutoBatchController(policy="s8")
    with pytest.raises(ConfigError, match=r"expected ascending positive integers, got \[\]"):
        AutoBatchController(policy="steer", batch_sizes=())
    streamed = AutoBatchController(policy="steer")
    model = nn.Linear(6, 2)
    streamed.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), examples=400_000)
    assert streamed._settings.batch_sizes == (8, 16, 32, 64, 128, 256)


def test_rates_that_are_no_rates_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"learning_rates='arround': expected several rates, or 'around'"):
        Rates(learning_rates="arround")
    with pytest.raises(ConfigError, match="learning_rates: expected several values"):
        scout(partial(train, own=SimpleNamespace(lr=0.1)), learning_rates="arround", out=tmp_path)


def test_a_warm_up_of_the_loop_is_told(tmp_path: Path) -> None:
    own = SimpleNamespace(lr=0.01)
    report = scout(partial(train, own=own, warm_up=11), out=tmp_path / "warm")  # a scout has three epochs of 4 steps
    assert "a schedule of your loop held the rate at 54.2 % of these" in str(report)  # 1 to 12 of 12
    counts = "a schedule of your loop moves the rate after every batch"
    assert counts in str(report)
    assert "(OneCycleLR's total_steps) is right at one batch size alone" in str(report)
    short = str(scout(partial(train, own=own, warm_up=1), out=tmp_path / "short"))
    assert "held the rate" not in short
    assert counts not in short


def test_a_policy_that_scouts_would_help_says_that_there_are_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = SimpleNamespace(lr=0.1)
    told = "no scouts: the training begins with s16 at lr 0.1, of which nothing is known; autobatch.scout(...)"
    train(AutoBatchController(policy="steer"), own=own)
    assert sum(message.startswith(told) for message in caplog.messages) == 1
    caplog.clear()
    report = scout(partial(train, own=own), out=tmp_path)
    train(AutoBatchController(policy="steer", scouts=report), own=own)
    train(AutoBatchController(policy="fixed", batch_sizes=(16,)), own=own)
    assert not any("no scouts" in message for message in caplog.messages)

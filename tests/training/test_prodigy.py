"""Prodigy beside its own package: the same steps, and a run that goes on from any epoch bit by bit."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autobatch._errors import ConfigError
from autobatch.training import EpochRow, RunObserver, load_epochs, run
from autobatch.training._checkpoint import put_back, snapshot
from autobatch.training._prodigy import build_prodigy
from autobatch.training.task import OptimizerSpec
from tests.training.kills import assert_same_run
from tests.training.tiny import fixed, tiny_config, tiny_task

SETTINGS: dict[str, Any] = {"lr": 1.0, "momentum": 0.9, "weight_decay": 0.01}


def net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(3 * 16, 4))
    nn.init.zeros_(model[2].bias)  # the package keeps less of a parameter that begins at 0
    return model.to(memory_format=torch.channels_last)


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[torch.Tensor]:
    for step in steps:
        images = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(step))
        nn.functional.cross_entropy(model(images), torch.arange(8) % 4).backward()
        optimizer.step()
        optimizer.zero_grad()
    return [parameter.detach().clone() for parameter in model.parameters()]


def built(model: nn.Module) -> torch.optim.Optimizer:
    return build_prodigy(model.parameters(), **SETTINGS)


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prodigyopt", None)
    with pytest.raises(ConfigError, match=r"pip install 'autobatch\[rivals\]'"):
        built(net())


def test_its_own_rate_is_a_factor_of_one() -> None:
    assert OptimizerSpec(name="prodigy").base_lr == 1.0
    assert not OptimizerSpec(name="prodigy").nesterov


def test_the_steps_are_those_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    package = pytest.importorskip("prodigyopt")
    model = net()
    ours = trained(model, built(model), range(20))
    assert capsys.readouterr().out == ""
    other = net()
    theirs = trained(other, package.Prodigy(other.parameters(), weight_decay=0.01), range(20))
    assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("steps", [0, 7])
def test_a_snapshot_brings_all_of_it_back(steps: int) -> None:
    pytest.importorskip("prodigyopt")
    model = net()
    optimizer = built(model)
    trained(model, optimizer, range(steps))
    kept = snapshot(model, optimizer)
    whole = trained(model, optimizer, range(steps, 20))
    put_back(kept, model, optimizer, "here")
    assert all(map(torch.equal, whole, trained(model, optimizer, range(steps, 20))))
    fresh = net()
    anew = built(fresh)
    put_back(kept, fresh, anew, "there")
    assert all(map(torch.equal, whole, trained(fresh, anew, range(steps, 20))))


def test_a_run_goes_on_bit_by_bit(tmp_path: Path) -> None:
    pytest.importorskip("prodigyopt")

    class Enough(RunObserver):
        def epoch_finished(self, row: EpochRow) -> None:
            if row.epoch == 3:
                raise KeyboardInterrupt

    task = tiny_task(optimizer={"name": "prodigy"}, epochs=12)
    config = tiny_config(fixed(8).model_copy(update={"parameters": {"batch_size": 8}}), task)
    run(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "parts", Enough())
    run(config, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    rows = load_epochs(tmp_path / "whole")
    assert {row.lr for row in rows} == {1.0}
    assert rows[-1].train_loss < rows[0].train_loss

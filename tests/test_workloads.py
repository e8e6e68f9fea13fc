"""Trainings that are no plain classification: the examples run, and what is measured of them is right.

F of a batch is held against the gradients of one sample at a time, in float64.
"""

import copy
import logging
import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.fisher.zoo_reference import error_of, gram_of_probe, gram_of_samples

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def load(name: str) -> Any:
    """Return what an example defines."""
    return SimpleNamespace(**runpy.run_path(str(EXAMPLES / name)))


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[[Any], Any]:
    """Run an example and return the model that it has trained, after which nothing was complained of."""

    def run(program: Any) -> Any:
        caplog.set_level(logging.INFO, "autobatch")
        monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
        with torch.random.fork_rng():
            model = program.main()
        assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        return model

    return run


def error_of_measure(model: nn.Module, loss: Callable[..., Tensor], *batch: Tensor) -> float:
    """The largest difference between F as the package measures it and by one sample at a time, relative to the largest.

    ``loss`` is the mean over a batch; a sample alone has its own loss over B.
    """
    model = copy.deepcopy(model).double()
    size = len(batch[0])

    def step(samples: slice) -> Tensor:
        own = [each[samples] for each in batch]
        return loss(model, *own) * (len(own[0]) / size)

    return error_of(gram_of_probe(model, step), gram_of_samples(model, size, step))


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.splitlines()[-1]


def test_growing_ensemble(train: Callable[[Any], Any], capsys: pytest.CaptureFixture[str]) -> None:
    model = train(program := load("growing_ensemble.py"))
    assert [member[0].out_features for member in model.members] == list(program.WIDTHS)
    error = float(last_line(capsys).partition("error ")[2].split()[0])
    assert error < 15
    x, y = drawn(6, 64), torch.arange(6)
    assert error_of_measure(model, lambda model, x, y: program.loss_of(model(x), y), x, y) < 1e-9


def test_widening_keeps_the_function() -> None:
    program = load("growing_ensemble.py")
    seed = program.network(8).double()
    wide, x = program.widened(seed, 29, noise=0.0).double(), drawn(6, 64)
    assert torch.allclose(wide(x), seed(x), rtol=1e-5)


def test_pruning(train: Callable[[Any], Any], capsys: pytest.CaptureFixture[str]) -> None:
    model = train(program := load("pruning.py"))
    error = float(last_line(capsys).rpartition("error ")[2].split()[0])
    assert error < 15
    x, y = drawn(5, 1, 8, 8), torch.arange(5)
    compact, plain = model.compact(), copy.deepcopy(model)
    assert torch.allclose(compact(x.float()), plain(x.float()), atol=1e-5)
    left = sum(parameter.numel() for parameter in compact.parameters())
    whole = sum(parameter.numel() for part in (model.convs, model.head) for parameter in part.parameters())
    assert left / whole == pytest.approx(model.kept().item())
    assert abs(left / whole - program.TARGET) < 0.05
    assert error_of_measure(model, program.loss_of, x, y) < 1e-9

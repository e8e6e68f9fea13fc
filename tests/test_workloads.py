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

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.fisher.zoo_reference import error_of, gram_of_probe, gram_of_rows, gram_of_samples

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


def error_of_measure(model: nn.Module, loss: Callable[..., Tensor], *batch: Tensor, bn: str = "none") -> float:
    """The largest difference between F as the package measures it and the reference, relative to the largest.

    The reference has one sample at a time, or one layer and one sample where BatchNorm has the batch's statistics.
    ``loss`` is the mean over a batch: a sample alone has its own loss over B.
    """
    model = copy.deepcopy(model).double()
    size = len(batch[0])

    def step(samples: slice) -> Tensor:
        own = [each[samples] for each in batch]
        return loss(model, *own) * (len(own[0]) / size)

    reference = gram_of_rows if bn == "rows" else gram_of_samples
    return error_of(gram_of_probe(model, step), reference(model, size, step))


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


def test_binary_convolutions(train: Callable[[Any], Any], capsys: pytest.CaptureFixture[str]) -> None:
    model = train(program := load("binary_convolutions.py"))
    assert float(last_line(capsys).partition("error ")[2].split()[0]) < 10
    kernels = {tuple(kernel.flatten().tolist()) for jet in model.jets for kernel in jet.kernels().flatten(0, 1)}
    assert kernels <= set(two_tap_kernels())
    x, y = drawn(5, 1, program.PIXELS, program.PIXELS), torch.tensor([0, 1, 2, 1, 0])

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x), y)

    assert error_of_measure(model, loss, x, y, bn="rows") < 1e-9
    assert error_of_measure(model.eval(), loss, x, y) < 1e-9


def two_tap_kernels() -> list[tuple[float, ...]]:
    """What sums and differences of two neighbours come to, twice along rows and twice along columns."""
    taps = [np.convolve((1, a), (1, b)) for a in (1, -1) for b in (1, -1)]
    return [tuple(np.outer(column, row).ravel().astype(float)) for column in taps for row in taps]


def test_nucleus_detection(train: Callable[[Any], Any], capsys: pytest.CaptureFixture[str]) -> None:
    model = train(program := load("nucleus_detection.py"))
    assert float(last_line(capsys).partition("F1 ")[2].split(";")[0]) > 0.95
    images, maps = drawn(3, 1, 12, 12), drawn(3, 1, 12, 12).sigmoid()
    assert error_of_measure(model, lambda model, x, y: program.loss_of(model(x), y), images, maps) < 1e-9


def test_centres_are_matched_one_to_one() -> None:
    program = load("nucleus_detection.py")
    true = torch.tensor([[[5.0, 5.0], [20.0, 20.0]]])
    assert program.scores([true[0]], true) == (1.0, 1.0, 1.0)
    doubled = torch.tensor([[5.0, 5.0], [6.0, 5.0], [29.0, 2.0]])  # one nucleus twice, one missed, one made up
    assert program.scores([doubled], true) == (1 / 3, 1 / 2, 2 / 5)
    assert program.scores([torch.zeros(0, 2)], true) == (0.0, 0.0, 0.0)
    far = program.proximity(true)
    assert sorted(map(tuple, program.detected(far[0]).tolist())) == [(5.0, 5.0), (20.0, 20.0)]

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


WORKLOADS = ("growing_ensemble.py", "pruning.py", "binary_convolutions.py", "nucleus_detection.py")


def changed(name: str, **constants: Any) -> Any:
    """Return what an example defines, with other constants at its top."""
    program = load(name)
    program.main.__globals__.update(constants)
    return program


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_has_at_most_120_lines(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) <= 120


@pytest.mark.parametrize(
    ("name", "constants", "message"),
    [
        ("growing_ensemble.py", {"WIDTHS": (16, 32)}, "from SEED_WIDTH=24; got 6 and (16, 32)"),
        ("growing_ensemble.py", {"WIDTHS": ()}, "from SEED_WIDTH=24; got 6 and ()"),
        ("growing_ensemble.py", {"HATCHING": 12}, "below EPOCHS=12"),
        ("growing_ensemble.py", {"HATCHING": -1}, "expected 0 to below EPOCHS=12"),
        ("pruning.py", {"TARGET": 0.0}, "TARGET: expected a share in (0, 1]"),
        ("pruning.py", {"TARGET": 20}, "TARGET: expected a share in (0, 1]"),
        ("pruning.py", {"PULL": -3.0}, "PULL: 0 or more; got 0.2 and -3.0"),
        ("binary_convolutions.py", {"PIXELS": 3}, "expected PIXELS of at least 8"),
        ("binary_convolutions.py", {"KINDS": ("whole",)}, "two KINDS of those known, got 16 and ('whole',)"),
        ("binary_convolutions.py", {"KINDS": ("whole", "whole")}, "got 16 and ('whole', 'whole')"),
        ("binary_convolutions.py", {"KINDS": ("whole", "bent")}, "KINDS of those known, got 16 and ('whole', 'bent')"),
        ("nucleus_detection.py", {"PIXELS": 33}, "got PIXELS=33"),
        ("nucleus_detection.py", {"PIXELS": 8}, "got PIXELS=8"),
        ("nucleus_detection.py", {"NUCLEI": 12}, "NUCLEI=12"),
        ("nucleus_detection.py", {"RADIUS": 0}, "RADIUS=0"),
    ],
)
def test_constants_that_do_not_go_together_are_told_of(name: str, constants: dict[str, Any], message: str) -> None:
    with pytest.raises(SystemExit) as told:
        changed(name, **constants).main()
    assert message in str(told.value)


@pytest.mark.parametrize("name", WORKLOADS)
def test_arguments_are_answered_with_what_the_program_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [name, "--epochs", "0"])
    with pytest.raises(SystemExit, match=f"python examples/{name}"):
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_a_seed_of_one_unit_hatches() -> None:
    program = changed("growing_ensemble.py", WIDTHS=(1, 2), SEED_WIDTH=1)
    model = program.Ensemble()
    model.hatch(program.WIDTHS)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


@pytest.mark.parametrize(("pixels", "kinds"), [(8, ("whole", "chipped")), (13, ("whole", "cracked")), (26, None)])
def test_discs_of_other_sizes_and_kinds(pixels: int, kinds: tuple[str, ...] | None) -> None:
    program = changed("binary_convolutions.py", PIXELS=pixels, **({"KINDS": kinds} if kinds else {}))
    images, labels = program.discs(40, torch.Generator().manual_seed(0))
    assert images.shape == (40, 1, pixels, pixels)
    F.cross_entropy(program.Inspector()(images), labels).backward()
    within = (images[:, 0] > 0.5).float().mean((1, 2))  # a disc fills about as much of any image
    assert 0.2 < float(within.mean()) < 0.5


@pytest.mark.parametrize(("pixels", "nuclei"), [(16, 1), (34, 9), (64, 4)])
def test_nuclei_in_images_of_other_sizes(pixels: int, nuclei: int) -> None:
    program = changed("nucleus_detection.py", PIXELS=pixels, NUCLEI=nuclei)
    generator = torch.Generator().manual_seed(0)
    centres = program.drawn_centres(20, generator)
    assert centres.shape == (20, nuclei, 2)
    assert 0 <= float(centres.min()) < 0.3 * pixels < 0.7 * pixels < float(centres.max()) < pixels - 0.5
    maps = program.proximity(centres)
    program.loss_of(program.network()(program.images_of(centres, generator)), maps).backward()
    assert maps.shape == (20, 1, pixels, pixels)


def test_gates_never_shut_all_channels() -> None:
    model = load("pruning.py").Pruned(4, 4)
    with torch.no_grad():
        for gate in model.gates:
            gate.scores.copy_(torch.tensor([-3.0, -1.0, -2.0, -4.0]))
    assert [conv.out_channels for conv in model.compact() if isinstance(conv, nn.Conv2d)] == [1, 1]
    images = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(model.compact()(images), model(images))


def test_growing_ensemble(train: Callable[[Any], Any], capsys: pytest.CaptureFixture[str]) -> None:
    model = train(program := load("growing_ensemble.py"))
    assert [member[0].out_features for member in model.members] == list(program.WIDTHS)
    error = float(last_line(capsys).partition("error ")[2].split()[0])
    assert error < 15
    x, y = drawn(6, 64), torch.arange(6)
    assert error_of_measure(model, lambda model, x, y: program.loss_of(model(x), y), x, y) < 1e-9


def test_widening_keeps_the_function() -> None:
    program = load("growing_ensemble.py")
    torch.manual_seed(1)
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

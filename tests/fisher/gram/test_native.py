"""Products in native code against float64, where they can be had, and what happens where they cannot."""

import logging
import os
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobatch.fisher import FisherProbe
from autobatch.fisher.gram import _gram, _jacobians, _native
from autobatch.fisher.gram._native import Native, loaded, native
from autobatch.fisher.layers import _convolution
from autobatch.fisher.layers._convolution import form
from autobatch.fisher.layers._unfold import Geometry

needed = pytest.mark.skipif(loaded() is None, reason="no gcc here, or AUTOBATCH_NATIVE=0")
LOAD = loaded.__wrapped__


@pytest.fixture
def kernels() -> Native:
    found = loaded()
    assert found is not None
    return found


@needed
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=["planes", "channels-last"])
@pytest.mark.parametrize(
    ("channels", "size", "kernel", "stride", "padding", "spare"),
    [
        ((3, 16), (9, 7), (3, 3), (1, 1), ((1, 1), (1, 1)), 0),
        ((16, 16), (8, 8), (3, 3), (1, 1), ((1, 1), (1, 1)), 0),
        ((19, 70), (6, 11), (3, 2), (2, 1), ((0, 1), (2, 0)), 0),
        ((5, 37), (12, 5), (1, 1), (2, 2), ((0, 0), (0, 0)), 0),
        ((33, 128), (7, 9), (5, 3), (1, 3), ((2, 2), (0, 0)), 1),
    ],
)
def test_rows_of_convolutions(
    memory: torch.memory_format,
    channels: tuple[int, int],
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
    spare: int,
) -> None:
    places = [
        (have + sum(added) - extent) // step + 1 - spare
        for have, added, extent, step in zip(size, padding, kernel, stride, strict=True)
    ]
    x = torch.randn(5, channels[0], *size).contiguous(memory_format=memory)
    g = torch.randn(5, channels[1], *places).contiguous(memory_format=memory)
    geometry = Geometry(kernel, stride, padding, (1, 1))
    found, wanted = form(x, g, 5, geometry, 1), form(x.double(), g.double(), 5, geometry, 1)
    assert found.route.kind == "native" != wanted.route.kind
    torch.testing.assert_close(found.canonical(), wanted.canonical().float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.total(), wanted.total().float(), rtol=1e-5, atol=1e-4)
    part = form(x[:, 1:3], g, 5, geometry, 1)
    torch.testing.assert_close(part.canonical(), wanted.canonical()[:, :, 1:3].float(), rtol=1e-5, atol=1e-5)


@needed
@pytest.mark.parametrize(("rows", "width"), [(1, 16), (7, 17), (24, 64), (50, 150), (13, 47)])
def test_sums_of_outer_products(kernels: Native, rows: int, width: int) -> None:
    left = torch.randn(3, 9, rows + 2)[:, :, 1 : rows + 1]
    right = torch.randn(9, 3, width).transpose(0, 1)
    found = kernels.outer(left, right)
    assert found is not None
    torch.testing.assert_close(found, torch.bmm(left.mT.double(), right.double()).float(), rtol=1e-5, atol=1e-5)


@needed
@pytest.mark.parametrize("columns", [1, 15, 16, 1023, 1025, 5000])
@pytest.mark.parametrize("batch", [1, 5, 64, 131])
def test_gram_of_rows(kernels: Native, batch: int, columns: int) -> None:
    rows = torch.randn(batch, columns + 3)[:, :columns]
    wanted = (rows.double() @ rows.double().T).triu()
    sizes = rows.double().norm(dim=1)
    for single, limit in ((False, 1e-13), (True, 1.5e-7)):
        upper = torch.ones(batch, batch, dtype=torch.float64)
        kernels.add_gram(rows, upper, single=single)
        assert bool((((upper - 1.0).triu() - wanted).abs() <= limit * sizes[:, None] * sizes + 1e-13).all())


@needed
def test_a_sample_that_occurs_twice_has_equal_entries(kernels: Native) -> None:
    rows = torch.randn(66, 4099)
    rows[61] = rows[2]
    upper = torch.zeros(66, 66, dtype=torch.float64)
    kernels.add_gram(rows, upper, single=True)
    whole = upper.triu() + upper.triu(1).T
    assert torch.equal(whole[61], whole[2])


@needed
def test_every_number_of_threads_gives_the_same_bits(kernels: Native) -> None:
    left, right, rows = torch.randn(5, 9, 30), torch.randn(5, 9, 70), torch.randn(37, 3000)
    found: list[tuple[Tensor | None, Tensor]] = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            upper = torch.zeros(37, 37, dtype=torch.float64)
            kernels.add_gram(rows, upper, single=True)
            found.append((kernels.outer(left, right), upper))
    finally:
        torch.set_num_threads(before)
    for product, upper in found[1:]:
        assert product is not None
        assert found[0][0] is not None
        assert torch.equal(product, found[0][0])
        assert torch.equal(upper, found[0][1])


@needed
@pytest.mark.parametrize("batch", [12, 40, 130])
def test_a_whole_step_measures_the_same(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    convolutions = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2)]
    model = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(288, 300), nn.Linear(300, 7))
    x, y = torch.randn(batch, 3, 8, 8), torch.randint(7, (batch,))

    def step() -> tuple[Tensor, list[Tensor]]:
        model.zero_grad()
        with (probe := FisherProbe(model)):
            F.cross_entropy(model(x), y).backward()
        return probe.gram(), [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    found, gradients = step()
    for module in (_gram, _jacobians, _convolution):
        monkeypatch.setattr(module, "native", lambda *_: None)
    wanted, others = step()
    assert not torch.equal(found, wanted)  # or nothing was compared
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-6
    assert all(map(torch.equal, gradients, others))


def test_what_pytorch_must_multiply() -> None:
    one = torch.randn(4, 3, 20)
    assert native(one.double()) is None
    assert native(one, one.half()) is None
    assert native(one.to("meta")) is None
    assert native(nn.Parameter(one)) is None
    negative = torch.randn(4, 20, dtype=torch.complex64).conj().imag
    assert negative.is_neg()
    assert native(negative) is None
    if kernels := loaded():
        assert kernels.outer(one, one.mT.contiguous().mT) is None
        assert kernels.outer(one, one[:, :, :3]) is None


@needed
def test_it_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert LOAD() is not None
    (kept,) = (tmp_path / "autobatch").iterdir()
    before = kept.stat().st_mtime_ns
    assert LOAD() is not None
    assert [(path, path.stat().st_mtime_ns) for path in (tmp_path / "autobatch").iterdir()] == [(kept, before)]


def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOBATCH_NATIVE", "0")
    assert LOAD() is None


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("AUTOBATCH_NATIVE", raising=False)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with caplog.at_level(logging.INFO, "autobatch"):
        assert LOAD() is None
    assert "no gcc found" in caplog.text


@pytest.mark.skipif(os.name != "posix" or shutil.which("gcc") is None, reason="no gcc here")
def test_a_compiler_that_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("AUTOBATCH_NATIVE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    broken = tmp_path / "native.c"
    broken.write_text("no C\n")
    monkeypatch.setattr(_native, "_SOURCE", broken)
    with caplog.at_level(logging.INFO, "autobatch"):
        assert LOAD() is None
    assert "error" in caplog.text

"""Other arithmetic around the measure: autocast, loss scaling, reduced precision of products."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobatch.fisher import FisherProbe
from autobatch.fisher._arithmetic import exact_arithmetic, note_low_precision, reduced_eps

from .models import ResNet8, mlp


def data() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 3, 8, 8), torch.randint(0, 5, (6,))


@pytest.mark.parametrize("scale", [65536.0, 3.0])
@pytest.mark.parametrize("gradients", ["library", "rows"])
def test_a_grad_scaler_is_undone(scale: float, gradients: str) -> None:
    model, (x, y) = ResNet8().double(), data()
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    plain = FisherProbe(model)
    with plain:
        F.cross_entropy(model(x.double()), y).backward()
    scaled = FisherProbe(model, grad_scaler=scaler, gradients=gradients)
    with scaled:
        scaled.backward(scaler.scale(F.cross_entropy(model(x.double()), y)))
    assert torch.allclose(scaled.gram(), plain.gram(), rtol=1e-9)


def test_a_disabled_grad_scaler_changes_nothing() -> None:
    model, (x, y) = ResNet8(), data()
    probe = FisherProbe(model, grad_scaler=torch.amp.GradScaler("cpu", enabled=False))
    with probe:
        F.cross_entropy(model(x), y).backward()
    alone = FisherProbe(model)
    with alone:
        F.cross_entropy(model(x), y).backward()
    assert torch.allclose(probe.gram(), alone.gram(), rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("build", [ResNet8, mlp])
def test_autocast_gives_about_the_same_gram_matrix(dtype: torch.dtype, build: type[nn.Module]) -> None:
    model, (x, y) = build(), data()
    x = x if build is ResNet8 else x[:, :, :4, :4]
    plain, cast = FisherProbe(model), FisherProbe(model)
    with plain:
        F.cross_entropy(model(x), y).backward()
    with cast, torch.autocast("cpu", dtype=dtype):
        F.cross_entropy(model(x), y).backward()
    error = float((cast.gram() - plain.gram()).norm() / plain.gram().norm())
    assert 1e-7 < error < 0.1
    assert cast.gram().dtype is torch.float64


@pytest.mark.parametrize(("dtype", "notes"), [(torch.bfloat16, 1), (torch.float16, 0), (torch.float32, 0)])
def test_an_error_above_five_percent_is_logged_once(
    dtype: torch.dtype, notes: int, caplog: pytest.LogCaptureFixture
) -> None:
    note_low_precision.cache_clear()
    model, (x, y) = ResNet8(), data()
    for _ in range(2):
        with FisherProbe(model), torch.autocast("cpu", dtype=dtype, enabled=dtype is not torch.float32):
            F.cross_entropy(model(x), y).backward()
    assert sum("rounded to bfloat16" in record.getMessage() for record in caplog.records) == notes


@pytest.fixture
def rounded() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("rounded")
def test_measuring_is_exact_although_products_are_rounded() -> None:
    assert reduced_eps("cpu") == 2.0**-7
    with exact_arithmetic("cpu"):
        assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
        assert reduced_eps("cpu") == torch.finfo(torch.float32).eps
    assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"


@pytest.mark.parametrize(("precision", "eps"), [("highest", 2.0**-23), ("medium", 2.0**-7)])
def test_the_rank_threshold_knows_the_arithmetic_of_the_training(precision: str, eps: float) -> None:
    model, (x, y) = mlp(), data()
    torch.set_float32_matmul_precision(precision)
    try:
        probe = FisherProbe(model)
        with probe:
            F.cross_entropy(model(x[:, :, :4, :4]), y).backward()
    finally:
        torch.set_float32_matmul_precision("highest")
    assert probe.measurement().gradient_eps == eps

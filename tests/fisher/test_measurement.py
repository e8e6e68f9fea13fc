"""What a measurement gives besides F: norms of single samples, and each module's own part."""

import pytest
import torch
import torch.nn.functional as F

from autobatch._errors import MeasureError
from autobatch.fisher import FisherProbe, Measurement

from .models import ResNet8, TiedLanguageModel


def measured(**options: bool) -> tuple[torch.nn.Module, Measurement]:
    model = ResNet8().double()
    probe = FisherProbe(model, **options)  # type: ignore[arg-type]
    with probe:
        F.cross_entropy(model(torch.randn(5, 3, 8, 8).double()), torch.arange(5)).backward()
    return model, probe.measurement()


def test_norms_are_the_roots_of_the_diagonal() -> None:
    _, measurement = measured()
    assert torch.allclose(measurement.norms().square(), measurement.gram().diagonal())


def test_the_modules_parts_add_up() -> None:
    model, measurement = measured(by_module=True)
    parts = measurement.by_module()
    assert list(parts)[-1] == "stem.0"
    assert set(parts) == {name.rpartition(".")[0] for name, _ in model.named_parameters()}
    assert torch.allclose(sum(parts.values()), measurement.gram(), rtol=1e-12)
    gradient = model.head.weight.grad.square().sum() + model.head.bias.grad.square().sum()
    assert torch.allclose(parts["head"].sum(), 25 * gradient)
    assert measurement.unchecked == ()


def test_a_tied_weight_counts_once() -> None:
    model, ids = TiedLanguageModel().double(), torch.randint(0, 11, (4, 6))
    probe = FisherProbe(model, by_module=True)
    with probe:
        F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
    parts = probe.measurement().by_module()
    assert torch.allclose(sum(parts.values()), probe.gram(), rtol=1e-12)


def test_parts_that_were_not_asked_for() -> None:
    with pytest.raises(MeasureError, match="make the probe with"):
        measured()[1].by_module()
    with pytest.raises(MeasureError, match="by_module goes neither"):
        FisherProbe(ResNet8(), by_module=True, micro_batches=2)

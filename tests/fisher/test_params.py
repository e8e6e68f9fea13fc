"""Some of a model's parameters: F is of their gradients alone, and the others train as ever."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from autobatch._errors import MeasureError
from autobatch.fisher import FisherProbe

from .models import ResNet8, TiedLanguageModel

B = 5


@pytest.mark.parametrize("gradients", ["library", "rows"])
@pytest.mark.parametrize("bn", ["rows", "exact"])
def test_the_part_of_some_parameters(gradients: str, bn: str) -> None:
    model = ResNet8().double()
    x, y = torch.randn(B, 3, 8, 8).double(), torch.randint(0, 5, (B,))
    grams, steps = [], []
    groups = [list(model.stem.parameters()), [p for n, p in model.named_parameters() if not n.startswith("stem")], None]
    for params in groups:
        model.zero_grad()
        probe = FisherProbe(model, bn=bn, gradients=gradients, params=params)
        with probe:
            probe.backward(F.cross_entropy(model(x), y))
        grams.append(probe.gram())
        steps.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(grams[0] + grams[1], grams[2], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(steps[0], steps[2])
    torch.testing.assert_close(steps[1], steps[2])


def test_weights_of_both_kinds_in_one_layer() -> None:
    model = nn.Sequential(weight_norm(nn.Linear(6, 4)), nn.Tanh(), nn.Linear(4, 4), nn.LayerNorm(4)).double()
    x, y = torch.randn(B, 6).double(), torch.randint(0, 4, (B,))
    chosen = [model[2].bias, model[3].weight]
    probe = FisherProbe(model, loss_reduction="sum", gradients="rows", params=chosen)
    with probe:
        F.cross_entropy(model(x), y, reduction="sum").backward()
    gradients = [p.grad for p in model.parameters()]
    losses = F.cross_entropy(model(x), y, reduction="none")
    rows = [torch.cat(torch.autograd.grad(loss, chosen, retain_graph=True)) for loss in losses]
    torch.testing.assert_close(probe.gram(), torch.stack(rows) @ torch.stack(rows).T)
    torch.testing.assert_close(gradients, list(torch.autograd.grad(losses.sum(), list(model.parameters()))))


def test_a_tied_table_alone() -> None:
    model, ids = TiedLanguageModel().double(), torch.randint(0, 11, (B, 6))
    probe = FisherProbe(model, by_module=True)
    table = next(p for p in model.parameters() if p.shape[0] == 11)
    alone = FisherProbe(model, params=[table])
    for each in (probe, alone):
        with each:
            F.cross_entropy(model(ids).flatten(0, -2), ids.flatten()).backward()
    name = next(n for n, p in model.named_parameters() if p is table)
    torch.testing.assert_close(alone.gram(), probe.measurement().by_module()[name.rpartition(".")[0]])


def test_parameters_of_somebody_else() -> None:
    with pytest.raises(MeasureError, match=r"one of shape \(3,\) is no parameter of the model"):
        FisherProbe(nn.Linear(2, 2), params=[torch.zeros(3)])
    with pytest.raises(MeasureError, match="'weight' is no parameter of the model"):
        FisherProbe(nn.Linear(2, 2), params=["weight"])  # type: ignore[list-item]
    with pytest.raises(MeasureError, match="got none"):
        FisherProbe(nn.Linear(2, 2), params=())

"""``bn="exact"``: the derivative of each sample's loss through the batch statistics."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobatch._errors import MeasureError
from autobatch.fisher import FisherProbe

from .models import DenseNet8, ResNet8, mlp

B = 6


def data() -> tuple[Tensor, Tensor]:
    return torch.randn(B, 3, 8, 8).double(), torch.randint(0, 5, (B,))


def by_definition(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Rows are gradients of each sample's own loss, of one forward pass over the whole batch."""
    losses = F.cross_entropy(model(x), y, reduction="none")
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()), retain_graph=True)])
        for value in losses
    ]
    jacobian = torch.stack(rows)
    return jacobian @ jacobian.T


def measured(model: nn.Module, x: Tensor, y: Tensor, bn: str, reduction: str = "mean") -> FisherProbe:
    probe = FisherProbe(model, loss_reduction=reduction, bn=bn)
    with probe:
        probe.backward(F.cross_entropy(model(x), y, reduction=reduction))
    return probe


@pytest.mark.parametrize("build", [ResNet8, DenseNet8])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_it_is_what_the_definition_says(build: type[nn.Module], reduction: str) -> None:
    model = build().double()
    x, y = data()
    probe = measured(model, x, y, "exact", reduction)
    expected = by_definition(model, x, y)
    assert torch.allclose(probe.gram(), expected, rtol=1e-9, atol=1e-12 * float(expected.max()))
    assert probe.spectrum().bn == "exact"


def test_it_is_far_from_rows() -> None:
    model = ResNet8().double()
    x, y = data()
    exact, rows = (measured(model, x, y, bn).spectrum().trace for bn in ("exact", "rows"))
    assert rows > 1.2 * exact


def test_without_batch_statistics_all_meanings_agree() -> None:
    x, y = data()
    for model, bn in ((mlp().double(), "none"), (ResNet8().double().eval(), "eval")):
        x_of = x[:, :, :4, :4] if bn == "none" else x
        exact, rows = (measured(model, x_of, y, meaning) for meaning in ("exact", "rows"))
        assert torch.allclose(exact.gram(), rows.gram(), rtol=1e-9)
        assert exact.spectrum().bn == rows.spectrum().bn == bn


def test_the_step_is_left_as_it_was() -> None:
    model = ResNet8()
    x, y = data()
    copy = ResNet8()
    copy.load_state_dict(model.state_dict())
    measured(model, x.float(), y, "exact")
    F.cross_entropy(copy(x.float()), y).backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), copy.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), copy.buffers(), strict=True))
    assert not model._forward_hooks


def test_it_needs_the_probes_backward() -> None:
    model = ResNet8()
    x, y = data()
    probe = FisherProbe(model, bn="exact")
    with probe:
        F.cross_entropy(model(x.float()), y).backward()
    with pytest.raises(MeasureError, match=r"needs probe.backward\(loss\)"):
        probe.gram()


def test_a_loss_that_is_no_sum_over_samples_is_found() -> None:
    model = ResNet8().double()
    x, y = data()
    probe = FisherProbe(model, bn="exact")
    with probe:
        probe.backward(F.cross_entropy(model(x), y) + 0.1 * model.head.weight.square().sum())
    with pytest.raises(MeasureError, match="some use of a parameter was not seen"):
        probe.gram()


def test_statistics_by_hand() -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 10), nn.Tanh(), nn.Linear(10, 5))

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.second(x - x.mean(0))

    model, x, y = Centred().double(), torch.randn(B, 8).double(), torch.arange(B) % 5
    exact, rows = (measured(model, x, y, bn) for bn in ("exact", "rows"))
    expected = by_definition(model, x, y)
    assert torch.allclose(exact.gram(), expected, rtol=1e-9)
    assert float((rows.gram() - expected).abs().max() / expected.max()) > 0.05
    assert rows.spectrum().bn == "rows"


def test_complex_parameters() -> None:
    class Spectral(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3, dtype=torch.complex128))

        def forward(self, x: Tensor) -> Tensor:
            return (x.to(self.weight.dtype) @ self.weight).abs()

    model, x, y = Spectral(), torch.randn(B, 4).double(), torch.arange(B) % 3
    exact, rows = (measured(model, x, y, bn).gram() for bn in ("exact", "rows"))
    assert torch.allclose(exact, rows, rtol=1e-9)


def test_what_it_cannot_measure_is_told_after_the_step() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 3, sparse=True)

        def forward(self, words: list[int] | Tensor) -> Tensor:
            return self.table(torch.as_tensor(words)).mean(1)

    model = Words()
    for words, message in (([[0, 1], [2, 3]], "no tensor was found"), (torch.tensor([[0, 1], [2, 3]]), "sparse=True")):
        probe = FisherProbe(model, bn="exact")
        model.zero_grad()
        with probe:
            probe.backward(model(words).square().sum())
        assert model.table.weight.grad is not None
        with pytest.raises(MeasureError, match=message):
            probe.gram()


def test_outputs_without_the_batch_in_front() -> None:
    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).T

    model = Transposed().double()
    probe = FisherProbe(model, bn="exact")
    with probe:
        probe.backward(model(torch.randn(B, 48).double()).square().sum())
    with pytest.raises(MeasureError, match="outputs with the batch"):
        probe.gram()

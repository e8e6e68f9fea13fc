"""Grouped matrix products, as mixtures of experts have them: F is that of one sample at a time."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobatch.fisher import FisherProbe, _registry

EXPERTS, WIDTH = 3, 8  # rows of a multiple of 16 bytes, which the function wants


def grouped_mm(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    product: Callable[..., Tensor] = getattr(F, "grouped_mm", torch._grouped_mm)
    return product(x, weight, offs=ends)


class Experts(nn.Module):
    """Tokens sorted by their expert, whose matrices lie as (experts, in, out) or the other way round."""

    def __init__(self, turned: bool) -> None:
        super().__init__()
        self.first, self.gate, self.turned = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, EXPERTS), turned
        self.bank = nn.Parameter(torch.randn(EXPERTS, WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        rows = self.first(x).flatten(0, 1).sin()
        scores, chosen = self.gate(rows).softmax(-1).max(-1)
        chosen, order = torch.sort(chosen % (EXPERTS - 1))  # the last expert gets nothing
        ends = torch.histc(chosen.float(), EXPERTS, 0, EXPERTS - 1).cumsum(0).int()
        found = grouped_mm(rows[order], self.bank.mT if self.turned else self.bank, ends)[order.argsort()]
        return (found * scores[:, None]).view_as(x).sin().sum((1, 2))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("length", [4, 5])
@pytest.mark.parametrize("fast", [True, False])
def test_grouped_products(monkeypatch: pytest.MonkeyPatch, turned: bool, length: int, fast: bool) -> None:
    model, x = Experts(turned), torch.randn(5, length, WIDTH)
    try:
        each = [torch.autograd.grad(model(row[None])[0], list(model.parameters())) for row in x]
    except (NotImplementedError, RuntimeError):
        pytest.skip("this torch has no grouped product on a CPU")
    if not fast:
        monkeypatch.setattr("autobatch.fisher.layers._offsets.KeptInput", _no_rule)
    probe = FisherProbe(model, loss_reduction="sum")
    with probe:
        model(x).sum().backward()
    jacobian = torch.stack([torch.cat([gradient.flatten() for gradient in one]) for one in each]).double()
    expected = jacobian @ jacobian.T
    assert float((probe.gram() - expected).abs().max() / expected.abs().max()) < 1e-5
    assert probe.measurement().by_sample is not fast
    assert probe.measurement().bn == "none"


def _no_rule(*_: object) -> None:
    from autobatch.fisher.layers._calls import NoRuleError

    raise NoRuleError


def test_both_names_are_known() -> None:
    for function in (getattr(F, "grouped_mm", torch._grouped_mm), torch._grouped_mm):
        assert _registry.known(function).rows is not None

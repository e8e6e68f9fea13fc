"""A bias of attention, such as a table of relative positions: one backward pass for all samples, same dropout."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobatch.fisher import FisherProbe

BATCH, HEADS, LENGTH, WIDTH = 6, 2, 5, 8


class Attention(nn.Module):
    def __init__(self, shape: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.enter, self.bias, self.leave = (
            nn.Linear(WIDTH, WIDTH),
            nn.Parameter(torch.randn(shape)),
            nn.Linear(WIDTH, 3),
        )
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        q = self.enter(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(
            q, q.sin(), q.cos(), attn_mask=self.bias.to(q.dtype) * 2, dropout_p=self.dropout, scale=0.7
        )
        return self.leave(mixed.transpose(1, 2).flatten(2)).mean(1)


def measured(model: nn.Module, x: Tensor) -> FisherProbe:
    torch.manual_seed(5)
    probe = FisherProbe(model, loss_reduction="sum")
    with probe:
        model(x).sin().sum().backward()
    return probe


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(HEADS, LENGTH, LENGTH), (1, HEADS, 1, LENGTH), (LENGTH, LENGTH)])
@pytest.mark.parametrize("batch", [BATCH, LENGTH, 1])
def test_rows_of_a_bias(shape: tuple[int, ...], dropout: float, batch: int) -> None:
    model, x = Attention(shape, dropout).double(), torch.randn(batch, LENGTH, WIDTH, dtype=torch.float64)
    parameters, rows = list(model.parameters()), []
    for i in range(batch):
        torch.manual_seed(5)
        gradients = torch.autograd.grad(model(x)[i].sin().sum(), parameters)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    jacobian = torch.stack(rows)
    probe, expected = measured(model, x), jacobian @ jacobian.T
    assert float((probe.gram() - expected).abs().max() / expected.abs().max()) < 1e-10
    assert not probe.measurement().by_sample


def test_coarse_numbers() -> None:
    model, x = Attention((HEADS, LENGTH, LENGTH), 0.0), torch.randn(BATCH, LENGTH, WIDTH)
    expected = measured(model, x).gram()
    coarse = measured(model.bfloat16(), x.bfloat16())
    assert float((coarse.gram() - expected).norm() / expected.norm()) < 0.1
    assert not coarse.measurement().by_sample

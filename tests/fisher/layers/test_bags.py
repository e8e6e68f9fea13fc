"""The fast rule of bags of words: that it is met, and right or left to the slow one."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobatch.fisher import FisherProbe

B, T, WORDS, WIDTH = 4, 5, 9, 3
Bags = Callable[[Tensor, Tensor], Tensor]


def error(
    bags: Bags, words: Tensor, losses: Callable[[Tensor], Tensor], samples: Tensor | None, *, fast: bool
) -> float:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Parameter(torch.randn(WORDS, WIDTH)), nn.Linear(WIDTH, 2)

        def forward(self, given: Tensor) -> Tensor:
            return self.head(bags(given, self.table).sin())

    model = Model().double()
    probe = FisherProbe(model, "sum", samples=samples)
    with probe:
        losses(model(words)).sum().backward()
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)])
        for loss in losses(model(words))
    ]
    expected = torch.stack(rows) @ torch.stack(rows).T
    assert probe.measurement().by_sample is not fast
    return float((probe.gram() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 2, -3])
def test_rows_of_words(mode: str, padding: int | None) -> None:
    words = torch.randint(WORDS, (B, T))
    words[1] = 2 if padding == 2 else WORDS - 3
    bags: Bags = lambda given, table: F.embedding_bag(given, table, mode=mode, padding_idx=padding)  # noqa: E731
    assert error(bags, words, lambda h: h.cos().sum(1), None, fast=mode != "max") < 1e-12


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("starts", "of_words", "of_bags"),
    [((0, 3, 4, 6), (0, 0, 0, 1, 2, 2, 0), (0, 1, 2, 0)), ((0, 3, 3), (0, 0, 0, 2, 2), (0, 1, 2))],
    ids=["two of a sample", "an empty one"],
)
def test_bags_by_offsets(
    mode: str, last: bool, starts: tuple[int, ...], of_words: tuple[int, ...], of_bags: tuple[int, ...]
) -> None:
    offsets = torch.tensor([*starts, *[len(of_words)] * last])
    bags: Bags = lambda given, table: F.embedding_bag(  # noqa: E731
        given, table, offsets, mode=mode, include_last_offset=last
    )

    def losses(h: Tensor) -> Tensor:
        return torch.zeros(3, dtype=h.dtype).index_add(0, torch.tensor(of_bags), h.cos().sum(1))

    words = torch.randint(WORDS, (len(of_words),))
    assert error(bags, words, losses, torch.tensor(of_words), fast=True) < 1e-12


@pytest.mark.parametrize("how", ["weights", "learned weights", "frequencies"])
def test_words_that_count_differently(how: str) -> None:
    shares = torch.rand(B, T, dtype=torch.float64)

    def bags(given: Tensor, table: Tensor) -> Tensor:
        if how == "frequencies":
            return F.embedding_bag(given, table, mode="sum", scale_grad_by_freq=True)
        weights = shares if how == "weights" else shares * table[:B, :1]
        return F.embedding_bag(given, table, mode="sum", per_sample_weights=weights)

    words = torch.arange(B * T).view(B, T) % WORDS if how != "frequencies" else torch.arange(8).view(4, 2)
    assert error(bags, words, lambda h: h.cos().sum(1), None, fast=how == "weights") < 1e-12

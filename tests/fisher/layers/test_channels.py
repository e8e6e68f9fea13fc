"""Sums by sample and channel, against plain float64 formulas."""

import pytest
import torch
from torch import Tensor

from autobatch.fisher.layers import _channels
from autobatch.fisher.layers._channels import channel_sums, normalised_products


def plain(values: Tensor, batch: int) -> Tensor:
    return values.reshape(batch, -1, values.shape[1], values[0, 0].numel()).sum((1, 3))


def arranged(tensor: Tensor, memory: str) -> Tensor:
    if memory == "channels-last":
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    if memory == "slice":
        return torch.cat([tensor, tensor], 1)[:, : tensor.shape[1]]
    return tensor


@pytest.fixture(params=[(), (4,), (5, 3), (3, 2, 4)], ids=str)
def spatial(request: pytest.FixtureRequest) -> tuple[int, ...]:
    shape: tuple[int, ...] = request.param
    return shape


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("memory", ["plain", "channels-last", "slice"])
@pytest.mark.parametrize("cache", [1, 1000, 1 << 20])
def test_sums(spatial: tuple[int, ...], repeats: int, memory: str, cache: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_channels, "_CACHE", cache)
    x, g = torch.randn(2, 4 * repeats, 6, *spatial, dtype=torch.float64)
    mean, rstd = torch.randn(6).double(), torch.rand(6).double() + 0.5
    by_channel = (1, 6, *(1,) * len(spatial))
    expected = plain((x - mean.view(by_channel)) * g * rstd.view(by_channel), 4)
    x, g = arranged(x, memory), arranged(g, memory)
    torch.testing.assert_close(channel_sums(g, 4), plain(g, 4), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(normalised_products(x, g, mean, rstd, 4), expected, rtol=1e-12, atol=1e-12)
    each = mean.expand(4 * repeats, 6), rstd.expand(4 * repeats, 6)
    torch.testing.assert_close(normalised_products(x, g, *each, 4), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("memory", ["plain", "channels-last"])
def test_a_mean_far_from_zero_costs_no_digits(memory: str) -> None:
    x, g = torch.randn(8, 6, 7, 7) + 1000.0, torch.randn(8, 6, 7, 7)
    mean, rstd = x.mean((0, 2, 3)), 1 / x.std((0, 2, 3))
    expected = plain((x.double() - mean.double().view(1, 6, 1, 1)) * g.double(), 8) * rstd.double()
    actual = normalised_products(arranged(x, memory), arranged(g, memory), mean, rstd, 8)
    assert float((actual - expected).abs().max()) < 1e-6 * float(expected.abs().max())


@pytest.mark.parametrize("memory", ["plain", "channels-last"])
def test_rows_may_have_their_own_mean(memory: str) -> None:
    x, g = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    mean, rstd = torch.randn(2, 4, 6, dtype=torch.float64)
    expected = ((x - mean.unsqueeze(2)) * g).sum(2) * rstd
    torch.testing.assert_close(normalised_products(arranged(x, memory), arranged(g, memory), mean, rstd, 4), expected)

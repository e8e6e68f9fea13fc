"""Moments of the gradients against the gradients themselves, and against what a known distribution must give."""

import json
import math

import pytest
import torch
from torch import Tensor, nn

from autobatch.fisher import FisherProbe, GradientMoments, half_cosine
from tests.fisher.reference import trainable


def gradients(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The samples' gradients as rows, from as many backward passes."""
    rows = [
        torch.autograd.grad(nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), trainable(model))
        for i in range(len(x))
    ]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


def expected(rows: Tensor) -> dict[str, float]:
    """All figures from the gradients, each by its definition."""
    mean = rows.mean(dim=0)
    along = rows @ (mean / mean.norm())
    across = rows - torch.outer(along, mean / mean.norm())
    halves = rows[: len(rows) // 2].mean(dim=0), rows[len(rows) // 2 :][: len(rows) // 2].mean(dim=0)
    count = len(rows)
    # McCandlish et al. 2018, appendix A.1: B_small = 1, B_big = B.
    small, big = rows.square().sum(dim=1).mean(), mean.square().sum()
    signal, noise = (count * big - 1 * small) / (count - 1), (small - big) / (1 - 1 / count)
    return {
        "sample_squared_norm": float(small),
        "mean_squared_norm": float(big),
        "along_squared_norm": float(along.square().mean()),
        "half_cosine": float(nn.functional.cosine_similarity(*halves, dim=0)),
        "variance": float(torch.cov(rows.T).trace()),
        "variance_along": float(along.var()),
        "variance_across": float(across.var(dim=0).sum()),
        "squared_signal": float(signal),
        "noise_scale": float(noise / signal) if signal > 0 else math.inf,
    }


@pytest.mark.parametrize("count", [2, 7, 16])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_moments_are_those_of_the_gradients(count: int, reduction: str) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = torch.randn(count, 4).double() + 1.0, torch.randint(3, (count,))
    probe = FisherProbe(model, loss_reduction=reduction)
    with probe:
        nn.functional.cross_entropy(model(x), y, reduction=reduction).backward()
    moments = GradientMoments.of_gram(probe.measurement().gram())
    assert (moments.batch_size, moments.samples) == (count, 1)
    assert moments.variance_along + moments.variance_across == pytest.approx(moments.variance, rel=1e-10)
    for name, figure in expected(gradients(model, x, y)).items():
        assert getattr(moments, name) == pytest.approx(figure, rel=1e-8, abs=1e-12), name


def test_the_order_of_the_samples_tells_in_the_halves_only() -> None:
    rows = torch.randn(10, 5).double() + 0.5
    own = GradientMoments.of_gram(rows @ rows.T)
    other = rows[torch.randperm(10)]
    moved = GradientMoments.of_gram(other @ other.T)
    for name in ("sample_squared_norm", "mean_squared_norm", "along_squared_norm", "variance", "noise_scale"):
        assert getattr(moved, name) == pytest.approx(getattr(own, name), rel=1e-12)
    assert moved.half_cosine != pytest.approx(own.half_cosine)
    swapped = torch.cat([rows[5:].flip(0), rows[:5]])
    assert half_cosine(swapped @ swapped.T) == pytest.approx(own.half_cosine, rel=1e-12)


def test_a_single_sample_says_nothing_of_the_noise() -> None:
    moments = GradientMoments.of_gram(torch.tensor([[4.0]], dtype=torch.float64))
    assert (moments.sample_squared_norm, moments.mean_squared_norm, moments.along_squared_norm) == (4.0, 4.0, 4.0)
    for name in ("half_cosine", "variance", "variance_along", "variance_across", "squared_signal", "noise_scale"):
        assert math.isnan(getattr(moments, name)), name


def test_gradients_that_cancel_or_vanish() -> None:
    vanished = GradientMoments.of_gram(torch.zeros(4, 4, dtype=torch.float64))
    assert (vanished.variance, vanished.squared_signal, vanished.along_squared_norm) == (0.0, 0.0, 0.0)
    assert math.isnan(vanished.noise_scale)
    assert math.isnan(vanished.half_cosine)
    row = torch.randn(1, 3).double()
    rows = torch.cat([row, row, -row, -row])
    cancelled = GradientMoments.of_gram(rows @ rows.T)
    assert cancelled.noise_scale == math.inf
    assert cancelled.half_cosine == -1.0
    assert cancelled.variance == pytest.approx(4 / 3 * float(row.square().sum()))
    assert 0.0 <= cancelled.variance_along <= cancelled.variance * (1 + 1e-12)  # round-off has no direction


def test_the_figures_have_no_bias() -> None:
    spread = torch.linspace(0.2, 2.0, 8, dtype=torch.float64)
    mean = torch.full((8,), 0.4, dtype=torch.float64)
    variance, signal = float(spread.square().sum()), float(mean.square().sum())
    for count, steps in ((2, 20_000), (16, 4000)):
        batches = mean + spread * torch.randn(steps, count, 8, dtype=torch.float64)
        moments = [GradientMoments.of_gram(rows @ rows.T) for rows in batches]
        total = GradientMoments.mean(moments)
        assert (total.samples, total.batch_size) == (steps, count)
        assert total.variance == pytest.approx(variance, rel=0.02)
        assert total.squared_signal == pytest.approx(signal, rel=0.06)
        assert total.noise_scale == pytest.approx(variance / signal, rel=0.06)


def test_a_cosine_that_is_not_known_is_left_out_of_the_mean() -> None:
    steps = [GradientMoments(4, 1, 2.0, 1.0, 1.5, math.nan), GradientMoments(4, 1, 4.0, 2.0, 2.5, 0.5)]
    assert GradientMoments.mean(steps) == GradientMoments(4, 2, 3.0, 1.5, 2.0, 0.5)
    assert math.isnan(GradientMoments.mean(steps[:1]).half_cosine)


def test_moments_go_through_json() -> None:
    own = GradientMoments(4, 3, 2.0, 1.0, 1.5, math.nan)
    state = json.loads(json.dumps(own.to_dict()))
    assert repr(GradientMoments.from_dict(state)) == repr(own)
    assert repr(GradientMoments.from_dict(state | {"half_cosine": None})) == repr(own)
    with pytest.raises(ValueError, match="0 samples"):
        GradientMoments.from_dict(state | {"samples": 0})

"""Padam between AMSGrad and SGD with momentum."""

import copy
import warnings

import pytest
import torch
from torch import nn

from autobatch.optim import Padam
from tests.optim.networks import examples, perceptron


def trained(optimizer: torch.optim.Optimizer, model: nn.Module, steps: int = 5) -> list[torch.Tensor]:
    inputs, labels = examples(6, 4)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_a_half_is_amsgrad() -> None:
    model = perceptron()
    other = copy.deepcopy(model)
    ours = trained(Padam(model.parameters(), lr=0.01, partial=0.5, eps=1e-30, weight_decay=0.1), model)
    theirs = trained(torch.optim.Adam(other.parameters(), lr=0.01, eps=1e-30, amsgrad=True, weight_decay=0.1), other)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_towards_zero_is_sgd_with_a_mean_of_gradients() -> None:
    model = perceptron()
    other = copy.deepcopy(model)
    ours = trained(Padam(model.parameters(), lr=0.1, partial=1e-12), model)
    inputs, labels = examples(6, 4)
    means = [torch.zeros_like(parameter) for parameter in other.parameters()]
    for step in range(1, 6):
        gradients = torch.autograd.grad(nn.functional.cross_entropy(other(inputs), labels), list(other.parameters()))
        rate = 0.1 * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
        with torch.no_grad():
            for parameter, mean, gradient in zip(other.parameters(), means, gradients, strict=True):
                mean.mul_(0.9).add_(0.1 * gradient)
                parameter -= rate * mean
    torch.testing.assert_close(ours, [parameter.detach() for parameter in other.parameters()], rtol=1e-9, atol=1e-9)


def test_two_steps_by_hand() -> None:
    """g = 2 and then 1: m = 0.2, 0.28; v = 0.004, 0.004996, which is the larger."""
    parameter = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = Padam([parameter], lr=0.1, partial=0.125, eps=0.0)
    parameter.grad = torch.tensor([2.0], dtype=torch.float64)
    optimizer.step()
    first = 1.0 - 0.1 * 0.001**0.5 / 0.1 * 0.2 / 0.004**0.125
    assert parameter.item() == pytest.approx(first, rel=1e-12)
    parameter.grad = torch.tensor([1.0], dtype=torch.float64)
    optimizer.step()
    second = first - 0.1 * (1 - 0.999**2) ** 0.5 / 0.19 * 0.28 / 0.004996**0.125
    assert parameter.item() == pytest.approx(second, rel=1e-12)


def test_where_squares_only_grow_it_is_pytorch_optimizers() -> None:
    """That one has no maximum, which is then the mean itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = pytest.importorskip("pytorch_optimizer")
    weights = [nn.Parameter(torch.linspace(-1.0, 1.0, 6, dtype=torch.float64)) for _ in range(2)]
    settings = {"lr": 0.05, "betas": (0.8, 0.9), "partial": 0.2, "eps": 1e-8, "weight_decay": 0.0}
    for weight, kind in zip(weights, (Padam, other.PAdam), strict=True):
        optimizer = kind([weight], **settings)
        for step in range(1, 6):
            weight.grad = step * torch.arange(1.0, 7.0, dtype=torch.float64)
            optimizer.step()
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-12, atol=0.0)

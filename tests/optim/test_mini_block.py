"""Mini-Block Fisher against dense inverses of the masked matrix."""

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobatch._errors import CheckpointError, ConfigError
from autobatch.optim import MiniBlockFisher
from tests.optim.networks import convolutional, examples, perceptron


def gradients(model: nn.Module, inputs: Tensor, labels: Tensor) -> list[Tensor]:
    model.zero_grad()
    F.cross_entropy(model(inputs), labels).backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def dense_step(gradient: Tensor, fisher: Tensor | None, keep: float, damping: float) -> tuple[Tensor, Tensor]:
    """One parameter's preconditioned gradient by its whole block-diagonal matrix, masked from the outer product."""
    flat = gradient.flatten()
    outer = torch.outer(flat, flat)
    if gradient.ndim > 2:
        size = gradient[0, 0].numel()
        mask = torch.block_diag(*[torch.ones(size, size)] * (len(flat) // size))
        matrix = outer * mask
    elif gradient.ndim == 2:
        shared = gradient.mT @ gradient / len(gradient)
        matrix = torch.block_diag(*[shared] * len(gradient))
    else:
        matrix = torch.diag(flat.square())
    fisher = matrix if fisher is None else keep * fisher + (1 - keep) * matrix
    damped = fisher + damping * torch.eye(len(flat), dtype=torch.float64)
    return torch.linalg.solve(damped, flat).view(gradient.shape), fisher


def test_steps_are_those_of_the_masked_matrix() -> None:
    """Two steps of a network with convolution, norm layer and linear layer; G is a plain mean of the first two."""
    model = convolutional()
    inputs, labels = examples(5, 2, 4, 4)
    optimizer = MiniBlockFisher(
        model.parameters(), lr=0.01, momentum=0.0, damping=0.1, weight_decay=0.5, update_every=1, invert_every=1
    )
    fishers: list[Tensor | None] = [None] * len(list(model.parameters()))
    for keep in (0.0, 0.5):
        before = [parameter.detach().clone() for parameter in model.parameters()]
        own = gradients(model, inputs, labels)
        optimizer.step()
        for place, (parameter, start) in enumerate(zip(model.parameters(), before, strict=True)):
            step, fishers[place] = dense_step(own[place], fishers[place], keep, 0.1)
            torch.testing.assert_close(parameter.detach(), start - 0.01 * (step + 0.5 * start), rtol=1e-9, atol=1e-11)


def test_much_damping_is_sgd_at_a_smaller_rate() -> None:
    model = perceptron()
    other = copy.deepcopy(model)
    inputs, labels = examples(6, 4)
    ours = MiniBlockFisher(model.parameters(), lr=1e6, momentum=0.9, damping=1e8)
    theirs = torch.optim.SGD(other.parameters(), lr=1e-2, momentum=0.9)
    for _ in range(3):
        for optimizer, own in ((ours, model), (theirs, other)):
            gradients(own, inputs, labels)
            optimizer.step()
    torch.testing.assert_close(list(model.parameters()), list(other.parameters()), rtol=1e-7, atol=1e-9)


def test_a_kernel_of_one_element_is_a_scalar() -> None:
    parameter = nn.Parameter(torch.ones(2, 3, 1, 1, dtype=torch.float64))
    parameter.grad = torch.arange(1.0, 7.0, dtype=torch.float64).view(2, 3, 1, 1)
    MiniBlockFisher([parameter], lr=1.0, damping=0.5).step()
    expected = 1.0 - parameter.grad / (parameter.grad.square() + 0.5)
    torch.testing.assert_close(parameter.detach(), expected)


def test_units_may_stand_in_any_order() -> None:
    model, other = perceptron(), perceptron()
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        other[0].weight.copy_(model[0].weight[order])
        other[0].bias.copy_(model[0].bias[order])
        other[2].weight.copy_(model[2].weight[:, order])
    inputs, labels = examples(6, 4)
    for own in (model, other):
        optimizer = MiniBlockFisher(own.parameters(), lr=0.1, damping=0.1, update_every=1, invert_every=1)
        for _ in range(3):
            gradients(own, inputs, labels)
            optimizer.step()
    torch.testing.assert_close(model(inputs), other(inputs), rtol=1e-9, atol=1e-10)


def test_blocks_are_updated_and_inverted_when_they_are_due() -> None:
    """Every second step an update; each is followed by an inversion in the first four, then every second one is."""
    parameter = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = MiniBlockFisher([parameter], lr=0.0, damping=1.0, update_every=2, invert_every=4)
    held, inverted = [], []
    for step in range(9):
        parameter.grad = torch.full((3,), float(step), dtype=torch.float64)
        optimizer.step()
        held.append(optimizer.state[parameter]["fisher"][0].item())
        inverted.append(1.0 / optimizer.state[parameter]["inverse"][0].item() - 1.0)
    assert held[::2] == pytest.approx([0.0, 2.0, 20 / 3, 14.0, 24.0])
    assert held[1::2] == held[:-1:2]
    assert inverted == pytest.approx([0.0, 0.0, 2.0, 2.0, 20 / 3, 20 / 3, 20 / 3, 20 / 3, 24.0])


def test_what_is_too_large_gets_the_plain_step(caplog: pytest.LogCaptureFixture) -> None:
    model = perceptron()
    with caplog.at_level(logging.INFO, "autobatch"):
        optimizer = MiniBlockFisher(model.named_parameters(), lr=0.1, momentum=0.0, largest_block=3)
        inputs, labels = examples(6, 4)
        for _ in range(2):
            before = model[0].weight.detach().clone()
            own = gradients(model, inputs, labels)
            optimizer.step()
            torch.testing.assert_close(model[0].weight.detach(), before - 0.1 * own[0])
    assert [record.getMessage() for record in caplog.records] == [
        "MiniBlockFisher takes the plain step for '0.weight': a block has more than largest_block=3 rows"
    ]
    with pytest.raises(ConfigError, match=r"strict=True\): '0.weight': a block has more than largest_block=3"):
        MiniBlockFisher(model.named_parameters(), largest_block=3, strict=True)


def test_a_state_whose_blocks_are_of_other_parameters_is_refused() -> None:
    model = perceptron()
    small, large = (MiniBlockFisher(model.parameters(), largest_block=limit) for limit in (3, 4))
    with pytest.raises(CheckpointError, match="the state is of largest_block=3, the optimizer of 4: parameter 0 of gr"):
        large.load_state_dict(small.state_dict())
    MiniBlockFisher(model.parameters(), largest_block=5).load_state_dict(large.state_dict())


def test_a_limit_that_is_lowered_leaves_no_stale_blocks() -> None:
    model = perceptron()
    optimizer = MiniBlockFisher(model.parameters(), lr=0.1, momentum=0.0)
    for limit in (4096, 3):
        optimizer.param_groups[0]["largest_block"] = limit
        before = [parameter.detach().clone() for parameter in model.parameters()]
        found = gradients(model, *examples(5, 4))
        optimizer.step()
    torch.testing.assert_close(model[0].weight.detach(), before[0] - 0.1 * found[0])
    assert not torch.allclose(model[2].weight.detach(), before[2] - 0.1 * found[2])

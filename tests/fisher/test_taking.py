"""Per-sample gradients that are handed on beside the Gram matrix, or without it."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobatch._errors import MeasureError
from autobatch.fisher import FisherProbe, Jacobian, TakenGradients, factors_of


def net() -> nn.Sequential:
    convolutions = nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Conv2d(6, 4, 3, groups=2)
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(16, 3)).double()


def loss_of(model: nn.Module, images: Tensor) -> Tensor:
    return F.cross_entropy(model(images), torch.arange(len(images)) % 3)


@pytest.mark.parametrize("gradients", ["library", "rows"])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_probe_hands_on_what_it_measures(gradients: str, parts: int) -> None:
    """Of parts of a batch too; what is handed on, summed over the samples, is the gradient."""
    model, images = net(), torch.randn(5, 4, 8, 8, dtype=torch.float64)
    probe = FisherProbe(model, gradients=gradients, micro_batches=parts)
    sums: dict[str, Tensor] = {}

    def take(name: str, uses: list[Jacobian]) -> None:
        for use in uses:
            total = use.block(0, use.rows).sum(0)
            sums[name] = sums.get(name, torch.zeros_like(total)) + total

    probe.taker = take
    with probe:
        for part in images.chunk(parts):
            loss_of(model, part).backward()
    assert probe.gram().shape == (5, 5)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(sums[name], parameter.grad.flatten())


def test_factors_multiply_to_the_gradients_of_samples() -> None:
    """In the weight's own order; a convolution with groups and a bias have none."""
    model, images = net(), torch.randn(5, 4, 8, 8, dtype=torch.float64)
    taken: dict[str, Jacobian] = {}
    with TakenGradients(model, lambda name, uses: taken.update({name: uses[0]})) as passing:
        loss_of(model, images).backward()
    assert passing.batch_size == 5
    for name in ("0.weight", "3.weight"):
        factors = factors_of(taken[name])
        assert factors is not None
        formed = torch.einsum("btr,btw->brw", *factors).flatten(1)
        torch.testing.assert_close(formed, taken[name].block(0, taken[name].rows))
    assert factors_of(taken["1.weight"]) is None
    assert factors_of(taken["0.bias"]) is None


def test_a_step_that_cannot_be_told_apart_is_an_error_and_leaves_no_hooks() -> None:
    model, images = net(), torch.randn(5, 4, 8, 8, dtype=torch.float64)
    taking = TakenGradients(model, lambda *_: None, twice="called twice, say so")
    with pytest.raises(MeasureError, match="called twice, say so"), taking:
        (loss_of(model, images) + loss_of(model, images)).backward()
    assert not model._forward_pre_hooks
    assert all(parameter.grad is not None for parameter in model.parameters())

"""Shared by the tests of the fisher room."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from autobatch.fisher import FisherProbe

Measure = Callable[..., FisherProbe]


def sum_of_cross_entropies(output: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output.flatten(0, -2), target.flatten(), reduction="sum")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.default_generator.manual_seed(7)  # torch.manual_seed notes a traceback for each kind of device


@pytest.fixture
def measure() -> Measure:
    """Run one step of the summed loss inside a probe."""

    def run(model: nn.Module, *inputs: Tensor, y: Tensor, bn: str = "rows") -> FisherProbe:
        probe = FisherProbe(model, loss_reduction="sum", bn=bn)
        with probe:
            sum_of_cross_entropies(model(*inputs), y).backward()
        return probe

    return run

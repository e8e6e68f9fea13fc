"""``register_gram_rule``: layers that a probe cannot see into."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autobatch
from autobatch._errors import MeasureError
from autobatch.fisher import FisherProbe, register_gram_rule
from autobatch.fisher._registry import _KNOWN
from tests.fisher.reference import gram_one_sample_at_a_time

B, C = 5, 4


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradients[0] * weight, (gradients[0] * x).sum(0)


class Scale(nn.Module):
    """A layer of somebody else's, with a kernel of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(C) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return _Scaled.apply(x, self.weight)


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(C, C), Scale(), nn.Tanh(), nn.Linear(C, 3)).double()


def rule(module: nn.Module, inputs: tuple[Any, ...], output_gradient: Tensor) -> dict[str, Tensor]:
    (x,) = inputs
    return {"weight": x * output_gradient}


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    before = dict(_KNOWN)
    yield
    _KNOWN.clear()
    _KNOWN.update(before)


def measure(net: nn.Module) -> FisherProbe:
    probe = FisherProbe(net)
    with probe:
        F.cross_entropy(
            net(torch.randn(B, C, generator=torch.Generator().manual_seed(0)).double()), target()
        ).backward()
    return probe


def target() -> Tensor:
    return torch.arange(B) % 3


def test_a_layer_without_a_rule_is_named() -> None:
    with pytest.raises(MeasureError, match=r"_Scaled\.apply\(\).*register_keeping\(tests\.\S+\._Scaled\)"):
        measure(model()).gram()


def test_a_layer_with_a_rule_is_measured() -> None:
    assert autobatch.register_gram_rule is register_gram_rule
    register_gram_rule(Scale, rule)
    net = model()
    x = torch.randn(B, C, generator=torch.Generator().manual_seed(0)).double()
    expected = gram_one_sample_at_a_time(net, x, target(), F.cross_entropy)
    assert torch.allclose(measure(net).gram(), expected, rtol=1e-10)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda m, i, g: {"scale": i[0] * g}, r"gave nothing for parameter 'weight', only \['scale'\]"),
        (lambda m, i, g: {"weight": (i[0] * g).sum(0)}, r"gave \(4,\) for parameter 'weight', expected \(5, 4\)"),
        (lambda m, i, g: {"weight": 2 * i[0] * g}, "some use of a parameter was not seen"),
    ],
)
def test_a_wrong_rule_is_found(wrong: Any, message: str) -> None:
    register_gram_rule(Scale, wrong)
    with pytest.raises(MeasureError, match=message):
        measure(model()).gram()


def test_an_output_without_the_batch_in_front() -> None:
    register_gram_rule(nn.Tanh, rule)
    net = nn.Sequential(nn.Linear(C, C), nn.Flatten(0), nn.Tanh(), nn.Unflatten(0, (B, C)), nn.Linear(C, 3)).double()
    with pytest.raises(MeasureError, match="the gram rule of Tanh needs one output tensor"):
        measure(net).gram()


def test_what_is_no_module_class() -> None:
    with pytest.raises(MeasureError, match="expected a subclass"):
        register_gram_rule(Scale(), rule)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("between", "message"),
    [
        (lambda h: h.flip(0), r"the gram rule of Scale needs the samples in order in dimension 0"),
        (lambda h: h.repeat(2, 1), r"the gram rule of Scale needs the samples in order"),
        (lambda h: h.cumsum(0), r"not be followed through cumsum\(\) to the input of Scale"),
    ],
)
def test_samples_that_are_out_of_order_before_a_layer_with_a_rule(between: Any, message: str) -> None:
    class Between(nn.Module):
        def forward(self, h: Tensor) -> Tensor:
            return between(h)

    register_gram_rule(Scale, rule)
    net = nn.Sequential(nn.Linear(C, C), Between(), Scale(), nn.Linear(C, 3)).double()
    probe = FisherProbe(net)
    with probe:
        net(torch.randn(B, C).double()).square().mean().backward()
    with pytest.raises(MeasureError, match=message):
        probe.gram()

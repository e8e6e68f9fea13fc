"""Per-sample gradients of a convolution's weight, by every route, against autograd one sample at a time."""

from dataclasses import dataclass, field
from math import prod

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autobatch.fisher.gram._gram import GramAccumulator
from autobatch.fisher.layers import _convolution
from autobatch.fisher.layers._autotune import CANDIDATES, Route
from autobatch.fisher.layers._convolution import ConvolutionJacobian, form
from autobatch.fisher.layers._unfold import Geometry

CPU = torch.device("cpu")
CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True)
class Case:
    """A convolution: everything but the numbers."""

    kernel: tuple[int, ...]
    spatial: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    channels: tuple[int, int] = (4, 6)
    batch: int = 5
    repeats: int = 1
    spare: int = 0
    geometry: Geometry = field(init=False)

    def __post_init__(self) -> None:
        ones, none = (1,) * len(self.kernel), ((0, 0),) * len(self.kernel)
        geometry = Geometry(self.kernel, self.stride or ones, self.padding or none, self.dilation or ones)
        object.__setattr__(self, "geometry", geometry)

    @property
    def weight(self) -> tuple[int, ...]:
        return self.channels[1], self.channels[0] // self.groups, *self.kernel

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        sides = [side for both in reversed(self.geometry.padding) for side in both]
        x = F.pad(x, sides)
        out = CONVOLVE[len(self.kernel)](x, weight, None, self.geometry.stride, 0, self.geometry.dilation, self.groups)
        return out[(slice(None), slice(None), *(slice(size - self.spare) for size in out.shape[2:]))]

    def tensors(self, memory: str = "plain", dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        x = torch.randn(self.batch * self.repeats, self.channels[0], *self.spatial, dtype=dtype)
        g = torch.randn_like(self.convolve(x, x.new_zeros(self.weight)))
        return arranged(x, memory), arranged(g, memory)

    def expected(self, x: Tensor, g: Tensor) -> Tensor:
        samples = []
        for one, gradient in zip(
            x.view(self.batch, -1, *x.shape[1:]), g.view(self.batch, -1, *g.shape[1:]), strict=True
        ):
            weight = x.new_zeros(self.weight, requires_grad=True)
            samples.append(torch.autograd.grad((self.convolve(one, weight) * gradient).sum(), weight)[0])
        return torch.stack(samples)

    def jacobian(self, x: Tensor, g: Tensor) -> ConvolutionJacobian:
        return ConvolutionJacobian(x, g, batch=self.batch, geometry=self.geometry, groups=self.groups)


def arranged(tensor: Tensor, memory: str) -> Tensor:
    """Return the same numbers, otherwise in memory."""
    if memory == "channels-last":
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    if memory == "slice":
        return torch.stack([tensor, tensor], 2).flatten(1, 2)[:, ::2]
    return tensor


CASES = {
    "3x3": Case((3, 3), (7, 6), padding=((1, 1), (1, 1))),
    "3x3-no-padding": Case((3, 3), (5, 6)),
    "stride-2": Case((3, 3), (8, 7), (2, 2), ((1, 1), (1, 1))),
    "stride-3-uneven": Case((2, 3), (9, 8), (3, 2), ((0, 0), (2, 2))),
    "stride-leaves-a-rest": Case((2, 2), (9, 9), (3, 3)),
    "dilation": Case((3, 2), (8, 9), dilation=(2, 3), padding=((2, 2), (1, 1))),
    "stride-and-dilation": Case((3, 3), (11, 10), (2, 3), ((2, 2), (1, 1)), (3, 2)),
    "uneven-padding": Case((2, 4), (5, 5), padding=((0, 1), (1, 2))),
    "uneven-padding-stride": Case((3, 4), (6, 7), (2, 2), ((2, 0), (1, 3))),
    "padding-wider-than-the-kernel": Case((2, 2), (3, 3), (4, 4), ((3, 3), (2, 2))),
    "groups": Case((3, 3), (5, 5), padding=((1, 1), (1, 1)), groups=2),
    "depthwise": Case((3, 3), (6, 5), (2, 1), ((1, 1), (1, 1)), groups=4, channels=(4, 4)),
    "depthwise-several": Case((3, 3), (5, 5), groups=4, channels=(4, 8)),
    "1x1": Case((1, 1), (4, 5)),
    "1x1-stride-2": Case((1, 1), (5, 5), (2, 2)),
    "7x7-stride-2": Case((7, 7), (16, 16), (2, 2), ((3, 3), (3, 3)), channels=(3, 4)),
    "whole": Case((5, 4), (5, 4)),
    "one-channel": Case((3, 3), (6, 6), padding=((1, 1), (1, 1)), channels=(1, 4)),
    "rows-of-a-sample": Case((3, 3), (5, 5), padding=((1, 1), (1, 1)), repeats=3),
    "rows-of-a-sample-groups": Case((2, 2), (5, 5), (2, 2), groups=2, repeats=2),
    "fewer-positions": Case((3, 3), (9, 9), (2, 2), ((1, 1), (1, 1)), spare=1),
    "fewer-positions-dilation": Case((2, 2), (9, 8), (1, 2), ((1, 1), (1, 1)), (2, 2), spare=2),
    "1-d": Case((3,), (9,), padding=((1, 1),)),
    "1-d-everything": Case((3,), (14,), (2,), ((3, 1),), (2,), groups=2, repeats=2),
    "1-d-pointwise": Case((1,), (6,)),
    "3-d": Case((2, 3, 2), (4, 5, 4), padding=((1, 1), (1, 1), (0, 0))),
    "3-d-everything": Case((2, 3, 2), (6, 5, 7), (2, 1, 2), ((1, 0), (1, 1), (0, 2)), (1, 1, 2), groups=2),
    "one-sample": Case((3, 3), (4, 4), batch=1),
}
MEMORIES = ["plain", "channels-last", "slice"]
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def close(actual: Tensor, expected: Tensor) -> bool:
    return float((actual - expected).abs().max()) < 1e-10 * float(expected.abs().max())


@cases
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("route", CANDIDATES, ids=str)
def test_every_route_is_autograd_s_j(case: Case, memory: str, route: Route) -> None:
    x, g = case.tensors(memory)
    expected = case.expected(x, g)
    for max_memory in (1 << 26, 1):
        formed = form(x, g, case.batch, case.geometry, case.groups, route=route, max_memory=max_memory)
        assert close(formed.canonical(), expected)
        assert close(formed.total(), expected.sum(0))


@cases
@pytest.mark.parametrize("memory", MEMORIES)
def test_gram_matrix_and_gradient(case: Case, memory: str) -> None:
    x, g = case.tensors(memory)
    expected = case.expected(x, g)
    rows = expected.flatten(1)
    for max_memory in (1 << 26, 1 << 14, 1):
        gram = GramAccumulator(case.batch, CPU, max_memory)
        gradient = torch.full((prod(case.weight),), torch.nan, dtype=x.dtype)
        case.jacobian(x, g).add_to(gram, gradient)
        assert close(gram.result(), rows @ rows.T)
        assert close(gradient.view(case.weight), expected.sum(0))
        gram = GramAccumulator(case.batch, CPU, max_memory)
        case.jacobian(x, g).add_to(gram)
        assert close(gram.result(), rows @ rows.T)


@cases
def test_blocks_are_in_the_weight_s_own_order(case: Case) -> None:
    x, g = case.tensors()
    jacobian, expected = case.jacobian(x, g), case.expected(x, g)
    assert (jacobian.rows, jacobian.width) == (case.weight[0], prod(case.weight[1:]))
    for lo, hi in ((0, jacobian.rows), (1, jacobian.rows - 1), (jacobian.rows - 1, jacobian.rows)):
        assert close(jacobian.block(lo, hi), expected[:, lo:hi].flatten(1))


def test_products_of_pairs_where_they_are_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case((3, 3), (2, 2), padding=((1, 1), (1, 1)), channels=(40, 30), repeats=2)
    x, g = case.tensors("channels-last")
    rows = case.expected(x, g).flatten(1)
    monkeypatch.setattr(_convolution, "form", None)  # J is not made
    for max_memory in (1 << 26, 1 << 20):
        gram = GramAccumulator(case.batch, CPU, max_memory)
        case.jacobian(x, g).add_to(gram)
        assert close(gram.result(), rows @ rows.T)


def test_the_gradient_is_the_ordinary_one_in_float32() -> None:
    for case in (CASES["3x3"], CASES["stride-2"], CASES["groups"]):
        x, g = case.tensors(dtype=torch.float32)
        weight = torch.zeros(case.weight, requires_grad=True)
        expected = torch.autograd.grad((case.convolve(x, weight) * g).sum(), weight)[0]
        gradient = torch.empty(case.weight)
        case.jacobian(x, g).add_to(GramAccumulator(case.batch, CPU), gradient)
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)

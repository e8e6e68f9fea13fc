"""Operations in place on a view that a call returned, or through a view of a tensor: F and gradients stay right."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobatch._errors import MeasureError
from autobatch.fisher import FisherProbe
from autobatch.fisher.capture import _ledgers
from autobatch.fisher.capture._anchor import anchor

from .zoo_reference import error_of, gram_of_probe, gram_of_samples

B, T, C = 3, 4, 6
Forward = Callable[["Model", Tensor], Tensor]


class Model(nn.Module):
    """A function between two layers, with two weights and two vectors of its own."""

    def __init__(self, function: Forward) -> None:
        super().__init__()
        self.function = function
        self.before = nn.Linear(C, C)
        self.layer = nn.Linear(C, C)
        self.conv = nn.Conv1d(C, C, 3, padding=1)
        self.conv_transpose = nn.ConvTranspose1d(C, C, 3, padding=1)
        self.norm = nn.InstanceNorm1d(T, affine=True)
        self.attention = nn.MultiheadAttention(C, 2, batch_first=True)
        self.lstm = nn.LSTM(C, C, batch_first=True)
        self.after = nn.Linear(C, 2)
        self.weight = nn.Parameter(torch.randn(C, C))
        self.positions = nn.Parameter(torch.randn(5, T))
        self.p = nn.Parameter(torch.randn(C))
        self.q = nn.Parameter(torch.randn(C))

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.function(self, self.before(x).tanh()).flatten(1).unflatten(1, (-1, C)))


def through_a_view(change: Callable[["Model", Tensor], object]) -> Forward:
    """Change a copy of the input in place, through views of it, and return the copy."""

    def forward(m: Model, x: Tensor) -> Tensor:
        y = x.sin()
        change(m, y)
        return y

    return forward


def gated(m: Model, x: Tensor) -> Tensor:
    value, gate = m.layer(x).chunk(2, -1)
    return torch.cat([value * gate.sigmoid(), gate], -1).mul_(2)


def partly(m: Model, x: Tensor) -> Tensor:
    y = m.layer(x)
    y[..., :2].sin_()
    y.view(-1, C)[:, 1:].mul_(m.p[1:])
    return y


def assigned(m: Model, x: Tensor) -> Tensor:
    y = m.layer(x)
    y[:, 0] = m.p * x[:, 1]
    y[:, 1] = m.q
    return y


def used_twice(m: Model, x: Tensor) -> Tensor:
    y = x.sin()
    part = y[:, 1:3]
    part.mul_(m.p)
    part.add_(m.q)
    return y.mul_(m.p) + part.sum(1, keepdim=True)


def states(m: Model, x: Tensor) -> Tensor:
    output, (hidden, cell) = m.lstm(x)
    output += x
    return torch.cat([output, hidden.transpose(0, 1), cell.transpose(0, 1)], 1)


RETURNED: dict[str, Forward] = {
    "linear-relu": lambda m, x: F.relu_(m.layer(x)),
    "linear-sum": lambda m, x: m.layer(x).add_(x),
    "linear-sum-weights": lambda m, x: m.layer(x).add_(m.q),
    "linear-several": lambda m, x: m.layer(x).mul_(m.p).add_(m.q).sin_(),
    "linear-of-itself": lambda m, x: m.layer(m.layer(x).sin_()).mul_(2).cos_(),
    "linear-four-dimensions": lambda m, x: F.relu_(m.layer(x.unsqueeze(1).repeat(1, 2, 1, 1))),
    "einsum": lambda m, x: torch.einsum("btc,ck->btk", x, m.weight).add_(x),
    "einsum-turned": lambda m, x: torch.einsum("btc,ck->bkt", x, m.weight).add_(x.mT),
    "einsum-batch-second": lambda m, x: torch.einsum("btc,ck->tbk", x, m.weight).sin_().transpose(0, 1),
    "matmul": lambda m, x: (x @ m.weight).relu_(),
    "matmul-from-the-left": lambda m, x: (m.positions @ x).relu_(),
    "tensordot": lambda m, x: torch.tensordot(x, m.weight, ([2], [0])).sin_(),
    "conv1d": lambda m, x: F.relu_(m.conv(x.mT)),
    "conv-transpose1d": lambda m, x: F.relu_(m.conv_transpose(x.mT)),
    "instance-norm": lambda m, x: F.relu_(m.norm(x)),
    "attention": lambda m, x: m.attention(x, x, x)[0].add_(x),
    "lstm": states,
    "chunk": gated,
    "parts": partly,
    "assigned": assigned,
}
THROUGH: dict[str, Forward] = {
    "select": through_a_view(lambda m, y: y[:, 0].add_(m.p)),
    "select-product": through_a_view(lambda m, y: y[:, 0].mul_(m.p)),
    "narrow": through_a_view(lambda m, y: y.narrow(1, 1, 2).mul_(m.p).add_(m.q)),
    "flat": through_a_view(lambda m, y: y.view(-1, C).mul_(m.p)),
    "turned": through_a_view(lambda m, y: y.transpose(0, 1).addcmul_(m.p, m.q)),
    "two-views": through_a_view(lambda m, y: (y[:, 0].mul_(m.p), y[:, 1].add_(m.q), y.mul_(m.p))),
    "of-a-linear": lambda m, x: (y := m.layer(x), y[:, 0].mul_(m.p))[0],
    "base-and-view": used_twice,
}
ALL = {f"returned-{name}": forward for name, forward in RETURNED.items()} | {
    f"through-{name}": forward for name, forward in THROUGH.items()
}


def model_and_step(forward: Forward) -> tuple[Model, Callable[[slice], Tensor]]:
    model, x = Model(forward).double(), torch.randn(B, T, C, dtype=torch.float64)

    def step(samples: slice) -> Tensor:
        return (model(x[samples]).flatten(1).cumsum(1) ** 2).sum()

    return model, step


@pytest.mark.parametrize("name", ALL)
def test_the_gram_matrix_is_that_of_one_sample_at_a_time(name: str) -> None:
    model, step = model_and_step(ALL[name])
    assert error_of(gram_of_probe(model, step), gram_of_samples(model, B, step)) < 1e-9


@pytest.mark.parametrize("name", ALL)
def test_gradients_taken_from_j_are_all_there(name: str) -> None:
    model, step = model_and_step(ALL[name])
    step(slice(None)).backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    probe = FisherProbe(model, loss_reduction="sum", gradients="rows")
    with probe:
        probe.backward(step(slice(None)))
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert error_of(probe.gram(), gram_of_samples(model, B, step)) < 1e-9


def test_a_use_that_left_the_graph_keeps_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should a hook be cut off after all, that is an error, and no parameter is left without its gradient."""
    monkeypatch.setattr(_ledgers, "anchor", lambda output, _: (output, lambda gradient: gradient))
    model, step = model_and_step(RETURNED["linear-relu"])
    step(slice(None)).backward()
    expected, model.layer.weight.grad = model.layer.weight.grad, None
    probe = FisherProbe(model, loss_reduction="sum")
    with probe:
        step(slice(None)).backward()
    torch.testing.assert_close(model.layer.weight.grad, expected)
    with pytest.raises(MeasureError, match="some use of a parameter was not seen"):
        probe.gram()


def test_a_view_that_reads_its_base_differently_is_refused() -> None:
    def forward(m: Model, x: Tensor) -> Tensor:
        z = torch.complex(x.sin(), x).mul(2)
        torch.view_as_real(z).mul_(m.p[:2])
        return torch.view_as_real(z).flatten(2)

    model, step = model_and_step(forward)
    probe = FisherProbe(model, loss_reduction="sum")
    with probe:
        step(slice(None)).backward()
    with pytest.raises(MeasureError, match="some use of a parameter was not seen"):
        probe.gram()


def test_a_table_keeps_the_gradients_of_its_own_uses() -> None:
    """What an out-of-place call returns as a view of its argument has only its own gradient."""
    table = torch.randn(4, 3, requires_grad=True)
    base = table * 2
    view = base[1:]
    assert anchor(view, [base])[0] is view
    assert anchor(view, [base[:2]])[0] is view
    assert anchor(view, [table])[0] is base
    assert anchor(view, [view])[0] is base


@pytest.mark.parametrize(
    "expand",
    [lambda g: g, lambda g: g.mT.contiguous().mT, lambda g: g[:1, :1].expand_as(g)],
    ids=["same", "turned", "expanded"],
)
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_part_of_a_gradient(order: tuple[int, int], expand: Callable[[Tensor], Tensor]) -> None:
    """Whatever the memory order of the base and of its gradient."""
    base = torch.randn(4, 6, requires_grad=True).permute(order).clone(memory_format=torch.preserve_format)
    positions = torch.arange(base.numel()).view(base.shape)
    view = base[1:].T[::2]
    hooked, part = anchor(view, [])
    assert hooked is base
    gradient = expand(torch.randn(base.shape))
    assert torch.equal(part(gradient), gradient[1:].T[::2])
    assert part(positions).shape == view.shape


def test_nothing_of_an_output_is_kept() -> None:
    base = torch.randn(4, 6, requires_grad=True) * 2
    part = anchor(base[1:], [])[1]
    dead = weakref.ref(base)
    del base
    gc.collect()
    assert dead() is None
    assert part(torch.ones(4, 6)).shape == (3, 6)

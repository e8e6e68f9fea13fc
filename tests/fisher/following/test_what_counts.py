"""What a sample is, and which parameters count, where the arguments or the step leave it open: right, or refused."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobatch._errors import MeasureError
from autobatch.fisher import FisherProbe

from ..reference import gram_one_sample_at_a_time

B, C = 4, 6
Backward = Callable[[nn.Sequential, Tensor], object]


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def loss(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, reduction="sum")


def assert_close(gram: Tensor, expected: Tensor) -> None:
    assert gram.shape == expected.shape
    assert float((gram - expected).abs().max() / expected.abs().max()) < 1e-10


class Timed(nn.Module):
    """Something that all samples share comes first."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.own, self.time, self.head = nn.Linear(C, 5), nn.Linear(1, 5), nn.Linear(5, 3)
        self.how = how

    def forward(self, t: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.own(x)
        if self.how == "mean":
            h = h * (t.mean() + 1)
        else:
            shift = self.time(t.view(-1, 1))
            h = h + (shift.expand(len(x), -1) if self.how == "expanded" else shift)
        output = self.head(h.tanh())
        return output if y is None else loss(output, y)


@pytest.mark.parametrize("how", ["added", "expanded", "mean"])
@pytest.mark.parametrize("samples", [None, 1])
@pytest.mark.parametrize("shape", [(1,), (1, 1), (7, 7)])
def test_a_batch_that_does_not_come_first(how: str, samples: int | None, shape: tuple[int, ...]) -> None:
    if len(shape) == 2 and shape[0] == 7 and how != "mean":
        how = "mean"
    model, t, x, y = Timed(how).double(), randn(*shape), randn(B, C), torch.tensor([0, 1, 2, 0])
    probe = FisherProbe(model, loss_reduction="sum", samples=samples)
    with probe:
        loss(model(t, x), y).backward()
    with pytest.raises(MeasureError, match=rf"first tensor has {shape[0]} rows.*samples=torch.arange\(4\)"):
        probe.gram()
    probe.samples = torch.arange(B)
    with probe:
        loss(model(t, x), y).backward()
    parameters = [p for name, p in model.named_parameters() if how != "mean" or not name.startswith("time")]
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(loss(model(t, x[i, None]), y[i, None]), parameters)])
        for i in range(B)
    ]
    assert_close(probe.gram(), torch.stack(rows) @ torch.stack(rows).T)


def test_a_batch_that_does_not_come_first_where_the_model_returns_its_loss() -> None:
    model = Timed("added").double()
    probe = FisherProbe(model, loss_reduction="sum", samples=1)
    with probe:
        model(randn(1), randn(B, C), torch.tensor([0, 1, 2, 0])).backward()
    with pytest.raises(MeasureError, match="first tensor has 1 rows"):
        probe.gram()


# -- parameters that are frozen ---------------------------------------------------------------------------------------


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(C, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def frozen_before(model: nn.Sequential, x: Tensor) -> Tensor:
    model[2].requires_grad_(False)
    return model(x)


def frozen_during(model: nn.Sequential, x: Tensor) -> Tensor:
    model[2].requires_grad_(False)
    output = model(x)
    model[2].requires_grad_(True)
    return output


def unfrozen(model: nn.Sequential, x: Tensor) -> Tensor:
    model.requires_grad_(True)
    return model(x)


@pytest.mark.parametrize("gradients", ["library", "rows"])
@pytest.mark.parametrize("call", [frozen_before, frozen_during, unfrozen])
def test_what_requires_gradients_at_the_call_counts(
    call: Callable[[nn.Sequential, Tensor], Tensor], gradients: str
) -> None:
    model, x, y = layers(), randn(B, C), torch.tensor([0, 1, 2, 0])
    model[4].bias.requires_grad_(call is not unfrozen)
    probe = FisherProbe(model, loss_reduction="sum", gradients=gradients)
    with probe:
        loss(call(model, x), y).backward()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.grad is not None)
    assert all(p.requires_grad for p in model[2].parameters()) is (call is unfrozen)
    assert_close(probe.gram(), gram_one_sample_at_a_time(model, x, y, loss))


def frozen_after(model: nn.Sequential, value: Tensor) -> None:
    model[2].requires_grad_(False)
    value.backward()


LEFT_OUT: list[Backward] = [
    frozen_after,
    lambda model, value: value.backward(inputs=[model[0].weight]),
    lambda model, value: torch.autograd.grad(value, model[4].weight),
]


@pytest.mark.parametrize("gradients", ["library", "rows"])
@pytest.mark.parametrize("backward", LEFT_OUT)
def test_rows_of_a_parameter_that_got_no_gradient_are_found(backward: Backward, gradients: str) -> None:
    model, x, y = layers(), randn(B, C), torch.tensor([0, 1, 2, 0])
    probe = FisherProbe(model, loss_reduction="sum", gradients=gradients)
    with probe:
        backward(model, loss(model(x), y))
    with pytest.raises(MeasureError, match=r"got no gradient, but what it was used in did.*params="):
        probe.gram()


def test_the_way_out_for_gradients_of_some_parameters() -> None:
    model, x, y = layers(), randn(B, C), torch.tensor([0, 1, 2, 0])
    probe = FisherProbe(model, loss_reduction="sum", params=[model[4].weight])
    with probe:
        torch.autograd.grad(loss(model(x), y), model[4].weight)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter is model[4].weight)
    assert_close(probe.gram(), gram_one_sample_at_a_time(model, x, y, loss))


class Attending(nn.Module):
    def __init__(self, *, weights: bool) -> None:
        super().__init__()
        self.enter, self.attention = nn.Linear(C, C), nn.MultiheadAttention(C, 2, batch_first=True)
        self.head, self.weights = nn.Linear(C, 3), weights

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        return self.head(self.attention(h, h, h, need_weights=self.weights)[0].mean(1))


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("steps", [3, B])
@pytest.mark.parametrize("how", ["frozen", "not counted", "no_grad"])
def test_attention_of_which_nothing_is_counted(how: str, steps: int, weights: bool) -> None:
    model, x, y = Attending(weights=weights).double(), randn(B, steps, C), torch.tensor([0, 1, 2, 0])
    if how == "frozen":
        model.attention.requires_grad_(False)
    if how == "no_grad":
        model.attention.forward = torch.no_grad()(model.attention.forward)
    others = [*model.enter.parameters(), *model.head.parameters()]
    probe = FisherProbe(model, loss_reduction="sum", params=others if how == "not counted" else None)
    with probe:
        loss(model(x), y).backward()
    model.attention.requires_grad_(False)
    assert_close(probe.gram(), gram_one_sample_at_a_time(model, x, y, loss))
    assert probe.spectrum().bn == "none"


# -- as many edges as nodes -------------------------------------------------------------------------------------------

INDEX = torch.arange(3).repeat_interleave(3)


class Links(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.node, self.edge = nn.Linear(5, 4), nn.Linear(2, 4)

    def forward(self, x: Tensor, edges: Tensor | list[Tensor], of_edges: Tensor) -> Tensor:
        h = self.node(x).tanh()
        return (h[edges[0]] * h[edges[1]] * self.edge(of_edges)).sum(1)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(("counts", "right"), [((4, 3, 3), True), ((4, 3, 2), False), ((3, 3, 3), True)])
def test_as_many_edges_as_nodes(counts: tuple[int, ...], right: bool, apart: bool) -> None:
    owner = torch.arange(3).repeat_interleave(torch.tensor(counts))
    edges = torch.randint(0, 3, (2, len(owner))) + 3 * owner
    edges[:, 0] = torch.tensor([0, 1])
    model, x, of_edges = Links().double(), randn(9, 5), randn(len(owner), 2)
    given = list(edges) if apart else edges

    def losses() -> Tensor:
        return torch.zeros(3).double().index_add(0, owner, F.softplus(model(x, given, of_edges)))

    probe = FisherProbe(model, loss_reduction="sum", samples=INDEX)
    with probe:
        losses().sum().backward()
    if not right:
        with pytest.raises(MeasureError, match="as many edges"):
            probe.gram()
        return
    rows = [torch.autograd.grad(value, list(model.parameters()), retain_graph=True) for value in losses()]
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    assert_close(probe.gram(), jacobian @ jacobian.T)

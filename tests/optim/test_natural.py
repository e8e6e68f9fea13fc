"""Natural gradients in function space against dense solves of the whole matrix."""

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autobatch._errors import ConfigError, MeasureError, UnknownNameError
from autobatch.optim import NaturalGradient
from tests.optim.networks import Mirrored, Turned, convolutional, examples, output_jacobian, perceptron


def stepped(model: nn.Module, inputs: Tensor, targets: Tensor, **settings: object) -> tuple[list[Tensor], list[Tensor]]:
    """J by parameter, and what one step with rate 1 took off each."""
    jacobian, outputs = output_jacobian(model, inputs)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = NaturalGradient(model.parameters(), model, **settings)  # type: ignore[arg-type]

    def closure() -> tuple[Tensor, Tensor]:
        found = model(inputs)
        return found, 0.5 * (found - targets).square().flatten(1).sum(1).mean()

    loss = optimizer.step(closure)
    assert float(loss) == pytest.approx((0.5 * (outputs - targets.flatten(1)).square().sum(1).mean()).item())
    steps = [start - after.detach() for start, after in zip(before, model.parameters(), strict=True)]
    return jacobian, steps


def masked(
    approximation: str, jacobian: list[Tensor], shapes: list[torch.Size], layers: list[int], samples: int
) -> Tensor:
    """G of an approximation that is a mask of JᵀJ / N."""
    whole = torch.cat(jacobian, 1)
    layer = torch.cat([torch.full((own.shape[1],), number) for own, number in zip(jacobian, layers, strict=True)])
    unit = torch.cat([torch.arange(shape.numel()) // (shape.numel() // shape[0]) for shape in shapes])
    apart = (layer[:, None] - layer).abs()
    mask = {
        "exact": torch.ones_like(apart, dtype=torch.bool),
        "layer": apart == 0,
        "tridiagonal": apart <= 1,
        "unit": (apart == 0) & (unit[:, None] == unit),
    }[approximation]
    return whole.mT @ whole * mask / samples


NETWORKS: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...], list[int]]] = {
    "perceptron": (perceptron, (4,), [0, 0, 1, 1]),
    "convolutional": (lambda: convolutional().eval(), (2, 4, 4), [0, 0, 1, 1, 2, 2]),
}


@pytest.mark.parametrize("approximation", ["exact", "layer", "tridiagonal", "unit"])
@pytest.mark.parametrize("network", list(NETWORKS))
def test_a_step_is_the_dense_solve(approximation: str, network: str) -> None:
    """With damping, of two outputs; convolution and norm layer have rows of J that are sums over positions."""
    make, shape, layers = NETWORKS[network]
    model, (inputs, _) = make(), examples(5, *shape)
    targets = examples(6, 2)[0][:5]
    outputs = model(inputs).detach()
    jacobian, steps = stepped(model, inputs, targets, approximation=approximation, damping=0.1)
    shapes = [parameter.shape for parameter in model.parameters()]
    matrix = masked(approximation, jacobian, shapes, layers, samples=5)
    gradient = torch.cat(jacobian, 1).mT @ ((outputs - targets) / 5).mT.flatten()
    expected = torch.linalg.solve(matrix + 0.1 * torch.eye(len(matrix)), gradient)
    torch.testing.assert_close(torch.cat([step.flatten() for step in steps]), expected)


def test_the_kronecker_product_is_the_dense_one() -> None:
    """Damped by √ρ times and over π, with a 1 among the inputs for the bias."""
    model, (inputs, _) = perceptron(), examples(5, 4)
    targets = examples(6, 2)[0][:5]
    outputs = model(inputs).detach()
    hidden = torch.tanh(model[0](inputs)).detach()
    jacobian, steps = stepped(model, inputs, targets, approximation="kfac", damping=0.04)
    upstream = ((outputs - targets) / 5).mT.flatten()
    for number, layer_inputs in enumerate((inputs, hidden)):
        weight, bias = jacobian[2 * number], jacobian[2 * number + 1]
        gradients = bias  # of the outputs by the layer's own: the bias's rows of J
        joined = torch.cat([layer_inputs, torch.ones(5, 1, dtype=torch.float64)], 1)
        a, b = joined.mT @ joined / 5, gradients.mT @ gradients / 5
        balance = ((a.trace() / len(a)) / (b.trace() / len(b))).sqrt()
        a += 0.2 * balance * torch.eye(len(a))
        b += 0.2 / balance * torch.eye(len(b))
        whole = torch.cat([weight.view(len(weight), len(b), -1), bias.unsqueeze(2)], 2)
        gradient = torch.einsum("n,nrw->rw", upstream, whole)
        expected = torch.linalg.solve(b, gradient) @ torch.linalg.inv(a)
        torch.testing.assert_close(steps[2 * number], expected[:, :-1])
        torch.testing.assert_close(steps[2 * number + 1], expected[:, -1])


def test_without_damping_a_sample_that_occurs_twice_counts_once() -> None:
    """The smallest of the steps that fit: that of the pseudo-inverse."""
    model, (inputs, _) = perceptron(), examples(3, 4)
    targets = examples(6, 2)[0][:3]
    inputs, targets = torch.cat([inputs, inputs[:1]]), torch.cat([targets, targets[:1]])
    outputs = model(inputs).detach()
    jacobian, steps = stepped(model, inputs, targets)
    whole = torch.cat(jacobian, 1)
    expected = torch.linalg.lstsq(whole, (outputs - targets).mT.flatten(), driver="gelsd").solution
    torch.testing.assert_close(torch.cat([step.flatten() for step in steps]), expected)


def test_tri_diagonal_blocks_of_two_layers_need_damping() -> None:
    model, (inputs, _) = perceptron(), examples(3, 4)
    with pytest.raises(ConfigError, match="of 2 layers is singular without damping"):
        stepped(model, inputs, examples(6, 2)[0][:3], approximation="tridiagonal")


def test_tri_diagonal_blocks_without_damping() -> None:
    torch.manual_seed(8)
    model = nn.Sequential(nn.Linear(9, 9), nn.Tanh(), nn.Linear(9, 9), nn.Tanh(), nn.Linear(9, 1)).double()
    (inputs, _), targets = examples(3, 9), examples(6, 1)[0][:3]
    outputs = model(inputs).detach()
    jacobian, steps = stepped(model, inputs, targets, approximation="tridiagonal")
    shapes = [parameter.shape for parameter in model.parameters()]
    matrix = masked("tridiagonal", jacobian, shapes, [0, 0, 1, 1, 2, 2], samples=3)
    gradient = torch.cat(jacobian, 1).mT @ ((outputs - targets) / 3).flatten()
    expected = torch.linalg.pinv(matrix, hermitian=True, rtol=1e-10) @ gradient
    torch.testing.assert_close(torch.cat([step.flatten() for step in steps]), expected)


def test_damped_tri_diagonal_blocks_whose_step_goes_uphill_are_refused() -> None:
    """They have a negative eigenvalue, that damping brings near to zero from below or from above."""
    torch.manual_seed(0)
    make = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    (inputs, _), targets = examples(5, 4), examples(6, 2)[0][:5]
    model = copy.deepcopy(make)
    shapes = [parameter.shape for parameter in model.parameters()]
    jacobian, _ = output_jacobian(model, inputs)
    least = float(torch.linalg.eigvalsh(masked("tridiagonal", jacobian, shapes, [0, 0, 1, 1, 2, 2], samples=5))[0])
    assert least < -0.01
    with pytest.raises(ConfigError, match=r"with damping=.* is indefinite, and its step goes uphill: give much less"):
        stepped(model, inputs, targets, approximation="tridiagonal", damping=-0.999 * least)
    assert all(map(torch.equal, model.parameters(), make.parameters()))
    stepped(model, inputs, targets, approximation="tridiagonal", damping=-1.001 * least)


def test_gradients_are_left_alone_and_no_state_is_kept() -> None:
    model, (inputs, _) = perceptron(), examples(3, 4)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    stepped(model, inputs, examples(6, 2)[0][:3], damping=0.1)
    assert all(bool((parameter.grad == 1.0).all()) for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


class Heads(nn.Module):
    """Two outputs with nothing in common, and a parameter that neither uses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first, self.second, self.unused = nn.Linear(3, 1), nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.first(x), self.second(x)], 1)


def test_parameters_that_an_output_does_not_use() -> None:
    model, (inputs, _) = Heads().double(), examples(4, 3)
    targets = examples(6, 2)[0][:4]
    before = model.unused.weight.detach().clone()
    whole = torch.cat([inputs, torch.ones(4, 1, dtype=torch.float64)], 1)
    start = torch.cat([model.first.weight, model.first.bias[:, None]], 1).detach()
    optimizer = NaturalGradient(model.parameters(), model, approximation="layer")
    optimizer.step(lambda: (found := model(inputs), 0.5 * (found - targets).square().sum(1).mean()))
    solution = torch.linalg.solve(whole, targets[:, :1]).mT
    torch.testing.assert_close(torch.cat([model.first.weight, model.first.bias[:, None]], 1).detach(), solution)
    assert not torch.allclose(start, solution)
    torch.testing.assert_close(model.unused.weight.detach(), before)


def test_what_has_no_kronecker_factors_gets_the_plain_step(caplog: pytest.LogCaptureFixture) -> None:
    (inputs, _), targets = examples(5, 2, 4, 4), examples(6, 2)[0][:5]
    with caplog.at_level(logging.INFO, "autobatch"):
        model = convolutional().eval()
        outputs = model(inputs).detach()
        jacobian, steps = stepped(model, inputs, targets, approximation="kfac", damping=0.1)
    expected = jacobian[2].mT @ ((outputs - targets) / 5).mT.flatten()
    torch.testing.assert_close(steps[2], expected)
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == [
        "no Kronecker factors of its layer are known"
    ]
    with pytest.raises(ConfigError, match=r"NaturalGradient\(strict=True\): '"):
        stepped(convolutional().eval(), inputs, targets, approximation="kfac", damping=0.1, strict=True)


@pytest.mark.parametrize("model", [Turned(), Mirrored()])
def test_kronecker_factors_take_no_bias_that_is_none_of_a_units(model: nn.Module) -> None:
    """Of a weight (in, out) the rows are inputs: what is added to outputs, of the same shape, has nothing of them."""
    model = copy.deepcopy(model)
    (inputs, _), targets = examples(5, 4), examples(6, 4)[0][:5]
    with torch.no_grad():
        outputs = model(inputs)
    targets = targets[:, : outputs.shape[1]]
    jacobian, steps = stepped(model, inputs, targets, approximation="kfac", damping=0.1)
    number = [name for name, _ in model.named_parameters()].index("bias" if isinstance(model, Turned) else "weight")
    gradient = jacobian[number].mT @ ((outputs - targets) / 5).mT.flatten()
    torch.testing.assert_close(steps[number].flatten(), gradient)


def test_a_unit_of_a_weight_that_lies_the_other_way_is_a_row_without_a_bias() -> None:
    model = Turned()
    (inputs, _), targets = examples(5, 4), examples(6, 4)[0][:5]
    with torch.no_grad():
        slope = ((model(inputs) - targets) / 5).mT.flatten()
    (weight, bias), steps = stepped(model, inputs, targets, approximation="unit", damping=0.1)
    for rows, found in ((weight.view(20, 4, 4), steps[0]), (bias.view(20, 4, 1), steps[1].unsqueeze(1))):
        for unit, step in zip(rows.unbind(1), found, strict=True):
            system = unit.mT @ unit / 5 + 0.1 * torch.eye(unit.shape[1], dtype=torch.float64)
            torch.testing.assert_close(step, torch.linalg.solve(system, unit.mT @ slope))


def test_bad_input() -> None:
    model = perceptron()
    with pytest.raises(UnknownNameError, match="did you mean 'layer'"):
        NaturalGradient(model.parameters(), model, approximation="layers")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="damping"):
        NaturalGradient(model.parameters(), model, damping=-1.0)
    optimizer = NaturalGradient(model.parameters(), model)
    with pytest.raises(ConfigError, match=r"to return \(outputs, loss\), got Tensor"):
        optimizer.step(lambda: model(torch.ones(2, 4, dtype=torch.float64)).sum())  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    ("closure", "message"),
    [
        (lambda out: (out, out.square()), r"a loss that is one number, got shape \(5, 2\)"),
        (lambda out: (out.detach(), out.sum()), "got detached ones"),
        (lambda out: (out[:0], out.sum()), r"outputs of one sample at least, \(N, ...\), got shape \(0, 2\)"),
        (lambda out: out.sum(), r"to return \(outputs, loss\), got Tensor"),
    ],
)
def test_what_a_closure_returns_is_checked(closure: Any, message: str) -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(ConfigError, match=message):
        NaturalGradient(model.parameters(), model).step(lambda: closure(model(torch.randn(5, 3))))


def test_what_no_step_can_be_taken_of_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = NaturalGradient(model.parameters(), model)
    inputs, before = torch.randn(5, 3), [parameter.detach().clone() for parameter in model.parameters()]

    def closure() -> tuple[Tensor, Tensor]:
        outputs = model(inputs)
        return outputs, outputs.square().mean()

    with pytest.raises(ConfigError, match="'1', a BatchNorm1d, joins the samples of a batch"):
        optimizer.step(closure)
    model.eval()
    with pytest.raises(ConfigError, match="4,097 samples of 2 outputs are 8,194 rows to solve, expected at most 8,192"):
        optimizer.check(4097, 2)
    with pytest.raises(ConfigError, match=r"step\(\) needs a closure that returns \(outputs, loss\)"):
        optimizer.step()
    with pytest.raises(MeasureError, match="the closure calls the model more than once"):
        optimizer.step(lambda: (outputs := model(inputs) + model(inputs), outputs.mean()))
    assert all(torch.equal(own, old) for own, old in zip(model.parameters(), before, strict=True))
    optimizer.step(closure)


def test_every_pass_of_a_step_drops_the_same_units() -> None:
    model, (inputs, _) = nn.Sequential(perceptron(hidden=16), nn.Dropout()), examples(5, 4)
    drawn = []

    def closure() -> tuple[Tensor, Tensor]:
        outputs = model(inputs)
        drawn.append(outputs.detach())
        return outputs, outputs.square().mean()

    torch.manual_seed(0)
    NaturalGradient(model.parameters(), model, damping=0.1).step(closure)
    after = torch.rand(1)
    torch.manual_seed(0)
    once = model(inputs)
    assert len(drawn) == 3
    assert all(torch.equal(outputs == 0, once == 0) for outputs in drawn)
    assert torch.equal(after, torch.rand(1))

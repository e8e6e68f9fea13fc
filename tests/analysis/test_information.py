"""The analysis of a network's layers, against each layer's dense block of F in float64."""

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autobatch
from autobatch._errors import ConfigError, MeasureError, UnknownNameError
from autobatch.analysis import FisherInformation, fisher_information

N = 12


class Tied(nn.Module):
    """One weight that is used twice, a scale of the model's own, and a layer that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.7]))
        self.frozen, self.twice = nn.Linear(6, 6).requires_grad_(False), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.twice(self.frozen(x.flatten(1)[:, :6]).sin()).sin()
        return self.twice(hidden)[:, :3] * self.scale


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(32, 5), nn.Tanh(), nn.Linear(5, 3)),
    "cnn": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 2, stride=2, bias=False),
        nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 3),
    ),
    "tied": Tied,
}  # fmt: skip


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[request.param]().double()


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, 2, 4, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (N,), generator=generator)


def batches(data: tuple[Tensor, Tensor], size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(*(each.split(size) for each in data), strict=True))


def dense_blocks(model: nn.Module, data: tuple[Tensor, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Each module's block of F, (P, P), and its parameters, by one backward pass for each sample."""
    model = copy.deepcopy(model).eval()
    owners: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            owners.setdefault(name.rpartition(".")[0], []).append(parameter)
    blocks = {}
    for module, own in owners.items():
        rows = []
        for x, y in zip(*data, strict=True):
            gradients = torch.autograd.grad(F.cross_entropy(model(x[None]), y[None]), own)
            rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
        jacobian = torch.stack(rows)
        blocks[module] = jacobian.mT @ jacobian / N, torch.cat([p.detach().flatten() for p in own])
    return blocks


def assert_spectrum(layer: autobatch.LayerInformation, block: Tensor) -> None:
    eigenvalues = torch.linalg.eigvalsh(block).flip(0)
    assert layer.largest == pytest.approx(float(eigenvalues[0]))
    assert layer.effective_rank == pytest.approx(float(eigenvalues.sum() ** 2 / eigenvalues.square().sum()))
    above = eigenvalues[eigenvalues > 1e-9 * eigenvalues[0]][:32]
    assert layer.leading[: len(above)] == pytest.approx(above.tolist(), rel=1e-6)


@pytest.mark.parametrize("size", [N, 5])
@pytest.mark.parametrize("approximation", ["none", "kfac"])
def test_traces_and_diagonals_are_exact(
    network: nn.Module, data: tuple[Tensor, Tensor], approximation: Any, size: int
) -> None:
    information = fisher_information(network, batches(data, size), approximation=approximation)
    blocks = dense_blocks(network, data)
    assert [layer.layer for layer in information] == list(blocks)
    total = sum(float(block.trace()) for block, _ in blocks.values())
    assert information.trace == pytest.approx(total)
    assert information.samples == N
    for module, (block, parameters) in blocks.items():
        layer = information[module]
        assert layer.parameters == len(parameters)
        assert layer.trace == pytest.approx(float(block.trace()))
        assert layer.share == pytest.approx(float(block.trace()) / total)
        assert layer.sensitivity == pytest.approx(float(block.diagonal().mean()))
        assert layer.removal == pytest.approx(float(block.diagonal() @ parameters.square()) / 2)


@pytest.mark.parametrize("size", [N, 5])
def test_spectra_are_exact(network: nn.Module, data: tuple[Tensor, Tensor], size: int) -> None:
    information = fisher_information(network, batches(data, size))
    for module, (block, _) in dense_blocks(network, data).items():
        assert_spectrum(information[module], block)
        assert information[module].off == 0.0


def kronecker(layer: nn.Module, calls: list[tuple[Tensor, Tensor]]) -> Tensor:
    """A ⊗ B of a layer's inputs and output gradients, densely; a row of the weight's after the other, then the bias."""
    inputs, outputs, positions = [], [], 1
    for x, gradient in calls:
        if isinstance(layer, nn.Conv2d):
            x = F.unfold(x, layer.kernel_size, padding=layer.padding, stride=layer.stride).mT
            gradient = gradient.flatten(2).mT
            positions = x.shape[1]
        inputs.append(x.flatten(0, -2))
        outputs.append(gradient.flatten(0, -2))
    a, g = torch.cat(inputs), torch.cat(outputs)
    if layer.bias is not None:
        a = torch.cat([a, a.new_ones(len(a), 1)], 1)
    block = torch.kron(g.mT @ g / N, a.mT @ a / (N * positions))
    width, rows = a.shape[1], g.shape[1]
    if layer.bias is None:
        return block
    places = torch.arange(rows * width).view(rows, width)
    order = torch.cat([places[:, :-1].flatten(), places[:, -1]])
    return block[order][:, order]


def test_kronecker_spectra_are_those_of_the_dense_product(network: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {}
    model = copy.deepcopy(network).eval()

    def hook(name: str) -> Callable[..., None]:
        def seen(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            output.register_hook(lambda g: calls.setdefault(name, []).append((inputs[0].detach(), g)))

        return seen

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and module.weight.requires_grad:
            module.register_forward_hook(hook(name))
    F.cross_entropy(model(data[0]), data[1], reduction="sum").backward()
    information = fisher_information(network, data, approximation="kfac")
    several = fisher_information(network, batches(data, 5), approximation="kfac")
    for module, (block, _) in dense_blocks(network, data).items():
        layer = information[module]
        if module not in calls or len(calls[module]) > 1:  # norm layers, and what is used twice
            assert math.isnan(layer.largest)
            assert math.isnan(layer.off)
            assert layer.leading == ()
            continue
        product = kronecker(model.get_submodule(module), calls[module])
        assert_spectrum(layer, product)
        assert_spectrum(several[module], product)
        assert layer.off == pytest.approx(float((product - block).norm() / block.norm()))


def test_the_model_is_left_as_it_was(data: tuple[Tensor, Tensor]) -> None:
    model = NETWORKS["cnn"]().double().train()
    model[3].eval()
    F.cross_entropy(model(data[0]), data[1]).backward()
    before = [(p.detach().clone(), p.grad.clone()) for p in model.parameters() if p.grad is not None]
    state, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    fisher_information(model, data)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(own, state[name]) for name, own in model.state_dict().items())
    for parameter, (value, gradient) in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
        assert torch.equal(parameter.grad, gradient)


def test_a_layer_that_is_not_used(data: tuple[Tensor, Tensor]) -> None:
    model = NETWORKS["mlp"]().double()
    model.unused = nn.Linear(2, 2).double()
    model.forward = lambda x: model[3](model[2](model[1](model[0](x))))
    layer = fisher_information(model, data)["unused"]
    assert (layer.trace, layer.share, layer.removal, layer.largest, layer.leading) == (0.0, 0.0, 0.0, 0.0, ())
    assert math.isnan(layer.effective_rank)


def test_regression_with_a_loss_of_ones_own(data: tuple[Tensor, Tensor]) -> None:
    model, targets = NETWORKS["mlp"]().double(), torch.randn(N, 3, dtype=torch.float64)
    information = fisher_information(model, (data[0], targets), F.mse_loss)
    squares = 0.0
    for x, y in zip(data[0], targets, strict=True):
        gradients = torch.autograd.grad(F.mse_loss(model(x[None]), y[None]), list(model[3].parameters()))
        squares += sum(float(gradient.square().sum()) for gradient in gradients)
    assert information["3"].trace == pytest.approx(squares / N)


@pytest.fixture
def information(data: tuple[Tensor, Tensor]) -> FisherInformation:
    torch.manual_seed(0)
    return fisher_information(NETWORKS["cnn"]().double(), data, approximation="kfac")


def test_it_is_a_table(information: FisherInformation) -> None:
    head, titles, *lines = repr(information).splitlines()
    assert head == "Fisher information of 12 samples, spectra of Kronecker factors"
    assert titles.split()[:4] == ["layer", "kind", "parameters", "trace"]
    assert [line.split()[:2] for line in lines] == [
        ["0", "Conv2d"], ["1", "BatchNorm2d"], ["3", "Conv2d"], ["5", "LayerNorm"], ["6", "Linear"],
    ]  # fmt: skip
    assert lines[1].split()[-3:] == ["-", "-", "-"]
    table = pd.DataFrame(information.rows())
    assert list(table["layer"]) == ["0", "1", "3", "5", "6"]
    assert table["share"].sum() == pytest.approx(1.0)
    assert json.loads(json.dumps(information.to_dict()))["samples"] == N
    assert "LayerNorm" in information._repr_html_()
    with pytest.raises(UnknownNameError, match="layer '7': "):
        information["7"]


def test_it_is_a_figure(information: FisherInformation) -> None:
    figure = information.plot()
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["trace of F", "effective rank", "loss that removal adds", "leading eigenvalues"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["0", "1", "3", "5", "6"]
    assert len(figure.axes[-1].lines) == 3  # of the layers that have Kronecker factors
    figure.canvas.draw()


@pytest.mark.parametrize("approximation", ["none", "kfac"])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "data: no batch in it"),
        (3, "data: expected batches .inputs, targets., or one, got int"),
        ([torch.zeros(2, 2, 4, 4)], "data: expected batches .inputs, targets., got one of type Tensor"),
        ((torch.zeros(2, 2, 4, 4, dtype=torch.float64), torch.zeros(0, dtype=torch.long)), "data: no batch in it"),
    ],
)
def test_data_that_cannot_be_used(bad: Any, message: str, approximation: Any) -> None:
    with pytest.raises(ConfigError, match=message):
        fisher_information(NETWORKS["mlp"]().double(), bad, approximation=approximation)


def test_what_else_cannot_be_used(data: tuple[Tensor, Tensor]) -> None:
    model = NETWORKS["mlp"]().double()
    with pytest.raises(ConfigError, match="approximation='kfca': did you mean 'kfac'"):
        fisher_information(model, data, approximation="kfca")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"loss: expected the mean over a batch, a number, got shape .12,."):
        fisher_information(model, data, lambda out, y: F.cross_entropy(out, y, reduction="none"))
    with pytest.raises(ConfigError, match="model: none of its parameters is trained"):
        fisher_information(copy.deepcopy(model).requires_grad_(False), data)
    with pytest.raises(ConfigError, match=r"more than 4096 samples, .*kfac"):
        fisher_information(model, [(torch.zeros(4097, 2, 4, 4), torch.zeros(4097))])
    with pytest.raises(MeasureError, match="the loss of a batch is nan"):
        fisher_information(model, (data[0] * math.nan, data[1]))
    model[1].weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(MeasureError, match=r"parameter '1.weight': its gradient is not finite"):
        fisher_information(model, data)


def test_a_layer_that_cannot_be_measured_is_named(data: tuple[Tensor, Tensor]) -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(N, N).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.mix(x.flatten(1)[:, :3].mT).mT

    with pytest.raises(MeasureError, match=r"'mix.weight' of module 'mix'"):
        fisher_information(Mixing(), data)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda out, y: F.cross_entropy(out, y, reduction="sum"), "with every sample twice it is .* as a sum is"),
        (lambda out, y: F.cross_entropy(out, y).detach(), "depends on the model's parameters"),
        (lambda out, y: 1.0, "depends on the model's parameters, got 1.0"),
    ],
)
def test_a_loss_that_is_no_mean_is_refused(loss: Any, message: str) -> None:
    data = (torch.randn(6, 4), torch.arange(6) % 3)
    with pytest.raises(ConfigError, match=message):
        fisher_information(nn.Linear(4, 3), data, loss)


def test_lazy_layers_that_have_seen_no_batch_are_told() -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2))
    with pytest.raises(ConfigError, match=r"model: '0.weight' of a lazy layer has no shape yet: call the model once"):
        fisher_information(model, [(torch.ones(2, 4), torch.tensor([0, 1]))])

"""The fast rule of recurrent layers and cells: that it is met, and right or left to the slow one where it is hard."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from autobatch.fisher import FisherProbe
from autobatch.fisher.layers.recurrent import _rule, _unrolled

from .test_any_layer import RECURRENT, Case, Net, randn

B, T, C, H = 4, 3, 5, 6


class Model(nn.Module):
    """Layers by name, and a function of them and the input."""

    def __init__(self, run: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.double()

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.run(self, *inputs)


def losses_of(output: Tensor) -> Tensor:
    return (output.reshape(len(output), -1).cumsum(1).sin() + output.flatten(1) ** 2).sum(1)


def measured(model: nn.Module, *inputs: Tensor, fast: bool = True, **options: Any) -> float:
    """Return the relative error of F beside the gradients of single samples' losses, from one graph of the batch."""
    probe = FisherProbe(model, "sum", **options)
    state = torch.get_rng_state()
    with probe:
        losses_of(model(*inputs)).sum().backward()
    torch.set_rng_state(state)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, retain_graph=True)])
        for loss in losses_of(model(*inputs))
    ]
    jacobian = torch.stack(rows)
    expected = jacobian @ jacobian.T
    assert probe.measurement().by_sample is not fast
    return float((probe.gram() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("case", RECURRENT.values(), ids=RECURRENT.keys())
def test_every_kind_is_measured_by_the_fast_rule(case: Case) -> None:
    inputs = case.inputs(B, T, C)
    model = Net(case.layer(T, C).double(), inputs)
    probe = FisherProbe(model)
    with probe:
        model(*inputs).square().sum().backward()
    assert not probe.measurement().by_sample
    assert probe.gram().shape == (B, B)


# -- dropout between layers -------------------------------------------------------------------------------------------


def dropping(kind: type[nn.Module], **options: Any) -> Model:
    layer = kind(C, H, 3, dropout=0.4, **options)
    return Model(lambda m, x: torch.cat([m.layer(x)[0].transpose(0, 1).flatten(1), x[0]], 1), layer=layer)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_masks_of_a_dropout_are_drawn_again(kind: type[nn.Module], bidirectional: bool) -> None:
    model = dropping(kind, bidirectional=bidirectional)
    assert measured(model, randn(T, B, C), batch_dim=1) < 1e-12
    model.eval()
    assert measured(model, randn(T, B, C), batch_dim=1) < 1e-12


@pytest.mark.parametrize("how", ["other masks", "another generator"])
def test_masks_that_cannot_be_drawn_again_leave_it_to_the_slow_rule(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "other masks":
        monkeypatch.setattr(_unrolled.F, "dropout", lambda ones, p: F.alpha_dropout(ones, p).sign())
    else:
        monkeypatch.setattr(_unrolled.F, "dropout", lambda ones, p: ones)
    assert measured(dropping(nn.GRU), randn(T, B, C), fast=False, batch_dim=1) < 1e-12


# -- what models do ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize("trained", ["weight_ih_l0", "weight_hh_l1", "bias_hh_l0", "bias_ih_l1", "l0", "l1_reverse"])
def test_weights_that_are_frozen_in_part(kind: type[nn.Module], trained: str) -> None:
    layer = kind(C, H, 2, batch_first=True, bidirectional=True)
    model = Model(lambda m, x: m.layer(x)[0], layer=layer)
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(name.endswith(trained))
    assert measured(model, randn(B, T, C)) < 1e-12


@pytest.mark.parametrize("steps", [1, 2])
def test_a_projection_alone(steps: int) -> None:
    """Of which the only step's cell state knows nothing."""
    layer = nn.LSTM(C, H, proj_size=2, batch_first=True)
    model = Model(lambda m, x: m.layer(x)[0].flatten(1) + m.layer(x)[1][1].sum((0, 2))[:, None], layer=layer)
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(name == "weight_hr_l0")
    assert measured(model, randn(B, steps, C)) < 1e-12


@pytest.mark.parametrize("cell", [nn.GRUCell, nn.LSTMCell])
def test_a_cell_s_state_that_is_changed_in_place(cell: type[nn.Module]) -> None:
    def run(m: Model, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = m.cell(step, state)
            (state[0] if isinstance(state, tuple) else state).mul_(1.5)
        return torch.cat(state, 1) if isinstance(state, tuple) else state

    assert measured(Model(run, cell=cell(C, H)), randn(B, T, C)) < 1e-12


@pytest.mark.parametrize("layers", [1, 2])
def test_an_output_that_is_changed_in_place(layers: int) -> None:
    def run(m: Model, x: Tensor) -> Tensor:
        output, last = m.layer(x)
        last.mul_(3.0)
        return torch.cat([output.sin_().flatten(1), last.transpose(0, 1).flatten(1)], 1)

    model = Model(run, layer=nn.GRU(C, H, layers, batch_first=True))
    assert measured(model, randn(B, T, C)) < 1e-12


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_a_state_that_one_layer_hands_to_another(kind: type[nn.Module]) -> None:
    """Which is called twice, in the end without inputs of the samples' own."""

    def run(m: Model, x: Tensor) -> Tensor:
        _, state = m.encoder(x)
        output, state = m.decoder(x[:, :2], state)
        return torch.cat([output, m.decoder(torch.ones(B, 2, C, dtype=x.dtype), state)[0]], 1)

    layers = {name: kind(C, H, 2, batch_first=True) for name in ("encoder", "decoder")}
    assert measured(Model(run, **layers), randn(B, T, C)) < 1e-12


def test_one_matrix_for_all_that_it_fits() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(randn(3 * C, C)), nn.Parameter(randn(3 * C))
            self.first = nn.Parameter(randn(2, B, C))

        def forward(self, x: Tensor) -> Tensor:
            params = [self.weight, self.weight, self.bias, self.bias] * 2
            output, last = torch.gru(x, self.first, params, True, 2, 0.0, True, False, True)
            return output.flatten(1) + last.sum((0, 2))[:, None]

    assert measured(Tied(), randn(B, T, C)) < 1e-12


def test_cells_of_a_stack() -> None:
    def run(m: Model, x: Tensor) -> Tensor:
        h, (g, c) = x.new_zeros(B, H), (x.new_zeros(B, H),) * 2
        for step in x.unbind(1):
            h = m.below(step, h)
            g, c = m.above(h, (g, c))
        return g + c.sin()

    assert measured(Model(run, below=nn.GRUCell(C, H), above=nn.LSTMCell(H, H)), randn(B, T, C)) < 1e-12


def test_samples_of_several_sequences() -> None:
    model = Model(lambda m, x: m.layer(x)[0].flatten(1), layer=nn.LSTM(C, H, 2, batch_first=True, bidirectional=True))
    inputs, index = randn(6, T, C), torch.tensor([1, 0, 2, 0, 1, 1])
    for samples, of in ((2, torch.arange(6) // 2), (index, index)):
        probe = FisherProbe(model, "sum", samples=samples)
        with probe:
            losses_of(model(inputs)).sum().backward()
        losses = torch.zeros(3, dtype=inputs.dtype).index_add(0, of, losses_of(model(inputs)))
        grads = [torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for loss in losses]
        jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in grads])
        torch.testing.assert_close(probe.gram(), jacobian @ jacobian.T)
        assert not probe.measurement().by_sample


@pytest.mark.parametrize("options", [{"micro_batches": 1}, {"gradients": "rows"}, {"max_memory": 1 << 12}])
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_other_ways_to_measure(kind: type[nn.Module], options: dict[str, Any]) -> None:
    model = Model(
        lambda m, x: m.head(m.layer(x)[0]),
        layer=kind(C, H, bidirectional=True, batch_first=True),
        head=nn.Linear(12, 2),
    )
    assert measured(model, randn(B, T, C), **options) < 1e-12


def test_a_checkpointed_layer() -> None:
    model = Model(lambda m, x: checkpoint(lambda h: m.layer(h)[0], x * 1.0, use_reentrant=False), layer=nn.GRU(C, H, 2))
    model.layer.batch_first = True
    assert measured(model, randn(B, T, C)) < 1e-12


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize("use", ["outputs", "last"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "dropout": 0.4, "bidirectional": True}], ids=["one", "four"])
def test_packed_sequences(kind: type[nn.Module], use: str, options: dict[str, Any]) -> None:
    """With a state that each sample brings."""
    lengths = torch.tensor([2, 3, 1, 3])

    def run(m: Model, x: Tensor) -> Tensor:
        state = m.first(x[:, 0]).tanh().expand(m.layer.num_layers * (1 + m.layer.bidirectional), -1, -1)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        output, last = m.layer(packed, (state, state.cos()) if kind is nn.LSTM else state)
        if use == "outputs":
            return pad_packed_sequence(output, batch_first=True)[0]
        return torch.cat([end.transpose(0, 1).flatten(1) for end in (last if kind is nn.LSTM else [last])], 1)

    model = Model(run, first=nn.Linear(C, H), layer=kind(C, H, batch_first=True, **options))
    for samples in (None, 1):
        assert measured(model, randn(B, T, C), samples=samples) < 1e-12


def test_packed_sequences_of_one_sample() -> None:
    def run(m: Model, x: Tensor) -> Tensor:
        packed = pack_padded_sequence(x.view(3, T, C), torch.tensor([3, 2, 2]), batch_first=True)
        return m.layer(packed)[1].transpose(0, 1).reshape(1, -1)

    assert measured(Model(run, layer=nn.GRU(C, H, bidirectional=True)), randn(1, 3 * T, C)) < 1e-12


def test_states_that_one_call_made_of_another_are_left_to_the_slow_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rule, "_leads_to", lambda one, other: True)
    model = Model(lambda m, x: m.layer(x)[0], layer=nn.GRU(C, H, batch_first=True))
    assert measured(model, randn(B, T, C), fast=False) < 1e-12


# -- the training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_training_is_the_same_bit_for_bit(kind: type[nn.Module], dropout: float) -> None:
    def run(m: Model, x: Tensor) -> Tensor:
        output, last = m.layer(x)
        return m.head(F.dropout(output, 0.2)) + (last[0] if isinstance(last, tuple) else last).mean()

    model = Model(run, layer=kind(C, H, 2, dropout=dropout, batch_first=True), head=nn.Linear(H, 2)).float()
    plain, x, ends = copy.deepcopy(model), torch.randn(B, T, C), []
    for network, probe in ((model, FisherProbe(model)), (plain, None)):
        torch.manual_seed(7)
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        before = [(id(parameter.grad), parameter._version) for parameter in network.parameters()]
        if probe is None:
            losses_of(network(x)).sum().backward()
        else:
            with probe:
                losses_of(network(x)).sum().backward()
        assert [(id(parameter.grad), parameter._version) for parameter in network.parameters()] == before
        ends.append([*(parameter.grad for parameter in network.parameters()), torch.get_rng_state(), torch.rand(3)])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def test_single_precision_is_near_double() -> None:
    model, x = Model(lambda m, x: m.layer(x)[0][:, -1], layer=nn.LSTM(C, H, 2, batch_first=True)), randn(B, 40, C)
    grams = []
    for network, inputs in ((model, x), (copy.deepcopy(model).float(), x.float())):
        probe = FisherProbe(network)
        with probe:
            losses_of(network(inputs)).sum().backward()
        grams.append(probe.gram())
    torch.testing.assert_close(grams[1], grams[0], rtol=1e-4, atol=1e-5 * float(grams[0].max()))

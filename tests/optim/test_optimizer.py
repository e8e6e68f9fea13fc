"""What all optimizers of the room have in common: settings, states, layouts."""

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobatch._errors import CheckpointError, ConfigError
from autobatch.optim import KFAC, FisherOptimizer, MiniBlockFisher, NaturalGradient, Padam
from tests.optim.networks import Twice, convolutional, examples

Make = Callable[[nn.Module], FisherOptimizer]
MAKERS: dict[str, Make] = {
    "padam": lambda model: Padam(model.parameters(), lr=0.01, weight_decay=1e-3),
    "mini-block": lambda model: MiniBlockFisher(model.parameters(), update_every=2, invert_every=6),
    "kfac": lambda model: KFAC(model.parameters(), model, update_every=2, invert_every=6),
    "projected": lambda model: KFAC(model.parameters(), model, update_every=2, invert_every=6, projection=3),
}


def train(model: nn.Module, optimizer: FisherOptimizer, steps: range) -> None:
    for step in steps:
        inputs, labels = examples(4 + step % 3, 2, 4, 4)
        inputs = inputs.to(next(model.parameters()).dtype)
        optimizer.zero_grad()
        with optimizer.observe():
            F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", list(MAKERS))
def test_a_training_that_stops_between_two_inversions_goes_on_bit_by_bit(name: str, dtype: torch.dtype) -> None:
    model = convolutional().to(dtype)
    optimizer = MAKERS[name](model)
    train(model, optimizer, range(4))
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    train(model, optimizer, range(4, 9))
    again = convolutional().to(dtype)
    other = MAKERS[name](again)
    file.seek(0)
    weights, state = torch.load(file)
    again.load_state_dict(weights)
    other.load_state_dict(state)
    train(again, other, range(4, 9))
    assert_same(dict(again.named_parameters()), dict(model.named_parameters()))
    assert_same(other.state_dict()["state"], optimizer.state_dict()["state"])


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    else:
        assert one.dtype is other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", list(MAKERS))
def test_weights_whose_channels_are_last_in_memory_train_alike(name: str) -> None:
    plain, last = convolutional(), convolutional().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for model in (plain, last):
        train(model, MAKERS[name](model), range(5))
    torch.testing.assert_close(list(plain.parameters()), list(last.parameters()), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", list(MAKERS))
def test_training_lowers_the_loss(name: str) -> None:
    model = convolutional()
    inputs, labels = examples(4, 2, 4, 4)
    before = F.cross_entropy(model(inputs), labels).item()
    train(model, MAKERS[name](model), range(0, 30, 3))
    assert F.cross_entropy(model(inputs), labels).item() < before


@pytest.mark.parametrize("name", list(MAKERS))
def test_what_got_no_gradient_stays(name: str) -> None:
    model = convolutional()
    model[4].requires_grad_(False)
    kept = model[4].weight.detach().clone()
    train(model, MAKERS[name](model), range(3))
    assert torch.equal(model[4].weight, kept)


@pytest.mark.parametrize(
    ("kind", "setting", "value", "expected"),
    [
        (Padam, "lr", -0.1, r"lr: expected a number in \[0, inf\), got -0.1"),
        (Padam, "lr", float("nan"), "lr: expected a number"),
        (Padam, "lr", "fast", "lr: expected a number, got 'fast'"),
        (Padam, "partial", 0.0, r"partial: expected a number in \(0, 0.5\], got 0.0"),
        (Padam, "partial", 0.6, "partial"),
        (Padam, "betas", (0.9, 1.0), r"betas\[1\]: expected a number in \[0, 1\), got 1.0"),
        (Padam, "weight_decay", -1, "weight_decay"),
        (MiniBlockFisher, "momentum", 1.0, "momentum"),
        (MiniBlockFisher, "damping", -1.0, "damping"),
        (MiniBlockFisher, "update_every", 0, "update_every: expected a whole number of at least 1, got 0"),
        (MiniBlockFisher, "invert_every", 15, "invert_every: expected a multiple of update_every=10, got 15"),
        (KFAC, "decay", 1.5, "decay"),
        (KFAC, "clip", 0.0, r"clip: expected a number in \(0, inf\)"),
        (KFAC, "drift", -1.0, "drift"),
        (KFAC, "projection", "half", "projection: 'none', or the rank: expected a whole number of at least 1"),
        (KFAC, "loss_reduction", "batch", "loss_reduction: expected 'mean' or 'sum', got 'batch'"),
    ],
)
def test_settings_out_of_range_are_refused(kind: Any, setting: str, value: Any, expected: str) -> None:
    model = convolutional()
    arguments = (model.parameters(), model) if kind is KFAC else (model.parameters(),)
    with pytest.raises(ConfigError, match=expected):
        kind(*arguments, **{setting: value})


def test_a_group_may_have_settings_of_its_own_which_are_checked() -> None:
    model = convolutional()
    optimizer = MiniBlockFisher([{"params": model[0].parameters(), "lr": 0.0}, {"params": model[4].parameters()}])
    before = [model[0].weight.detach().clone(), model[4].weight.detach().clone()]
    train(model, optimizer, range(2))
    assert torch.equal(model[0].weight, before[0])
    assert not torch.equal(model[4].weight, before[1])
    with pytest.raises(ConfigError, match="damping"):
        optimizer.add_param_group({"params": list(model[1].parameters()), "damping": -1.0})


def test_a_rate_of_zero_and_no_gradient_at_all() -> None:
    model = convolutional()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for make in (Padam, MiniBlockFisher):
        optimizer = make(model.parameters(), lr=0.0)
        optimizer.step()
        train(model, optimizer, range(2))
    assert_same(dict(enumerate(model.parameters())), dict(enumerate(before)))


def test_complex_and_sparse_are_refused() -> None:
    with pytest.raises(ConfigError, match="is complex, which it does not take"):
        Padam([nn.Parameter(torch.ones(2, dtype=torch.complex64))])
    table = nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ConfigError, match=r"weight: its gradient, \(4, 2\), is sparse"):
        Padam(table.named_parameters()).step()
    with pytest.raises(ConfigError, match="parameter 0 of a group: its gradient"):
        MiniBlockFisher(table.parameters()).step()


def test_a_closure_is_evaluated_with_gradients() -> None:
    parameter = nn.Parameter(torch.ones(2))

    def closure() -> Tensor:
        loss = parameter.square().sum()
        loss.backward()
        return loss

    for make in (Padam, MiniBlockFisher):
        parameter.grad = None
        assert make([parameter], lr=0.0).step(closure).item() == 2.0


def test_what_cannot_be_copied_says_so_and_names_are_the_models() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    optimizer = KFAC(model.parameters(), model, strict=True)
    with pytest.raises(
        TypeError, match=r"KFAC looks at its model's layers and cannot be copied or pickled: use its st"
    ):
        copy.deepcopy(optimizer)
    with optimizer.observe():
        model(torch.randn(5, 4)).square().mean().backward()
    with pytest.raises(ConfigError, match=r"'1.weight', '1.bias'"):
        optimizer.step()
    padam = Padam(nn.Linear(4, 3).parameters())
    assert copy.deepcopy(padam).param_groups[0]["lr"] == padam.param_groups[0]["lr"]


def test_states_of_other_optimizers_and_shapes_are_refused() -> None:
    model = nn.Linear(4, 3)
    padam = Padam(model.parameters())
    with pytest.raises(CheckpointError, match="Padam: the state is another optimizer's: its groups have no 'betas'"):
        padam.load_state_dict(torch.optim.SGD(model.parameters(), lr=0.1).state_dict())
    other = nn.Linear(4, 5)
    trained = Padam(other.parameters())
    other(torch.randn(2, 4)).sum().backward()
    trained.step()
    with pytest.raises(CheckpointError, match=r"of parameter 0 of group 0 \(3, 4\) is \(5, 4\)"):
        padam.load_state_dict(trained.state_dict())


def test_a_projection_without_damping_is_refused() -> None:
    model = nn.Linear(4, 3)
    with pytest.raises(ConfigError, match="damping: 0 does not go with a projection"):
        KFAC(model.parameters(), model, damping=0.0, projection=2)


def test_a_layer_that_is_frozen_and_trained_again_has_its_factors() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    optimizer = KFAC(model.parameters(), model, strict=True, update_every=1, invert_every=1)
    for trained in (False, True):
        model[0].requires_grad_(trained)
        model[1].bias.requires_grad_(not trained)
        optimizer.zero_grad()
        with optimizer.observe():
            model(torch.randn(5, 4)).square().mean().backward()
        optimizer.step()  # strict: no layer takes the plain step
    assert {"step"} < optimizer.state[model[0].weight].keys()


def resumed(model: nn.Module, optimizer: KFAC, again: nn.Module) -> KFAC:
    """A K-FAC for another model, from a file of this one's."""
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    weights, state = torch.load(file)
    again.load_state_dict(weights)
    other = KFAC(again.parameters(), again, update_every=3, invert_every=6)
    other.load_state_dict(state)
    return other


@pytest.mark.parametrize("steps", [2, 4])
def test_a_layer_that_is_used_twice_goes_on_between_two_updates(steps: int) -> None:
    """Its factors are without its bias, which a new optimizer has not seen."""
    model, again = Twice(), Twice()
    optimizer = KFAC(model.parameters(), model, update_every=3, invert_every=6)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(32, 4, dtype=torch.float64), model)
    train(flat, optimizer, range(steps))
    other = resumed(model, optimizer, again)
    train(flat, optimizer, range(steps, 9))
    train(nn.Sequential(flat[0], flat[1], again), other, range(steps, 9))
    assert_same(dict(again.named_parameters()), dict(model.named_parameters()))


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_a_bias_that_is_frozen_or_trained_between_saving_and_loading(frozen: bool, before: bool) -> None:
    """The layer's factors, which are of another size then, begin anew, as they do without a file."""
    model, again = convolutional(), convolutional()
    model[0].bias.requires_grad_(not frozen)
    optimizer = KFAC(model.parameters(), model, update_every=3, invert_every=6)
    train(model, optimizer, range(4))
    again[0].bias.requires_grad_(frozen is before)
    other = resumed(model, optimizer, again)
    for each, its in ((model, optimizer), (again, other)):
        each[0].bias.requires_grad_(frozen)
        train(each, its, range(4, 9))
    assert_same(dict(again.named_parameters()), dict(model.named_parameters()))


@pytest.mark.parametrize(("before", "after"), [("none", 2), (2, "none"), (2, 3)])
def test_a_projection_that_is_changed_begins_anew(before: Any, after: Any) -> None:
    """As a new optimizer does, momenta aside."""
    model = convolutional()
    optimizer = KFAC(model.parameters(), model, momentum=0.0, projection=before, update_every=2, invert_every=4)
    train(model, optimizer, range(3))
    again = copy.deepcopy(model)
    optimizer.param_groups[0]["projection"] = after
    fresh = KFAC(again.parameters(), again, momentum=0.0, projection=after, update_every=2, invert_every=4)
    for each, its in ((model, optimizer), (again, fresh)):
        train(each, its, range(3, 7))
    assert_same(dict(again.named_parameters()), dict(model.named_parameters()))


@pytest.mark.parametrize("name", list(MAKERS))
def test_settings_of_a_group_that_are_none_are_refused(name: str) -> None:
    model = nn.Linear(4, 3)
    kind: Any = type(MAKERS[name](model))
    of_layers = {"model": model} if kind is KFAC else {}
    for setting, told in (
        ({"weight_deacy": 0.1}, "a group has no setting 'weight_deacy'; did you mean 'weight_decay'"),
        ({"maximize": True}, "a group has no setting 'maximize'; known: "),
        ({"nesterov": True}, "a group has no setting 'nesterov'; known: "),
        ({"strict": True}, "a group has no setting 'strict'; known: "),
    ):
        if "strict" not in setting or kind is not Padam:
            with pytest.raises(ConfigError, match=told):
                kind([{"params": model.parameters(), **setting}], **of_layers)
    own = {"name": "all", "maximize": False, "initial_lr": 0.1, "max_lr": 1.0, "lr_scale": 0.5}
    assert kind([{"params": model.parameters(), **own}], **of_layers).param_groups[0]["name"] == "all"


def test_settings_of_natural_gradients_are_of_all_groups() -> None:
    model = nn.Linear(4, 3)
    for setting in ({"damping": 0.1}, {"approximation": "layer"}):
        with pytest.raises(ConfigError, match=r"a group has no setting .*; known: lr, weight_decay"):
            NaturalGradient([{"params": model.parameters(), **setting}], model)


def test_a_step_that_was_skipped_leaves_nothing_for_the_next() -> None:
    def trained(skipped: bool) -> Tensor:
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        optimizer = KFAC(model.parameters(), model, update_every=1, invert_every=1)
        for scale in ([math.inf] if skipped else []) + [1.0, 1.0]:
            model.zero_grad()  # not the optimizer's
            with optimizer.observe():
                (model(torch.ones(5, 4).cumsum(0)).square().mean() * scale).backward()
            if math.isfinite(scale):
                optimizer.step()
        return model.weight.detach()

    assert torch.equal(trained(True), trained(False))


def test_natural_gradients_are_of_the_models_parameters() -> None:
    model = nn.Linear(4, 3)
    with pytest.raises(ConfigError, match=r"NaturalGradient: .* is no parameter of the model"):
        NaturalGradient(nn.Linear(4, 3).parameters(), model)
    with pytest.raises(TypeError, match=r"use its state_dict\(\)"):
        copy.deepcopy(NaturalGradient(model.parameters(), model))


@pytest.mark.parametrize("kind", [KFAC, NaturalGradient])
def test_a_model_in_wrappers_is_refused(kind: Any) -> None:
    model, ddp = nn.Linear(4, 3), nn.parallel.DistributedDataParallel
    with pytest.raises(ConfigError, match="model: expected one without wrappers, got DataParallel"):
        kind(model.parameters(), nn.DataParallel(model))
    with pytest.raises(ConfigError, match="takes one process, and so no DistributedDataParallel: each would go by"):
        kind(model.parameters(), ddp.__new__(ddp))  # there are no other processes to make one with

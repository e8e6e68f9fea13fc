"""What is singular, undamped, single, late or of mixed precision: one outcome for each optimizer."""

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobatch._errors import CheckpointError, ConfigError, UnknownNameError
from autobatch.optim import KFAC, FisherOptimizer, MiniBlockFisher, NaturalGradient, Padam, isotropy
from tests.optim.networks import examples, perceptron

Make = Callable[..., FisherOptimizer]
OFTEN: dict[str, Any] = {"update_every": 1, "invert_every": 1}
DAMPED: dict[str, Make] = {
    "mini-block": lambda model, **own: MiniBlockFisher(model.parameters(), **(OFTEN | own)),
    "kfac": lambda model, **own: KFAC(model.parameters(), model, **(OFTEN | own)),
    **{
        f"natural-{approximation}": lambda model, of=approximation, **own: NaturalGradient(
            model.parameters(), model, approximation=of, **own
        )
        for approximation in ("exact", "layer", "kfac", "unit")
    },
}
MAKERS: dict[str, Make] = {"padam": lambda model, **own: Padam(model.parameters(), **own), **DAMPED}


def step(
    model: nn.Module, optimizer: FisherOptimizer, inputs: Tensor, labels: Tensor, cast: torch.dtype | None = None
) -> None:
    """One step of any of them; under autocast where a dtype is said."""

    def closure() -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", cast or torch.bfloat16, enabled=cast is not None):
            outputs = model(inputs)
            return outputs, F.cross_entropy(outputs, labels)

    if isinstance(optimizer, NaturalGradient):
        optimizer.step(closure)
        return
    optimizer.zero_grad()
    with optimizer.observe():
        closure()[1].backward()
    optimizer.step()


def moved(model: nn.Module, before: nn.Module) -> float:
    """How long the way from a copy of the parameters is, over their length."""
    start = torch.cat([parameter.detach().flatten() for parameter in before.parameters()])
    now = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return float((now - start).norm() / start.norm())


@pytest.mark.parametrize("damping", [0.0, 1e-12, 1e-2])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", list(DAMPED))
def test_no_step_is_longer_than_ten_times_the_parameters(name: str, count: int, damping: float) -> None:
    """Of one sample, factors and blocks are singular; of little damping the way out of them is long."""
    model = perceptron(hidden=8).float()
    optimizer = DAMPED[name](model, damping=damping)
    for number in range(4):
        inputs, labels = examples(10 + number, 4)
        before = copy.deepcopy(model)
        step(model, optimizer, inputs[:count].float(), labels[:count])
        assert 0.0 < moved(model, before) < 10.0 + 1e-4


@pytest.mark.parametrize("name", ["mini-block", "kfac", "natural-unit"])
def test_a_step_that_was_cut_is_told_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model = perceptron(hidden=8)
    optimizer = DAMPED[name](
        model, damping=1e-12, lr=1.0, **({"update_every": 4, "invert_every": 4, "clip": None} if name == "kfac" else {})
    )
    with caplog.at_level(logging.WARNING, "autobatch"):
        for number in range(4):
            inputs, labels = examples(10 + number, 4)
            step(model, optimizer, inputs[:1], labels[:1])
    (told,) = [record.getMessage() for record in caplog.records]
    assert "times as long as its parameters was cut to 10 times" in told
    assert told.startswith(type(optimizer).__name__)


@pytest.mark.parametrize("name", list(DAMPED))
def test_a_usual_step_is_not_cut(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model = perceptron(hidden=8)
    optimizer = DAMPED[name](model, damping=0.1)
    for number in range(4):
        step(model, optimizer, *examples(30 + number, 4))
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("name", list(MAKERS))
def test_parameters_that_are_added_later_are_trained_from_then_on(name: str) -> None:
    model = perceptron()
    kept = model[2].weight.detach().clone()
    later = list(model[2].parameters())
    optimizer = MAKERS[name](model)
    optimizer.param_groups[0]["params"] = list(model[0].parameters())
    step(model, optimizer, *examples(5, 4))
    assert torch.equal(model[2].weight, kept)
    optimizer.add_param_group({"params": later, "lr": 0.01})
    step(model, optimizer, *examples(5, 4))
    assert not torch.equal(model[2].weight, kept)


@pytest.mark.parametrize("name", list(MAKERS))
def test_under_autocast_a_step_is_nearly_that_of_single_precision(name: str) -> None:
    steps = []
    for cast in (None, torch.bfloat16):
        model = perceptron(hidden=8).float()
        before = [parameter.detach().clone() for parameter in model.parameters()]
        inputs, labels = examples(7, 4)
        step(model, MAKERS[name](model, **({"damping": 0.1} if name in DAMPED else {})), inputs.float(), labels, cast)
        assert all(parameter.dtype is torch.float32 for parameter in model.parameters())
        steps.append(
            torch.cat([(own - old).detach().flatten() for own, old in zip(model.parameters(), before, strict=True)])
        )
    assert 0.0 < float((steps[1] - steps[0]).norm() / steps[0].norm()) < 0.1


@pytest.mark.parametrize("name", ["padam", "mini-block", "kfac"])
def test_a_scaled_loss_gives_the_same_step_and_one_that_overflows_none(name: str) -> None:
    def trained(scaled: bool) -> tuple[nn.Module, nn.Module]:
        model = perceptron()
        start = copy.deepcopy(model)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        own = {"grad_scaler": scaler} if scaled and name == "kfac" else {}
        optimizer = MAKERS[name](model, **own)
        for overflow in (False, True) if scaled else (False,):
            optimizer.zero_grad()
            inputs, labels = examples(6, 4)
            with optimizer.observe():
                loss = F.cross_entropy(model(inputs), labels) * (torch.inf if overflow else 1.0)
                scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        return model, start

    (plain, start), (scaled, _) = trained(False), trained(True)
    assert moved(plain, start) > 0.0
    torch.testing.assert_close(list(scaled.parameters()), list(plain.parameters()))


def test_a_scaler_has_no_closure_and_natural_gradients_say_that_they_need_one() -> None:
    model = perceptron()
    optimizer, scaler = NaturalGradient(model.parameters(), model), torch.amp.GradScaler("cpu")
    scaler.scale(model(examples(5, 4)[0]).sum()).backward()
    with pytest.raises(ConfigError, match=r"step\(\) needs a closure"):
        scaler.step(optimizer)


def test_natural_gradients_resume_with_nothing_but_the_parameters() -> None:
    model = perceptron()
    optimizer = NaturalGradient(model.parameters(), model, damping=0.1, lr=0.5)
    step(model, optimizer, *examples(5, 4))
    again = copy.deepcopy(model)
    other = NaturalGradient(again.parameters(), again, damping=0.1)
    other.load_state_dict(optimizer.state_dict())
    for own, each in ((model, optimizer), (again, other)):
        step(own, each, *examples(6, 4))
    assert all(map(torch.equal, model.parameters(), again.parameters()))


def test_without_eps_padam_divides_by_gradients_that_have_always_been_zero() -> None:
    model = perceptron()
    inputs, labels = examples(5, 4)
    inputs[:, 0] = 0.0
    step(model, Padam(model.parameters(), eps=0.0), inputs, labels)
    assert bool(model[0].weight[:, 0].isnan().all())
    assert bool(model[0].weight[:, 1:].isfinite().all())


def test_arguments_of_another_kind_are_told() -> None:
    model = perceptron()
    parameters = list(model.parameters())
    lazy = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2))
    no_model: Any = "model"
    for make, told in (
        (lambda: KFAC(parameters, no_model), "KFAC: model: expected the network, an nn.Module, got 'model'"),
        (lambda: NaturalGradient(parameters, no_model), "NaturalGradient: model: expected the network"),
        (lambda: KFAC(lazy.parameters(), lazy), "KFAC: '0.weight' of a lazy layer has no shape yet: call the model"),
        (lambda: KFAC(parameters, model, grad_scaler=no_model), "KFAC: grad_scaler: expected a torch.amp.GradScaler"),
        (lambda: isotropy("unit", 3, width=8, active=-1.0), r"active: expected a number in \(0, 1\]"),
        (lambda: Padam(parameters, betas=0.9), "betas: expected a pair of numbers, such as"),  # type: ignore[arg-type]
        (lambda: Padam(parameters, betas=(0.9,) * 3), "betas: expected a pair of numbers"),  # type: ignore[arg-type]
        (lambda: NaturalGradient(parameters, model, approximation=["exact"]), "approximation: .* did you mean 'exact'"),  # type: ignore[arg-type]
    ):
        with pytest.raises((ConfigError, UnknownNameError), match=told):
            make()


def test_a_closure_whose_loss_is_of_another_call_is_told() -> None:
    model, (inputs, labels) = perceptron(), examples(4, 4)
    optimizer = NaturalGradient(model.parameters(), model)
    with pytest.raises(ConfigError, match="loss does not depend on the outputs that it returns"):
        optimizer.step(lambda: (model(inputs), F.cross_entropy(model(inputs), labels)))


def test_a_state_that_does_not_fit_is_told() -> None:
    model, (inputs, labels) = perceptron(), examples(4, 4)

    def kfac(**own: Any) -> KFAC:
        return KFAC(model.parameters(), model, **own)

    whole, projected = kfac(), kfac(projection=2)
    for optimizer in (whole, projected):
        step(model, optimizer, inputs, labels)
    apart = KFAC([{"params": list(own.parameters())} for own in (model[0], model[2])], model)
    nothing: Any = {}
    for optimizer, state, told in (
        (kfac(projection=2), whole.state_dict(), "factors are of projection='none', the optimizer's of projection=2"),
        (kfac(projection=3), projected.state_dict(), "factors are of projection=2, the optimizer's of projection=3"),
        (kfac(), projected.state_dict(), "factors are of projection=2, the optimizer's of projection='none'"),
        (apart, whole.state_dict(), r"groups of \[4\] parameters, the optimizer of \[2, 2\]"),
        (kfac(), nothing, "expected what state_dict"),
    ):
        with pytest.raises(CheckpointError, match=told):
            optimizer.load_state_dict(state)

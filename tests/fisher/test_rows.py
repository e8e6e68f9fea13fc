"""Weights' gradients that are sums of rows of J: those of the ordinary backward pass to round-off."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from autobatch._errors import MeasureError
from autobatch.fisher import FisherProbe

from .models import DenseNet8, ResNet8, TiedLanguageModel, mlp

B = 6
Build = Callable[[], nn.Module]


def tied() -> nn.Module:
    return TiedLanguageModel()


def tied_linear() -> nn.Module:
    return nn.Sequential(nn.Linear(11, 11), nn.Tanh(), nn.LayerNorm(11), nn.Linear(11, 11))


def normalised() -> nn.Module:
    return nn.Sequential(weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 5))


def data(build: Build) -> tuple[Tensor, Tensor]:
    if build is tied:
        return torch.randint(0, 11, (B, 6)), torch.randint(0, 11, (B, 6))
    return torch.randn(B, 3, *((4, 4) if build is mlp else (8, 8))).double(), torch.randint(0, 5, (B,))


def loss(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, -2), target.flatten())


MODELS = [mlp, ResNet8, DenseNet8, tied, normalised]


@pytest.mark.parametrize("build", MODELS)
@pytest.mark.parametrize("accumulated", [False, True])
def test_gradients_are_those_of_the_ordinary_backward_pass(build: Build, accumulated: bool) -> None:
    model = build().double()
    x, y = data(build)
    start = torch.rand(len(list(model.parameters())))
    loss(model(x), y).backward()
    expected = [p.grad.clone() for p in model.parameters()]
    grams = []
    for kind in ("library", "rows"):
        for parameter, value in zip(model.parameters(), start, strict=True):
            parameter.grad = torch.full_like(parameter, float(value)) if accumulated else None
        probe = FisherProbe(model, gradients=kind)
        with probe:
            probe.backward(loss(model(x), y))
        grams.append(probe.gram())
        for parameter, gradient, value in zip(model.parameters(), expected, start, strict=True):
            wanted = gradient + float(value) if accumulated else gradient
            assert torch.allclose(parameter.grad, wanted, rtol=1e-9, atol=1e-12)
    assert torch.allclose(grams[0], grams[1], rtol=1e-9)


def test_weight_gradients_are_not_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ResNet8()
    x, y = data(ResNet8)
    probe = FisherProbe(model, gradients="rows")
    with probe:
        value = loss(model(x.float()), y)
        with torch.profiler.profile(record_shapes=True) as profile:
            probe.backward(value)
    ordinary = [
        event
        for event in profile.events()
        if event.name == "aten::convolution_backward" and event.input_shapes[0][0] == B
    ]
    assert ordinary
    probe.gram()
    # What is left of the ordinary kind asks for no weight gradient: the stem's, which gives nothing else, is not there.
    assert len(ordinary) < sum(isinstance(m, nn.Conv2d) for m in model.modules())


def test_gradients_of_other_leaves_arrive_too() -> None:
    model, temperature = mlp(), nn.Parameter(torch.ones(()))
    x, y = torch.randn(B, 48, requires_grad=True), torch.randint(0, 5, (B,))
    loss(model(x) * 2.0, y).backward()
    wanted = x.grad.clone()
    x.grad = None
    probe = FisherProbe(model, gradients="rows")
    with probe:
        probe.backward(loss(model(x) * 2.0, y) * temperature)
    assert torch.allclose(x.grad, wanted)
    assert temperature.grad is not None


def test_training_reaches_the_same_place() -> None:
    ends = []
    for kind in ("library", "rows"):
        torch.manual_seed(1)
        model = ResNet8().double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        probe = FisherProbe(model, gradients=kind)
        for _ in range(5):
            x, y = data(ResNet8)
            optimizer.zero_grad()
            with probe:
                probe.backward(loss(model(x), y))
            optimizer.step()
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.allclose(ends[0], ends[1], rtol=1e-7, atol=1e-9)


def test_hooks_of_others_see_the_gradients() -> None:
    model = ResNet8()
    x, y = data(ResNet8)
    for register in ("register_hook", "register_post_accumulate_grad_hook"):
        seen: list[Tensor] = []
        handle = getattr(model.stem[0].weight, register)(seen.append)
        model.zero_grad()
        with FisherProbe(model, gradients="rows"):
            loss(model(x.float()), y).backward()
        handle.remove()
        gradient = seen[0] if register == "register_hook" else seen[0].grad
        assert torch.equal(gradient, model.stem[0].weight.grad)


def test_flat_buffers_of_gradients_are_added_to() -> None:
    model = mlp().double()
    x, y = data(mlp)
    flat = torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    parts = flat.split([p.numel() for p in model.parameters()])
    for parameter, part in zip(model.parameters(), parts, strict=True):
        parameter.grad = part.view_as(parameter)
    with FisherProbe(model, gradients="rows"):
        loss(model(x), y).backward()
    expected = torch.autograd.grad(loss(model(x), y), list(model.parameters()))
    torch.testing.assert_close(flat, torch.cat([gradient.flatten() for gradient in expected]))


def test_what_cannot_be_measured_gets_the_librarys_gradient() -> None:
    def step(probe: FisherProbe | None) -> list[Tensor]:
        model.zero_grad()
        with probe or nullcontext():
            value = loss(model(x), y)
            (slope,) = torch.autograd.grad(value, x, create_graph=True)
            (value + slope.square().sum()).backward()
        return [p.grad.clone() for p in model.parameters()]

    for build in (mlp, ResNet8, tied_linear):
        model = build().double()
        x, y = (torch.randn(B, 6, 11).double(), data(tied)[1]) if build is tied_linear else data(build)
        x.requires_grad_()
        probe = FisherProbe(model, gradients="rows")
        torch.testing.assert_close(step(probe), step(None))
        with pytest.raises(MeasureError, match=r"differentiated again|arrived twice"):
            probe.gram()


@pytest.mark.filterwarnings("ignore:Using backward")
def test_hooks_see_a_gradient_that_is_differentiated_again_once() -> None:
    model = mlp().double()
    x, y = data(mlp)
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: 2.0 * gradient)
    steps = []
    for measured in (nullcontext(), FisherProbe(model, gradients="rows")):
        model.zero_grad()
        with measured:
            loss(model(x), y).backward(create_graph=True)
        steps.append([p.grad.detach() for p in model.parameters()])
    torch.testing.assert_close(*steps)
    model.zero_grad()


def test_two_backward_passes_and_one_after_the_body() -> None:
    model = ResNet8().double()
    x, y = data(ResNet8)
    probe = FisherProbe(model, gradients="rows")
    with probe:
        value = loss(model(x), y)
        value.backward(retain_graph=True)
    once = [p.grad.clone() for p in model.parameters()]
    probe.gram()
    value.backward(retain_graph=True)
    value.backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], [3 * gradient for gradient in once])


def test_running_statistics_and_random_numbers_are_those_of_the_step() -> None:
    states = []
    for gradients in ("library", "rows"):
        torch.manual_seed(3)
        model = nn.Sequential(ResNet8(), nn.Dropout(), nn.Linear(5, 5))
        x, y = data(ResNet8)
        with FisherProbe(model, gradients=gradients):
            loss(model(x.float()), y).backward()
        states.append([*model.buffers(), torch.get_rng_state()])
    assert all(torch.equal(one, other) for one, other in zip(*states, strict=True))


def test_a_parameter_of_two_layers() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(48, 48)
            self.norm = nn.Parameter(torch.rand(48))

        def forward(self, x: Tensor) -> Tensor:
            h = self.layer(F.relu(self.layer(x.flatten(1)), inplace=True))
            return F.layer_norm(h, (48,), self.norm, self.norm)[:, :5]

    model = Twice().double()
    x, y = data(mlp)
    grams, gradients = [], []
    for kind in ("library", "rows"):
        model.zero_grad()
        probe = FisherProbe(model, gradients=kind)
        with probe:
            loss(model(x), y).backward()
        grams.append(probe.gram())
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(grams[0], grams[1], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_autocast() -> None:
    model = ResNet8()
    x, y = data(ResNet8)
    gradients = []
    for kind in ("library", "rows"):
        model.zero_grad()
        probe = FisherProbe(model, gradients=kind)
        with probe:
            with torch.autocast("cpu", torch.bfloat16):
                value = loss(model(x.float()), y)
            value.backward()
        probe.gram()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) < 0.02


def test_input_that_is_changed_in_place() -> None:
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x).flatten(1)
            with torch.no_grad():
                x.mul_(2)
            return y

    model = Overwriting()
    x, y = data(ResNet8)
    probe = FisherProbe(model, gradients="rows")
    with probe:
        loss(model(x.float().clone()), y).backward()
    with pytest.raises(MeasureError, match="changed in place"):
        probe.gram()


def test_a_vector_as_the_weight_of_a_linear_function() -> None:
    class Vector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 5), nn.Parameter(torch.randn(5))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(torch.tanh(self.first(x)), self.last)

    model, x = Vector(), torch.randn(B, 4)
    grams = []
    for kind in ("library", "rows"):
        probe = FisherProbe(model, gradients=kind)
        with probe:
            model(x).square().mean().backward()
        grams.append(probe.gram())
    torch.testing.assert_close(grams[0], grams[1])


def test_backward_outside_the_body() -> None:
    with pytest.raises(MeasureError, match="inside the body"):
        FisherProbe(mlp()).backward(torch.zeros(()))

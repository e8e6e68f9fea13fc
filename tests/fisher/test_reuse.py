"""Weights' gradients taken from J: as the ordinary backward pass leaves them, or refused."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.utils.parametrizations import weight_norm

from autobatch._errors import MeasureError
from autobatch.fisher import FisherProbe

from .models import DenseNet8, ResNet8, TiedLanguageModel, mlp

B = 6
Build = Callable[[], nn.Module]


def tied() -> nn.Module:
    return TiedLanguageModel()


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
    for reuse in (False, True):
        for parameter, value in zip(model.parameters(), start, strict=True):
            parameter.grad = torch.full_like(parameter, float(value)) if accumulated else None
        probe = FisherProbe(model, reuse_weight_gradient=reuse)
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
    probe = FisherProbe(model, reuse_weight_gradient=True)
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
    probe = FisherProbe(model, reuse_weight_gradient=True)
    with probe:
        probe.backward(loss(model(x) * 2.0, y) * temperature)
    assert torch.allclose(x.grad, wanted)
    assert temperature.grad is not None


def test_training_reaches_the_same_place() -> None:
    ends = []
    for reuse in (False, True):
        torch.manual_seed(1)
        model = ResNet8().double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        probe = FisherProbe(model, reuse_weight_gradient=reuse)
        for _ in range(5):
            x, y = data(ResNet8)
            optimizer.zero_grad()
            with probe:
                probe.backward(loss(model(x), y))
            optimizer.step()
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.allclose(ends[0], ends[1], rtol=1e-7, atol=1e-9)


def test_hooks_of_others_are_not_bypassed() -> None:
    model = ResNet8()
    x, y = data(ResNet8)
    for register in ("register_hook", "register_post_accumulate_grad_hook"):
        handle = getattr(model.stem[0].weight, register)(lambda _: None)
        probe = FisherProbe(model, reuse_weight_gradient=True)
        with pytest.raises(MeasureError, match="would bypass a hook"), probe:
            probe.backward(loss(model(x.float()), y))
        handle.remove()
    with probe:
        probe.backward(loss(model(x.float()), y))


def test_a_problem_on_the_way_back_is_not_passed_over() -> None:
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
    probe = FisherProbe(model, reuse_weight_gradient=True)
    with pytest.raises(MeasureError, match=r"a gradient could not be formed.*changed in place"), probe:
        probe.backward(loss(model(x.float()), y))


def test_backward_outside_the_body() -> None:
    with pytest.raises(MeasureError, match="inside the body"):
        FisherProbe(mlp()).backward(torch.zeros(()))


def test_sharded_models_are_refused(tmp_path: object) -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(mlp())
        with pytest.raises(MeasureError, match="DistributedDataParallel averages"):
            FisherProbe(parallel, reuse_weight_gradient=True)
        sharded = fully_shard(mlp(), mesh=torch.distributed.init_device_mesh("cpu", (1,)))
        with pytest.raises(MeasureError, match="FSDP reduces"):
            FisherProbe(sharded, reuse_weight_gradient=True)
    finally:
        torch.distributed.destroy_process_group()

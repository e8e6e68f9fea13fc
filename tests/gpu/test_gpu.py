"""What a GPU must do, rehearsed on the CPU where there is none: ``pytest -m gpu -n 0 tests/gpu``."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from autobatch import AutoBatchController, FisherProbe
from autobatch.control import Measuring
from autobatch.control.measuring import MeasureAtInterval, NeverMeasure
from autobatch.control.steps._fits import Fits
from autobatch.training import load_run_config, run
from tests.training.kills import assert_same_run
from tests.training.test_scouting import Fuse
from tests.training.tiny import tiny_config

pytestmark = pytest.mark.gpu

EXAMPLES = 96


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(inplace=True), nn.Linear(32, 10))


def residual() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


class Attending(nn.Module):
    """Patches, a learnt position each, one block of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 2, 2)
        self.positions = nn.Parameter(torch.zeros(1, 16, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.block(tokens).mean(1))


MODELS: dict[str, Callable[[], nn.Module]] = {"mlp": perceptron, "resnet": residual, "attention": Attending}


def images(count: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, 3, 8, 8, generator=generator), torch.randint(10, (count,), generator=generator)


def model_of(name: str) -> nn.Module:
    torch.manual_seed(1)
    return MODELS[name]().train()


def gram(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    probe = FisherProbe(model)
    with probe:
        F.cross_entropy(model(x), y).backward()
    return probe.gram().double().cpu()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_f_in_float32_on_the_device_is_that_of_float64_on_the_cpu(
    name: str, channels_last: bool, device: torch.device
) -> None:
    model, (x, y) = model_of(name), images()
    expected = gram(copy.deepcopy(model).double(), x.double(), y)
    there = model.to(device)
    inputs = x.to(device)
    if channels_last:
        there, inputs = there.to(memory_format=torch.channels_last), inputs.to(memory_format=torch.channels_last)
    for _ in range(2):  # the first step of a shape, and one like it
        torch.testing.assert_close(gram(there, inputs, y.to(device)), expected, rtol=1e-3, atol=1e-5 * expected.max())


@pytest.mark.parametrize("name", MODELS)
def test_f_under_bfloat16_autocast_is_near(name: str, device: torch.device) -> None:
    model, (x, y) = model_of(name), images()
    expected = gram(copy.deepcopy(model).double(), x.double(), y)
    there = model.to(device)
    probe = FisherProbe(there)
    with probe:
        with torch.autocast(device.type, torch.bfloat16):
            loss = F.cross_entropy(there(x.to(device)), y.to(device))
        loss.backward()
    found = probe.gram().double().cpu()
    assert float((found - expected).norm() / expected.norm()) < 0.1


def test_samples_that_occur_twice_leave_no_eigenvalue(device: torch.device) -> None:
    model, (x, y) = model_of("mlp").to(device), images(16)
    twice, labels = torch.cat([x, x]).to(device), torch.cat([y, y]).to(device)
    probe = FisherProbe(model)
    with probe:
        F.cross_entropy(model(twice), labels).backward()
    assert probe.spectrum().rank <= 16


@pytest.fixture
def loader(device: torch.device) -> tuple[TensorDataset, Tensor, Tensor]:
    x, y = images(EXAMPLES)
    return TensorDataset(torch.arange(EXAMPLES)), x.to(device), y.to(device)


def controlled(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    measure: bool = True,
    scaler: torch.amp.GradScaler | None = None,
) -> AutoBatchController:
    return AutoBatchController(
        model,
        optimizer,
        policy="s16-to-64-ms",
        batch_sizes=(16, 32, 64),
        dataset_size=EXAMPLES,
        epochs=4,
        measuring=Measuring(steps=MeasureAtInterval(2) if measure else NeverMeasure(), grad_scaler=scaler),
    )


def train_epoch(
    controller: AutoBatchController,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: tuple[TensorDataset, Tensor, Tensor],
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    numbers, x, y = loader
    for (batch,) in DataLoader(numbers, batch_sampler=controller.batch_sampler):
        with controller.step() as step:
            loss = F.cross_entropy(model(x[batch]), y[batch])
            step.backward(loss if scaler is None else scaler.scale(loss))
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        optimizer.zero_grad()
    controller.end_epoch(val_loss=1.0)


def test_a_step_that_is_not_measured_waits_for_nothing(
    loader: tuple[TensorDataset, Tensor, Tensor], device: torch.device
) -> None:
    numbers, x, y = loader
    model = model_of("resnet").to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    controller = controlled(model, optimizer, measure=False)
    indices = [batch.to(device) for (batch,) in DataLoader(numbers, batch_sampler=controller.batch_sampler)]
    begun = iter(indices)

    def step() -> None:
        batch = next(begun)
        with controller.step() as step:
            step.backward(F.cross_entropy(model(x[batch]), y[batch]))
        optimizer.step()
        optimizer.zero_grad()

    step()  # what is set up once may wait
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        step()
        step()
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def test_a_grad_scaler_changes_no_figure(loader: tuple[TensorDataset, Tensor, Tensor], device: torch.device) -> None:
    traces = []
    for scale in (None, 2.0**10):
        model = model_of("mlp").to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = None if scale is None else torch.amp.GradScaler(device.type, init_scale=scale)
        controller = controlled(model, optimizer, scaler=scaler)
        train_epoch(controller, model, optimizer, loader, scaler)
        traces.append([one.trace for one in controller.measurements])
    assert traces[0] == pytest.approx(traces[1], rel=1e-4)


def test_a_measured_step_without_memory_leaves_the_training_as_it_is(
    loader: tuple[TensorDataset, Tensor, Tensor], device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measuring that does not fit is given up, and the step is that of a training that measures nothing."""

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    weights = []
    for measure in (False, True):
        model = model_of("mlp").to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        controller = controlled(model, optimizer, measure=measure)
        with monkeypatch.context() as patch:
            if measure:
                patch.setattr(torch.linalg, "eigvalsh", full)
            train_epoch(controller, model, optimizer, loader)
            assert controller.measurements == ()
        weights.append([parameter.detach().cpu() for parameter in model.parameters()])
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other)


def test_what_larger_batches_take_of_memory_is_foretold(device: torch.device) -> None:
    """From a batch of 64 to what one of 512 takes at its peak; nothing on a CPU, which does not say what it has."""
    model = model_of("resnet").to(device)
    x, y = (part.to(device) for part in images(512))
    fits = Fits(device, lambda: sum(4 * parameter.numel() for parameter in model.parameters()))

    def trained(batch_size: int) -> None:
        fits.begin()
        loss = F.cross_entropy(model(x[:batch_size]), y[:batch_size])
        fits.passed_forward(batch_size)
        loss.backward()
        model.zero_grad()

    if device.type != "cuda":
        assert not fits.learns(64)
        trained(64)
        assert fits.needs(512) == 0.0
        return
    trained(64)
    foretold = fits.needs(512)
    torch.cuda.reset_peak_memory_stats(device)
    trained(512)
    assert 0.8 * foretold < torch.cuda.max_memory_allocated(device) < 1.1 * foretold


@pytest.fixture
def group(device: torch.device, tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone: NCCL on a GPU."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_ddp_of_one_process_measures_what_the_model_alone_does(
    loader: tuple[TensorDataset, Tensor, Tensor], device: torch.device
) -> None:
    traces = []
    for distributed in (False, True):
        model = model_of("resnet").to(device)
        wrapped = DistributedDataParallel(model) if distributed else model
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
        controller = controlled(wrapped, optimizer)
        train_epoch(controller, wrapped, optimizer, loader)
        traces.append([one.trace for one in controller.measurements])
    assert traces[0] == pytest.approx(traces[1], rel=1e-4)


def test_a_run_that_was_cut_goes_on_bit_by_bit(
    tmp_path: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(device=str(device))
    run(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        Fuse(patch, 20)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "cut")
    run(load_run_config(tmp_path / "cut"), tmp_path / "cut", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")

"""Twelve more small tasks for loops of one's own: photographs, digits, tables with noise, signals, sets, pairs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from autobatch.training import TaskSpec, load_data, load_task
from benchmarks.steering.loop_tasks import (
    ADAM,
    ADAM4,
    ADAMW,
    CE,
    MOMENTUM,
    MSE,
    NESTEROV,
    PLAIN,
    Task,
    made,
    mlp,
    scaled,
    tensors,
)

PIXELS = 14 * 14


def examples_of(task: str, folder: Path, **dataset: int) -> tuple[Tensor, Tensor]:
    """Return what a task of ``envs/`` trains and validates with, mean 0 and deviation 1, its ``dataset`` changed."""
    told = load_task(task).model_dump(mode="json", exclude_unset=True)
    data = load_data(TaskSpec.model_validate({**told, "dataset": {**told["dataset"], **dataset}}), folder)
    inputs = data.network_inputs(torch.cat([data.train_inputs, data.validation_inputs]))
    return tensors(inputs, torch.cat([data.train_labels, data.validation_labels]))


def images(of: str, apart: int = 1, count: int = 5000, **dataset: int) -> Callable[[Path], tuple[Tensor, Tensor]]:
    """Return what reads pictures of a task of ``envs/``, squares of pixels made one."""

    def read(folder: Path) -> tuple[Tensor, Tensor]:
        x, y = examples_of(of, folder, **dataset)
        return functional.avg_pool2d(x[:count], apart), y[:count]

    return read


def ink(folder: Path) -> tuple[Tensor, Tensor]:
    """Return digits of 14 x 14 pixels in [0, 1], to be told by themselves."""
    x, _ = images("mnist5k-convnet", 2, 3000)(folder)
    x = ((x - x.min()) / (x.max() - x.min())).flatten(1)
    return x, x


def clicks() -> tuple[Tensor, Tensor]:
    """Return five columns of names, three of numbers, and a click that these make more or less likely."""
    draw, count = np.random.default_rng(5), 6000
    numbers = draw.standard_normal((count, 3))
    names = [draw.zipf(1.3, count) % kinds for kinds in Clicks.KINDS]
    likely = numbers @ [0.6, -0.4, 0.0] - 1.2
    for kinds, name in zip(Clicks.KINDS, names, strict=True):
        likely = likely + draw.normal(0, 0.7, kinds)[name]
    likely = likely + draw.normal(0, 0.8, (Clicks.KINDS[0], Clicks.KINDS[3]))[names[0], names[3]]
    clicked = draw.uniform(size=count) < 1 / (1 + np.exp(-likely))
    return tensors(np.concatenate([np.stack(names, 1), numbers], 1), clicked.astype(float))


def accidents() -> tuple[Tensor, Tensor]:
    """Return eight columns of a driver and counts whose mean they say."""
    draw, count = np.random.default_rng(6), 2400
    x = draw.standard_normal((count, 8))
    mean = np.exp(-0.7 + 0.5 * x[:, 0] + 0.4 * np.abs(x[:, 1]) - 0.3 * x[:, 2] * x[:, 3] + 0.5 * (x[:, 4] > 1))
    return tensors(x, draw.poisson(np.minimum(mean, 8)).astype(float))


def sensors() -> tuple[Tensor, Tensor]:
    """Return 64 readings of three axes, worn anyhow, and which of six things was done."""
    draw, count = np.random.default_rng(7), 3600
    kind, time = draw.integers(0, 6, count), np.arange(64) / 64
    pace = np.array([0.0, 2.0, 3.0, 3.5, 5.0, 7.0])[kind] + draw.normal(0, 0.4, count)
    force = np.array([0.1, 0.6, 0.6, 1.0, 1.0, 1.4])[kind] * draw.uniform(0.6, 1.5, count)
    phase = draw.uniform(0, 2 * np.pi, (count, 1))
    beat = np.sin(2 * np.pi * pace[:, None] * time + phase)
    sharp = np.sin(4 * np.pi * pace[:, None] * time + 2 * phase) * (kind % 2)[:, None] * 0.5
    worn = draw.standard_normal((count, 3, 1)) + np.array([[1.0], [0.5], [0.0]])
    signal = worn * (force[:, None] * (beat + sharp))[:, None] + 0.4 * draw.standard_normal((count, 3, 64))
    return tensors(signal + draw.standard_normal((count, 3, 1)), kind)


def unsorted() -> tuple[Tensor, Tensor]:
    """Return eight numbers below 16, and the same in order."""
    numbers = np.random.default_rng(8).integers(0, 16, (3200, 8))
    return tensors(numbers, np.sort(numbers, 1))


def demand() -> tuple[Tensor, Tensor]:
    """Return four weeks of sales in shares of their mean, and the week after."""
    draw, count, days = np.random.default_rng(9), 2600, np.arange(35)
    week = np.exp(0.3 * draw.standard_normal((count, 7)))
    trend = np.exp(draw.normal(0, 0.012, (count, 1)) * days)
    spread = draw.uniform(0.1, 0.5, (count, 1))
    sales = week[:, days % 7] * trend * np.exp(spread * draw.standard_normal((count, 35)))
    sales *= np.where(draw.uniform(size=(count, 35)) < 0.03, 2.5, 1.0)
    sales /= sales[:, :28].mean(1, keepdims=True)
    return tensors(sales[:, :28], sales[:, 28:])


def signatures() -> tuple[Tensor, Tensor]:
    """Return pairs of curves of 48 points, and whether one hand drew both."""
    draw, count, along = np.random.default_rng(10), 3600, np.arange(48) / 48
    waves = np.stack([turn(2 * np.pi * k * along) for k in (1, 2, 3, 4) for turn in (np.sin, np.cos)])
    hands = draw.standard_normal((300, 8)) / np.repeat([1, 1.5, 2, 2.5], 2)
    same = draw.integers(0, 2, count)
    one = draw.integers(0, 300, count)
    other = np.where(same == 1, one, (one + draw.integers(1, 300, count)) % 300)
    drawn = hands[np.stack([one, other], 1)]
    drawn = (drawn + 0.25 * draw.standard_normal(drawn.shape)) * draw.uniform(0.7, 1.4, (count, 2, 1))
    return tensors(drawn @ waves + 0.15 * draw.standard_normal((count, 2, 48)), same.astype(float))


def sets() -> tuple[Tensor, Tensor]:
    """Return twenty points of a plane, and the logarithm of the spread and the correlation of what drew them."""
    draw, count = np.random.default_rng(11), 2000
    spread, together = draw.uniform(0.3, 2, count), draw.uniform(-0.95, 0.95, count)
    first, second = draw.standard_normal((2, count, 20))
    second = together[:, None] * first + np.sqrt(1 - together[:, None] ** 2) * second
    points = spread[:, None, None] * np.stack([first, second], 2) + draw.standard_normal((count, 1, 2))
    return tensors(points, scaled(np.stack([np.log(spread), np.arctanh(together)], 1)))


def photographs() -> nn.Module:
    """Return three convolutional blocks over 16 x 16 pixels of three colours."""

    def block(one: int, other: int) -> list[nn.Module]:
        return [nn.Conv2d(one, other, 3, padding=1, bias=False), nn.BatchNorm2d(other), nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(*block(3, 12), *block(12, 24), *block(24, 32), nn.Flatten(), nn.Linear(128, 10))


class Residual(nn.Module):
    """Two convolutions and what went into them."""

    def __init__(self, one: int, other: int, stride: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(one, other, 3, stride, 1, bias=False),
            nn.BatchNorm2d(other),
            nn.ReLU(),
            nn.Conv2d(other, other, 3, 1, 1, bias=False),
            nn.BatchNorm2d(other),
        )
        self.past = nn.Identity() if (one, stride) == (other, 1) else nn.Conv2d(one, other, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        return functional.relu(self.inner(x) + self.past(x))


class Moved(nn.Module):
    """While it trains, pictures mirrored one in two and moved by up to two pixels, a batch by as much."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a batch, moved."""
        if not self.training:
            return x
        x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
        down, across = torch.randint(0, 5, (2,)).tolist()
        return functional.pad(x, (2, 2, 2, 2))[:, :, down : down + x.shape[2], across : across + x.shape[3]]


def resnet() -> nn.Module:
    """Return two residual blocks behind a convolution, with dropout, over moved pictures."""
    return nn.Sequential(
        Moved(),
        nn.Conv2d(3, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Residual(16, 16, 1),
        Residual(16, 32, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(32, 10),
    )


class Patches(nn.Module):
    """A transformer over squares of seven by seven pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.places = nn.Conv2d(1, 32, 7, 7), nn.Parameter(0.02 * torch.randn(16, 32))
        self.block = nn.TransformerEncoderLayer(32, 4, 64, 0.1, "gelu", batch_first=True, norm_first=True)
        self.read = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        return self.read(self.block(self.cut(x).flatten(2).transpose(1, 2) + self.places).mean(1))


class Variational(nn.Module):
    """An autoencoder whose code is drawn while it trains; out go pixels' logits, the code's mean and log-variance."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(PIXELS, 128), nn.ReLU(), nn.Linear(128, 16))
        self.decode = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, PIXELS))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        mean, logvar = self.encode(x).chunk(2, 1)
        code = mean + torch.randn_like(mean) * (0.5 * logvar).exp() if self.training else mean
        return torch.cat([self.decode(code), mean, logvar], 1)


def evidence(outputs: Tensor, x: Tensor) -> Tensor:
    """Return the negative lower bound of a variational autoencoder, a pixel."""
    logits, mean, logvar = outputs.split([PIXELS, 8, 8], 1)
    divergence = -0.5 * (1 + logvar - mean**2 - logvar.exp()).sum(1).mean()
    return functional.binary_cross_entropy_with_logits(logits, x) + divergence / PIXELS


class Clicks(nn.Module):
    """An embedding for each column of names, and a perceptron."""

    KINDS = (50, 20, 300, 8, 30)

    def __init__(self) -> None:
        super().__init__()
        self.names = nn.ModuleList(nn.Embedding(kinds, 8) for kinds in self.KINDS)
        self.read = nn.Sequential(nn.Linear(43, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 1), nn.Flatten(0))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        columns = x[:, :5].long().unbind(1)
        known = [embedding(column) for embedding, column in zip(self.names, columns, strict=True)]
        return self.read(torch.cat([*known, x[:, 5:]], 1))


def signals() -> nn.Module:
    """Return two convolutions along the time."""

    def block(one: int, other: int) -> list[nn.Module]:
        return [nn.Conv1d(one, other, 5, 2, 2), nn.BatchNorm1d(other), nn.ReLU()]

    pooled = [nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(32, 6)]
    return nn.Sequential(*block(3, 16), *block(16, 32), *pooled)


class Sorter(nn.Module):
    """A transformer that names the number of each place."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(16, 32), nn.Parameter(0.02 * torch.randn(8, 32))
        self.block = nn.TransformerEncoderLayer(32, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        self.read = nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch, classes in the middle."""
        return self.read(self.block(self.embedding(x) + self.places)).transpose(1, 2)


LEVELS = (0.1, 0.5, 0.9)


def pinball(outputs: Tensor, y: Tensor) -> Tensor:
    """Return the mean loss of three quantiles a day."""
    apart = y[:, :, None] - outputs.unflatten(1, (7, 3))
    levels = torch.tensor(LEVELS)
    return torch.maximum(levels * apart, (levels - 1) * apart).mean()


class Siamese(nn.Module):
    """The distance of two curves in eight dimensions."""

    def __init__(self) -> None:
        super().__init__()
        convolutions = [nn.Conv1d(1, 16, 5, 2, 2), nn.ReLU(), nn.Conv1d(16, 16, 5, 2, 2), nn.ReLU()]
        self.place = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(192, 8))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        one, other = (self.place(x[:, side, None]) for side in (0, 1))
        return functional.pairwise_distance(one, other)


def contrastive(distance: Tensor, same: Tensor) -> Tensor:
    """Return the loss of Hadsell, Chopra & LeCun (2006) with a margin of 1."""
    return (same * distance**2 + (1 - same) * functional.relu(1 - distance) ** 2).mean()


class DeepSet(nn.Module):
    """A perceptron a point, their mean, and another."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.read = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        return self.read(self.point(x).mean(1))


ADAGRAD, RADAM, NADAM = (made(kind) for kind in (torch.optim.Adagrad, torch.optim.RAdam, torch.optim.NAdam))
LONG_ADAM = made(torch.optim.Adam, betas=(0.9, 0.98), eps=1e-9)
"""With the averages of Vaswani et al. (2017)."""

DECAYED, POISSON = made(momentum=0.9, weight_decay=1e-3), functional.poisson_nll_loss
BCE = functional.binary_cross_entropy_with_logits
CAREFUL, WIDE = (1e-4, 3e-4, 1e-3, 3e-3), (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
CIFAR, MNIST, DIGITS = images("cifar5k-convnet", 2, 2800), images("mnist5k-convnet", 2, 4000), images("mnist5k-convnet")
WATCHED = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)

LATEST = {
    "photographs": Task(CIFAR, photographs, ADAMW, CE, CAREFUL, 8, (1200, 1900), True),
    "photographs, ResNet": Task(CIFAR, resnet, NESTEROV, CE, (0.01, 0.03, 0.1, 0.3), 10, (1200, 1900), True),
    "MNIST, perceptron": Task(MNIST, mlp(PIXELS, 96, 48, 10), ADAM, CE, WIDE, 8, (2400, 3200), True),
    "MNIST, ViT": Task(DIGITS, Patches, ADAMW, CE, CAREFUL, 10, (1000, 2500), True),
    "MNIST, VAE": Task(ink, Variational, ADAM, evidence, CAREFUL, 20, (1000, 1700), True),
    "clicks": Task(clicks, Clicks, ADAGRAD, BCE, (0.003, 0.01, 0.03, 0.1, 0.3), 8, (3000, 4500)),
    "accidents": Task(accidents, mlp(8, 48, 1, flat=True), PLAIN, POISSON, WATCHED[:5], 60, (1000, 1700)),
    "sensors": Task(sensors, signals, DECAYED, CE, WATCHED, 10, (1600, 2400)),
    "sorting": Task(unsorted, Sorter, LONG_ADAM, CE, ADAM4, 12, (1600, 2400)),
    "demand": Task(demand, mlp(28, 64, 21), RADAM, pinball, WIDE[:5], 25, (1200, 1900)),
    "signatures": Task(signatures, Siamese, NADAM, contrastive, ADAM4, 12, (1200, 2000)),
    "sets": Task(sets, DeepSet, MOMENTUM, MSE, WATCHED[1:5], 60, (800, 1400)),
}
"""Tasks that came after every rule was settled, chosen by one who had not read the rules."""

"""Eight tasks for loops of one's own that go over much data once to five times, as fine-tuning and large sets do."""

from functools import cache
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import sklearn.datasets as sets_of
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.steering.latest_tasks import CAREFUL, examples_of, images, photographs
from benchmarks.steering.loop_tasks import (
    ADAM,
    ADAM5,
    ADAMW,
    CE,
    MOMENTUM,
    MSE,
    NESTEROV,
    RMSPROP,
    SGD5,
    Task,
    made,
    mlp,
    scaled,
    tensors,
)


def cuts(folder: Path) -> tuple[Tensor, Tensor]:
    """Return diamonds, and their cuts."""
    return examples_of("diamonds-mlp", folder, subset=30_000)


def letters() -> tuple[Tensor, Tensor]:
    """Return 17 letters of Python's documentation at every 16th place, and the next ones."""
    text = "".join(topics[name] for name in sorted(topics))
    places = {letter: min(place, 99) for place, letter in enumerate(sorted(set(text)))}
    rows = np.array([places[letter] for letter in text])
    rows = rows[: len(rows) // 33 * 33].reshape(-1, 33)
    return tensors(rows[:, :-1], rows[:, 1:])


def taught() -> tuple[Tensor, Tensor]:
    """Return what a perceptron of 30 hidden units says of 16 numbers, with noise."""
    draw = np.random.default_rng(21)
    x = draw.standard_normal((32_000, 16))
    hidden = np.maximum(x @ draw.standard_normal((16, 30)) / 4 + 0.3 * draw.standard_normal(30), 0)
    return tensors(x, scaled(hidden @ draw.standard_normal(30) + 0.3 * draw.standard_normal(len(x))))


def covers() -> tuple[Tensor, Tensor]:
    """Return seven kinds, four clusters each, one label in twenty wrong."""
    x, y = sets_of.make_classification(
        30_000, 30, n_informative=14, n_redundant=6, n_classes=7, n_clusters_per_class=4, flip_y=0.05, random_state=8
    )
    return tensors(scaled(x), y)


def landscape() -> tuple[Tensor, Tensor]:
    """Return places in the plane, and the height of a landscape of waves there."""
    draw = np.random.default_rng(22)
    place = draw.uniform(-1, 1, (14_000, 2))
    waves, phase = draw.normal(0, 4, (12, 2)), draw.uniform(0, 6.3, 12)
    return tensors(place, scaled(np.sin(place @ waves.T + phase) @ (draw.standard_normal(12) / 3)))


def brackets() -> tuple[Tensor, Tensor]:
    """Return rows of three kinds of brackets, and whether each that closes fits the last one that was opened."""
    draw, count, long = np.random.default_rng(23), 8000, 24
    rows, sound = np.zeros((count, long), dtype=int), np.ones(count, dtype=int)
    for row in range(count):
        stack: list[int] = []
        for place in range(long):
            if stack and (draw.uniform() < 0.5 or len(stack) >= long - place):
                kind = stack.pop()
                if draw.uniform() < 0.06:
                    kind, sound[row] = (kind + 1) % 3, 0
                rows[row, place] = 3 + kind
            else:
                stack.append(int(draw.integers(0, 3)))
                rows[row, place] = stack[-1]
    return tensors(rows, sound)


class Closing(nn.Module):
    """A recurrent layer over symbols whose mean state is read out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer, self.read = nn.Embedding(6, 16), nn.GRU(16, 40, batch_first=True), nn.Linear(40, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        return self.read(self.layer(self.embedding(x))[0].mean(1))


class Speaker(nn.Module):
    """A block of attention that sees what came before."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(100, 32), nn.Parameter(torch.zeros(32, 32))
        block = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks, self.read = nn.TransformerEncoder(block, 1, enable_nested_tensor=False), nn.Linear(32, 100)
        self.register_buffer("before", nn.Transformer.generate_square_subsequent_mask(32))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        return self.read(self.blocks(self.embedding(x) + self.places, mask=self.before, is_causal=True)).transpose(1, 2)


def convnet() -> nn.Module:
    """Return two convolutional blocks over 14 x 14 pixels and a layer, without normalisation."""

    def block(one: int, other: int) -> list[nn.Module]:
        return [nn.Conv2d(one, other, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(*block(1, 12), *block(12, 24), nn.Flatten(), nn.Linear(24 * 9, 10))


@cache
def _before() -> dict[str, Tensor]:
    """Return weights that have learnt to tell discs, squares and crosses apart."""
    draw = np.random.default_rng(24)
    down, across = np.mgrid[:14, :14]
    kinds, pictures = draw.integers(0, 3, 3000), []
    for kind in kinds:
        y, x, size = draw.uniform(3, 11), draw.uniform(3, 11), draw.uniform(1.5, 3.5)
        far, near = np.maximum(abs(down - y), abs(across - x)), np.minimum(abs(down - y), abs(across - x))
        shape = ((down - y) ** 2 + (across - x) ** 2 < size**2, far < size, (far < size) & (near < 1))[kind]
        pictures.append(shape + 0.3 * draw.standard_normal((14, 14)))
    x, y = tensors(np.stack(pictures)[:, None], kinds)
    kept = torch.get_rng_state()
    torch.manual_seed(0)
    model = convnet()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(4):
        for chosen in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimizer.step()
    torch.set_rng_state(kept)
    return {name: value for name, value in model.state_dict().items() if not name.startswith("7")}


def trained_before() -> nn.Module:
    """Return a network that has learnt something else, with a new last layer."""
    model = convnet()
    model.load_state_dict(_before(), strict=False)
    return model


FEW = {
    "MNIST, 3 epochs": Task(
        images("mnist10k-mlp", 2, 14_000, subset=14_000), convnet, NESTEROV, CE, SGD5, 3, (10_000, 12_000), True
    ),
    "CIFAR, 4 epochs": Task(
        images("cifar5k-convnet", 2, 12_000, subset=12_000),
        photographs,
        ADAMW,
        CE,
        (*CAREFUL, 1e-2),
        4,
        (8000, 10_000),
        True,
    ),
    "diamonds, 2 epochs": Task(cuts, mlp(22, 64, 64, 5), ADAMW, CE, ADAM5, 2, (20_000, 24_000), True),
    "letters, 3 epochs": Task(letters, Speaker, ADAMW, CE, ADAM5, 3, (8000, 10_000)),
    "teacher, 1 epoch": Task(taught, mlp(16, 64, 64, 1, flat=True), ADAM, MSE, ADAM5, 1, (24_000, 28_000)),
    "seven kinds, 2 epochs": Task(covers, mlp(30, 128, 128, 7), MOMENTUM, CE, SGD5, 2, (20_000, 25_000)),
    "landscape, 5 epochs": Task(landscape, mlp(2, 64, 64, 64, 1, flat=True), ADAM, MSE, ADAM5, 5, (10_000, 12_000)),
    "brackets, 5 epochs": Task(brackets, Closing, RMSPROP, CE, ADAM5, 5, (5000, 6500)),
    "fine-tuned, 3 epochs": Task(
        images("mnist10k-mlp", 2, 10_000),
        trained_before,
        made(momentum=0.9, weight_decay=1e-4),
        CE,
        SGD5,
        3,
        (7000, 8500),
        True,
    ),
}
"""Tasks of few epochs, whose scouts end within one."""

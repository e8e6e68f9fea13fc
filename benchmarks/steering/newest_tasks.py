"""Twelve more small tasks for loops of one's own: physics, places, roads, reckoning, texts, lives, choices.

The first six of the list have targets without noise, the other six with much of it.
"""

import ast
import re
import sysconfig
import zlib
from pathlib import Path

import numpy as np
import sklearn.datasets as made
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.steering.latest_tasks import DECAYED, NADAM
from benchmarks.steering.loop_tasks import (
    ADAM,
    ADAM4,
    ADAM5,
    ADAMW,
    CE,
    MOMENTUM,
    MSE,
    NESTEROV,
    PLAIN,
    RMSPROP,
    SGD5,
    Task,
    mlp,
    scaled,
    tensors,
)

PACKAGES = ("asyncio", "email", "http", "importlib", "logging", "multiprocessing", "unittest", "urllib", "xml")
LINKS = (1.0, 0.8, 0.5)
PERIODS = 12


def burgers() -> tuple[Tensor, Tensor]:
    """Return velocities on a ring of 32 points, and the same a while later by Burgers' equation."""
    draw, count, points = np.random.default_rng(12), 1600, 128
    place = np.arange(points) / points
    velocity = np.zeros((count, points))
    for k in (1, 2, 3):
        height, phase = draw.standard_normal((count, 1)) / k, draw.uniform(0, 2 * np.pi, (count, 1))
        velocity += height * np.sin(2 * np.pi * k * place + phase)

    def change(u: np.ndarray) -> np.ndarray:
        before, after = np.roll(u, 1, 1), np.roll(u, -1, 1)
        return 0.02 * (before - 2 * u + after) * points**2 - (after**2 - before**2) / 4 * points

    first, step = velocity[:, ::4], 0.001
    for _ in range(250):
        slope = change(velocity)
        velocity = velocity + step / 2 * (slope + change(velocity + step * slope))
    return tensors(first[:, None], velocity[:, None, ::4])


def flower() -> tuple[Tensor, Tensor]:
    """Return places of the 64 x 64 pixels of a photograph, and their colours."""
    picture = made.load_sample_image("flower.jpg")[20:404, 128:512] / 255
    colours = picture.reshape(64, 6, 64, 6, 3).mean((1, 3)).reshape(-1, 3)
    down, across = np.mgrid[:64, :64] / 31.5 - 1
    return tensors(np.stack([down.ravel(), across.ravel()], 1), scaled(colours))


def lorenz() -> tuple[Tensor, Tensor]:
    """Return states of the system of Lorenz (1963), and where each is a quarter of a unit of time later."""

    def change(state: np.ndarray) -> np.ndarray:
        x, y, z = state.T
        return np.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], 1)

    state, seen = np.random.default_rng(13).normal((0, 0, 25), 8, (60, 3)), []
    for step in range(1500):
        one = change(state)
        two = change(state + 0.005 * one)
        three = change(state + 0.005 * two)
        state = state + 0.01 / 6 * (one + 2 * two + 2 * three + change(state + 0.01 * three))
        if step >= 475 and step % 25 == 0:
            seen.append(state)
    series = (np.stack(seen) - [0, 0, 24]) / [8, 9, 8.5]
    return tensors(series[:-1].reshape(-1, 3), series[1:].reshape(-1, 3))


def hand(turns: Tensor) -> Tensor:
    """Return where (n, 3) an arm's hand is: turns (n, 4, 2) are the cosine and sine of the base and of three joints."""
    base, joints = turns[:, 0], torch.view_as_complex(turns[:, 1:].contiguous()).cumprod(1)
    reached = torch.view_as_real((joints * torch.tensor(LINKS)).sum(1))
    return torch.stack([reached[:, 0] * base[:, 0], reached[:, 0] * base[:, 1], reached[:, 1]], 1)


def targets() -> tuple[Tensor, Tensor]:
    """Return places that an arm of three links can reach, twice."""
    draw, count = np.random.default_rng(14), 2200
    base, joints = (
        draw.uniform(-np.pi, np.pi, (count, 1)),
        draw.uniform((-0.6, -1.2, -1.2), (1.8, 1.2, 1.2), (count, 3)),
    )
    angles = np.concatenate([base, joints], 1)
    places = hand(torch.tensor(np.stack([np.cos(angles), np.sin(angles)], 2), dtype=torch.float32)).numpy()
    return tensors(places, places)


def roads() -> tuple[Tensor, Tensor]:
    """Return lengths of the roads between ten towns, 0 where there is none, and how far nine are from the first."""
    draw, count, towns = np.random.default_rng(15), 2000, 10
    lengths = draw.uniform(0.1, 1, (count, towns, towns))
    lengths[draw.uniform(size=lengths.shape) < 0.75] = np.inf
    around = np.arange(towns)
    lengths[:, around, (around + 1) % towns] = draw.uniform(0.5, 1, (count, towns))
    lengths = np.minimum(lengths, lengths.transpose(0, 2, 1))
    lengths[:, around, around] = 0
    far = lengths.copy()
    for via in around:
        far = np.minimum(far, far[:, :, via, None] + far[:, None, via])
    return tensors(np.where(np.isfinite(lengths), lengths, 0), far[:, 0, 1:])


def expressions() -> tuple[Tensor, Tensor]:
    """Return five digits and the signs between them (10 to 12: and, less, times), and what they come to."""
    draw, count = np.random.default_rng(16), 2800
    digits, signs = draw.integers(0, 10, (count, 5)), draw.choice(3, (count, 4), p=[0.4, 0.4, 0.2])
    symbols = np.zeros((count, 9), int)
    symbols[:, ::2], symbols[:, 1::2] = digits, signs + 10
    total, term = np.zeros(count), digits[:, 0].astype(float)
    for sign, digit in zip(signs.T, digits[:, 1:].T, strict=True):
        total = np.where(sign == 2, total, total + term)
        term = np.select([sign == 0, sign == 1], [digit, -digit], term * digit)
    return tensors(symbols, scaled(np.arcsinh((total + term) / 5)))


def docstrings() -> tuple[Tensor, Tensor]:
    """Return hashed words of documentation in the Python at hand, 0 after the last, and which package they are of."""
    library = Path(sysconfig.get_path("stdlib"))
    words, packages = [], []
    for package, name in enumerate(PACKAGES):
        for path in sorted((library / name).rglob("*.py")):
            if "test" in path.relative_to(library).parts:
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
                    told = re.findall("[a-z]+", (ast.get_docstring(node) or "").lower())[:24]
                    if len(told) > 2:
                        row = [zlib.crc32(word.encode()) % 1023 + 1 for word in told]
                        words.append(row + [0] * (24 - len(row)))
                        packages.append(package)
    return tensors(np.array(words), np.array(packages))


def patients() -> tuple[Tensor, Tensor]:
    """Return eight columns of a patient; the period of an event, or when no more was seen, and whether it was one."""
    draw, count = np.random.default_rng(17), 2400
    x = draw.standard_normal((count, 8))
    risk = 0.6 * x[:, 0] - 0.5 * x[:, 1] * (x[:, 2] > 0) + 0.4 * np.abs(x[:, 3]) - 0.3 * x[:, 4] * x[:, 5]
    lived = 9 * draw.weibull(1.5, count) * np.exp(-risk)
    left = np.minimum(draw.uniform(2, 20, count), PERIODS - 0.5)
    return tensors(x, np.stack([np.minimum(lived, left).astype(int), lived <= left], 1).astype(int))


def offers() -> tuple[Tensor, Tensor]:
    """Return six offers with five columns and three of who chose, and which was chosen."""
    draw, count = np.random.default_rng(18), 3200
    offered, who = draw.standard_normal((count, 6, 5)), draw.standard_normal((count, 1, 3))
    worth = -np.exp(0.4 * who[..., 0]) * offered[..., 0] + np.tanh(2 * offered[..., 1])
    worth += 0.8 * who[..., 1] * offered[..., 2] - 0.4 * offered[..., 3] ** 2
    chosen = (worth + draw.gumbel(size=worth.shape)).argmax(1)
    return tensors(np.concatenate([offered, np.repeat(who, 6, 1)], 2), chosen)


def tails() -> tuple[Tensor, Tensor]:
    """Return a regression on twelve columns with noise of Student's t, one and a half degrees of freedom."""
    draw, count = np.random.default_rng(19), 2000
    x = draw.standard_normal((count, 12))
    y = np.sin(2 * x[:, 0]) + np.abs(x[:, 1]) + np.maximum(x[:, 2], x[:, 3]) + 0.5 * x[:, 4] * x[:, 5]
    return tensors(x, y - 1.4 + 0.6 * draw.standard_t(1.5, count))


def chains() -> tuple[Tensor, Tensor]:
    """Return symbols of eight that the two before make more or less likely, and the next ones."""
    draw, count = np.random.default_rng(20), 1400
    likely = draw.dirichlet(np.full(8, 0.3), (8, 8)).cumsum(2)
    symbols = draw.integers(0, 8, (count, 17))
    for place in range(2, 17):
        above = draw.uniform(size=(count, 1)) > likely[symbols[:, place - 2], symbols[:, place - 1]]
        symbols[:, place] = np.minimum(above.sum(1), 7)
    return tensors(symbols[:, :-1], symbols[:, 1:])


def turned() -> tuple[Tensor, Tensor]:
    """Return digits with noise, turned by any number of right angles, and by how many."""
    x, _ = made.load_digits(return_X_y=True)
    draw = np.random.default_rng(21)
    turns = draw.integers(0, 4, len(x))
    pictures = np.stack([np.rot90(one, turn) for one, turn in zip((x / 16).reshape(-1, 8, 8), turns, strict=True)])
    return tensors((pictures + 0.25 * draw.standard_normal(pictures.shape))[:, None], turns)


class Added(nn.Module):
    """What a layer returns, and what went into it."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        return x + self.inner(x)


def ring() -> nn.Module:
    """Return three residual convolutions around a ring, ever wider."""

    def around(one: int, other: int, apart: int = 1) -> nn.Module:
        return nn.Conv1d(one, other, 5, padding=2 * apart, dilation=apart, padding_mode="circular")

    blocks = [Added(nn.GroupNorm(4, 16), nn.GELU(), around(16, 16, apart)) for apart in (1, 2, 4)]
    return nn.Sequential(around(1, 16), *blocks, nn.GELU(), nn.Conv1d(16, 1, 1))


class Sines(nn.Module):
    """A perceptron with sines, begun as Sitzmann et al. (2020) do, with a frequency of 20."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 48), nn.Linear(48, 48)])
        self.read = nn.Linear(48, 3)
        nn.init.uniform_(self.layers[0].weight, -1 / 2, 1 / 2)
        nn.init.uniform_(self.layers[1].weight, -((6 / 48) ** 0.5) / 20, (6 / 48) ** 0.5 / 20)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        for layer in self.layers:
            x = (20 * layer(x)).sin()
        return self.read(x)


def smooth() -> nn.Module:
    """Return a perceptron with hyperbolic tangents over three numbers."""
    return nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3))


def arm() -> nn.Module:
    """Return two residual layers over a place, with four turns for an end."""
    blocks = [Added(nn.LayerNorm(64), nn.Linear(64, 64), nn.GELU()) for _ in range(2)]
    return nn.Sequential(nn.Linear(3, 64), nn.GELU(), *blocks, nn.Linear(64, 8), nn.Unflatten(1, (4, 2)))


def missed(turns: Tensor, places: Tensor) -> Tensor:
    """Return the mean distance of an arm's hand from where it should be."""
    return torch.linalg.vector_norm(hand(functional.normalize(turns, dim=2)) - places, dim=1).mean()


class Messages(nn.Module):
    """Four rounds of messages along roads, the strongest of which counts."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.length = nn.Embedding(2, 16), nn.Linear(1, 16)
        self.sent, self.kept = nn.Linear(16, 16, bias=False), nn.Linear(32, 16)
        self.read = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        state = self.first((torch.arange(10) == 0).long()).expand(len(x), 10, 16)
        length, none = self.length(x[..., None]), (x == 0)[..., None]
        for _ in range(4):
            heard = functional.relu(self.sent(state)[:, None] + length).masked_fill(none, 0).amax(2)
            state = state + functional.relu(self.kept(torch.cat([state, heard], 2)))
        return self.read(state[:, 1:])


class Reckoner(nn.Module):
    """A recurrent layer over symbols whose last state is read out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer = nn.Embedding(13, 12), nn.GRU(12, 40, batch_first=True)
        self.read = nn.Sequential(nn.Linear(40, 1), nn.Flatten(0))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        return self.read(self.layer(self.embedding(x))[0][:, -1])


class Words(nn.Module):
    """The mean of what stands for each word, and a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(1024, 24, padding_idx=0)
        self.read = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, len(PACKAGES)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        return self.read(self.bag(x))


def hazard(outputs: Tensor, y: Tensor) -> Tensor:
    """Return the negative logarithm of the likelihood of discrete times with some cut off, a patient."""
    last, event = y[:, :1], y[:, 1:]
    period = torch.arange(PERIODS)
    met = ((period == last) & (event == 1)).float()
    each = functional.binary_cross_entropy_with_logits(outputs, met, reduction="none")
    return (each * (period < last + event)).sum(1).mean()


def valued() -> nn.Module:
    """Return a perceptron over each of some offers."""
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(1))


def steady() -> nn.Module:
    """Return two residual layers over twelve columns."""
    blocks = [Added(nn.LayerNorm(48), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 48)) for _ in range(2)]
    return nn.Sequential(nn.Linear(12, 48), *blocks, nn.SiLU(), nn.Linear(48, 1), nn.Flatten(0))


class Follower(nn.Module):
    """A transformer that sees what came before."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(8, 32), nn.Parameter(0.02 * torch.randn(16, 32))
        self.block = nn.TransformerEncoderLayer(32, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        self.read = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 8))
        self.register_buffer("hidden", torch.ones(16, 16, dtype=torch.bool).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch, classes in the middle."""
        return self.read(self.block(self.embedding(x) + self.places, self.hidden)).transpose(1, 2)


def grouped() -> nn.Module:
    """Return two convolutions with groups of channels normalised."""

    def block(one: int, other: int) -> list[nn.Module]:
        return [nn.Conv2d(one, other, 3, padding=1), nn.GroupNorm(4, other), nn.SiLU(), nn.MaxPool2d(2)]

    return nn.Sequential(*block(1, 12), *block(12, 24), nn.Flatten(), nn.Linear(96, 4))


L1, HUBER = functional.l1_loss, functional.huber_loss

NEWEST = {
    "Burgers": Task(burgers, ring, ADAMW, L1, ADAM5, 15, (800, 1200)),
    "flower, sines": Task(flower, Sines, ADAM, MSE, ADAM5, 20, (2400, 3200)),
    "Lorenz": Task(lorenz, smooth, MOMENTUM, MSE, SGD5, 40, (1400, 1900)),
    "reaching": Task(targets, arm, NADAM, missed, ADAM5, 25, (1000, 1600)),
    "roads": Task(roads, Messages, ADAM, L1, ADAM4, 15, (1000, 1500)),
    "expressions": Task(expressions, Reckoner, RMSPROP, MSE, ADAM4, 15, (1600, 2200)),
    "docstrings": Task(docstrings, Words, ADAM, CE, (3e-4, 1e-3, 3e-3, 1e-2, 3e-2), 20, (1200, 1600)),
    "patients": Task(patients, mlp(8, 32, PERIODS), NESTEROV, hazard, SGD5, 30, (1200, 1800)),
    "offers": Task(offers, valued, PLAIN, CE, (0.01, 0.03, 0.1, 0.3, 1.0), 25, (1600, 2400)),
    "tails": Task(tails, steady, DECAYED, HUBER, (0.001, 0.003, 0.01, 0.03, 0.1), 25, (1000, 1500)),
    "chains, attention": Task(chains, Follower, ADAMW, CE, ADAM4, 20, (600, 1000)),
    "digits, turned": Task(turned, grouped, MOMENTUM, CE, SGD5, 20, (1000, 1400)),
}
"""Tasks on which nothing was tuned, chosen by one who had read none of the rules and seen no result of theirs."""

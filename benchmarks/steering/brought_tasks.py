"""Ten more small tasks for loops of one's own, such as people bring them: pictures, tables, code, forecasts, moves.

They were written, and the grid of each trained, before a controller ran on it, by one who had read none of the rules.
Four read MNIST, CIFAR-10 or diamonds from ``--data-dir``.
"""

import ast
import io
import keyword
import sysconfig
import tokenize
import zlib
from collections import deque
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.steering.latest_tasks import ADAGRAD, CIFAR, images
from benchmarks.steering.loop_tasks import (
    ADAM,
    ADAM4,
    BCE,
    CE,
    MOMENTUM,
    NESTEROV,
    Optimizers,
    Task,
    made,
    scaled,
    tensors,
)

WARMTH = 4.0
"""The temperature at which a student listens to its teacher."""
LETTERS = 97
"""Printable characters, the end of a line, and anything else."""
KINDS = ("other", "name", "keyword", "number", "string", "comment", "operator")
HOURS, AHEAD = 48, 12
WALLS = 7
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))
STATEMENTS: tuple[tuple[type[ast.AST], ...], ...] = (
    (ast.For, ast.While),
    (ast.If,),
    (ast.Try,),
    (ast.With,),
    (ast.Return,),
    (ast.Raise,),
    (ast.Yield, ast.YieldFrom),
    (ast.Lambda, ast.ListComp, ast.GeneratorExp, ast.DictComp, ast.SetComp),
    (ast.Assert,),
    (ast.AugAssign,),
)
BAG = 512


def taught(folder: Path) -> tuple[Tensor, Tensor]:
    """Return 3,000 handwritten digits, and what a teacher of other and the first 1,500 says of each, and its class."""
    x, y = images("mnist5k-convnet", 2)(folder)
    known = torch.cat([torch.arange(1500), torch.arange(3000, len(x))])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = nn.Sequential(
            *_normalised(1, 32), nn.MaxPool2d(2), *_normalised(32, 64), nn.Flatten(), nn.Dropout(0.3), nn.LazyLinear(10)
        )
        teacher(x[:2])
        optimizer = torch.optim.Adam(teacher.parameters(), 2e-3)
        for _ in range(6):
            for chosen in known[torch.randperm(len(known))].split(64):
                optimizer.zero_grad()
                CE(teacher(x[chosen]), y[chosen]).backward()
                optimizer.step()
    teacher.eval()
    with torch.no_grad():
        said = teacher(x[:3000])
    return x[:3000], torch.cat([said, y[:3000, None].float()], 1)


def halves(folder: Path) -> tuple[Tensor, Tensor]:
    """Return the left and the right half of 3,000 handwritten digits, and which digits they are."""
    x, y = images("mnist5k-convnet", 2, 3000)(folder)
    return torch.cat([x[..., :7], x[..., 7:]], 1), y


def diamonds(folder: Path) -> tuple[Tensor, Tensor]:
    """Return seven measures, colour and clarity of 5,000 diamonds, and how good their cut is, of five grades."""
    lines = (folder / "diamonds.csv").read_text(encoding="utf-8").replace('"', "").splitlines()[1:]
    columns = list(zip(*(line.split(",") for line in lines), strict=True))
    chosen = np.random.default_rng(22).choice(len(lines), 5000, replace=False)
    numbers = np.array([columns[place] for place in (0, 4, 5, 6, 7, 8, 9)], float).T[chosen]
    numbers[:, [0, 3]] = np.log(numbers[:, [0, 3]])
    names = [np.array(column)[chosen] for column in (columns[2], columns[3])]
    known = np.concatenate([(name[:, None] == np.unique(name)).astype(float) for name in names], 1)
    grades = np.array([["Fair", "Good", "Very Good", "Premium", "Ideal"].index(cut) for cut in columns[1]])[chosen]
    return tensors(np.concatenate([scaled(numbers), known], 1), grades)


def _modules() -> Iterable[str]:
    """Yield the source of the modules of the Python at hand, one file each."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        yield path.read_text(encoding="utf-8")


def _letters(source: str) -> np.ndarray:
    codes = np.array([ord(letter) for letter in source])
    return np.where((codes >= 32) & (codes < 127), codes - 32, np.where(codes == 10, 95, 96))


def code() -> tuple[Tensor, Tensor]:
    """Return 32 characters of Python's own modules, and the next ones."""
    rows = np.concatenate([_letters(source)[:3000] for source in _modules() if len(source) > 4000])
    rows = rows[: len(rows) // 33 * 33].reshape(-1, 33)
    rows = rows[np.random.default_rng(23).permutation(len(rows))[:2600]]
    return tensors(rows[:, :-1], rows[:, 1:])


def colours() -> tuple[Tensor, Tensor]:
    """Return 24 characters of Python's own modules, and what each is to one who colours the code."""
    rows, kinds = [], []
    for source in _modules():
        begins = np.cumsum([0, *(len(line) for line in source.splitlines(keepends=True))])
        kind = np.zeros(len(source), int)
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            told = tokenize.tok_name[token.type]
            if told == "NAME":
                told = "KEYWORD" if keyword.iskeyword(token.string) else told
            names = {"OP": "operator", "FSTRING": "string"}
            name = names.get(told.partition("_")[0], told.lower())
            if name in KINDS:
                first, last = (begins[row - 1] + column for row, column in (token.start, token.end))
                kind[first:last] = KINDS.index(name)
        for begin in range(200, min(len(source), 6000) - 24, 200):
            rows.append(_letters(source[begin : begin + 24]))
            kinds.append(kind[begin : begin + 24])
    chosen = np.random.default_rng(24).permutation(len(rows))[:2600]
    return tensors(np.array(rows)[chosen], np.array(kinds)[chosen])


def load() -> tuple[Tensor, Tensor]:
    """Return two days of a town's load, temperature and clock, an hour a row, and the load of twelve hours after."""
    draw, towns, hours = np.random.default_rng(25), 40, 24 * 60
    clock = np.arange(hours)
    day, weekend = 2 * np.pi * clock / 24, (clock // 24 % 7 >= 5) * 1.0
    rows, ahead = [], []
    for _ in range(towns):
        shift, heights = draw.normal(0, 0.3), draw.uniform(0.3, 1.0, 3)
        pattern = heights[0] * np.sin(day - 2 + shift) + heights[1] * np.sin(2 * day + shift)
        warm, noise = np.zeros(hours), np.zeros(hours)
        for hour in range(1, hours):
            warm[hour] = 0.98 * warm[hour - 1] + 0.15 * draw.standard_normal()
            noise[hour] = 0.8 * noise[hour - 1] + 0.12 * draw.standard_normal()
        warm += 0.6 * np.sin(day - 2.5)
        demand = (pattern * (1 - 0.4 * weekend) - heights[2] * weekend + 0.3 * warm**2 + noise).astype(float)
        seen = np.stack([demand, warm, np.sin(day), np.cos(day), weekend], 1)
        for begin in draw.integers(0, hours - HOURS - AHEAD, 60):
            rows.append(seen[begin : begin + HOURS])
            ahead.append(demand[begin + HOURS : begin + HOURS + AHEAD])
    return tensors(np.array(rows), np.array(ahead))


def shapes() -> tuple[Tensor, Tensor]:
    """Return noisy grey pictures of discs, squares and crosses over each other, and what each pixel shows."""
    draw, count, side = np.random.default_rng(26), 1800, 16
    down, across = np.mgrid[:side, :side]
    pictures, masks = [], []
    for _ in range(count):
        picture, mask = np.full((side, side), draw.uniform(0, 0.6)), np.zeros((side, side), int)
        for _ in range(draw.integers(1, 4)):
            kind, half = draw.integers(1, 4), draw.uniform(2, 4)
            rows, columns = (np.abs(way - draw.uniform(3, side - 3)) for way in (down, across))
            if kind == 1:
                inside = rows**2 + columns**2 < half**2
            elif kind == 2:
                inside = np.maximum(rows, columns) < half
            else:
                inside = (np.minimum(rows, columns) < half / 3) & (np.maximum(rows, columns) < half)
            picture[inside], mask[inside] = draw.uniform(0.2, 1), kind
        pictures.append(picture + 0.15 * draw.standard_normal(picture.shape))
        masks.append(mask)
    return tensors(scaled(np.array(pictures).ravel()).reshape(count, 1, side, side), np.array(masks))


def mazes() -> tuple[Tensor, Tensor]:
    """Return where walls, a walker and its goal are on 7 x 7 places, and the move of one who errs one time in ten."""
    draw, seen, moves = np.random.default_rng(27), [], []
    while len(seen) < 3600:
        free = np.pad(draw.uniform(size=(WALLS, WALLS)) > 0.3, 1)
        places = np.argwhere(free)
        goal, walker = (tuple(places[place]) for place in draw.choice(len(places), 2, replace=False))
        far, edge = {goal: 0}, deque([goal])
        while edge:
            here = edge.popleft()
            for place in _beside(here):
                if free[place] and place not in far:
                    far[place] = far[here] + 1
                    edge.append(place)
        if walker in far:
            planes = np.zeros((3, *free.shape))
            planes[0], planes[1][walker], planes[2][goal] = ~free, 1, 1
            steps = [far.get(place, 1000) for place in _beside(walker)]
            seen.append(planes[:, 1:-1, 1:-1])
            moves.append(draw.integers(4) if draw.uniform() < 0.1 else int(np.argmin(steps)))
    return tensors(np.array(seen), np.array(moves))


def _beside(place: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [(place[0] + down, place[1] + across) for down, across in MOVES]


def functions() -> tuple[Tensor, Tensor]:
    """Return hashed names in functions of Python's own modules, and which of ten kinds of statements these have."""
    bags, kinds = [], []
    for source in _modules():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef) and len(node.body) > 2:
                bag, inner = np.zeros(BAG), list(ast.walk(node))
                for one in inner:
                    name = one.id if isinstance(one, ast.Name) else one.attr if isinstance(one, ast.Attribute) else ""
                    if name:
                        bag[zlib.crc32(name.encode()) % BAG] += 1
                bags.append(np.log1p(bag))
                kinds.append([any(isinstance(one, kind) for one in inner) for kind in STATEMENTS])
    chosen = np.random.default_rng(28).permutation(len(bags))[:3600]
    return tensors(np.array(bags)[chosen], np.array(kinds, float)[chosen])


def _normalised(one: int, other: int, stride: int = 1, groups: int = 1, size: int = 3) -> list[nn.Module]:
    convolution = nn.Conv2d(one, other, size, stride, size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(other), nn.ReLU()]


class Varied(nn.Module):
    """While it trains, each picture mirrored one in two, and four by four of its pixels hidden."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a batch, varied."""
        if not self.training:
            return x
        x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
        first = torch.randint(0, x.shape[2] - 3, (2, len(x), 1))
        rows, columns = ((first <= way) & (way < first + 4) for way in (torch.arange(x.shape[2]),) * 2)
        return x.masked_fill((rows[0, :, :, None] & columns[1, :, None, :])[:, None], 0)


def separable() -> nn.Module:
    """Return a convolution and three that are depthwise and pointwise, over varied pictures."""

    def block(one: int, other: int, stride: int) -> list[nn.Module]:
        return [*_normalised(one, one, stride, one), *_normalised(one, other, size=1)]

    blocks = [*block(16, 32, 1), *block(32, 48, 2), *block(48, 64, 1)]
    return nn.Sequential(
        Varied(), *_normalised(3, 16, 2), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
    )


def student() -> nn.Module:
    """Return two narrow convolutions."""
    return nn.Sequential(*_normalised(1, 6, 2), *_normalised(6, 12, 2), nn.Flatten(), nn.Linear(192, 10))


def distillation(outputs: Tensor, y: Tensor) -> Tensor:
    """Return the loss of Hinton, Vinyals & Dean (2015), half of it of the classes."""
    said = functional.log_softmax(y[:, :10] / WARMTH, 1)
    heard = functional.log_softmax(outputs / WARMTH, 1)
    soft = functional.kl_div(heard, said, reduction="batchmean", log_target=True) * WARMTH**2
    return (soft + CE(outputs, y[:, 10].long())) / 2


class Towers(nn.Module):
    """A convolutional network for each of two halves, to unit vectors, and how warm their likeness is."""

    def __init__(self) -> None:
        super().__init__()
        self.sides = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(),
                nn.Linear(448, 32),
            )
            for _ in range(2)
        )  # fmt: skip
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch (n, 2, 32), the first of the two scaled."""
        one, other = (functional.normalize(side(x[:, [place]]), dim=1) for place, side in enumerate(self.sides))
        return torch.stack([one * self.scale.exp(), other], 1)


def matched(outputs: Tensor, y: Tensor) -> Tensor:
    """Return how badly each half finds the other among those of the batch, both ways (Radford et al., 2021)."""
    alike, own = outputs[:, 0] @ outputs[:, 1].T, torch.arange(len(y))
    return (CE(alike, own) + CE(alike.T, own)) / 2


class Graded(nn.Module):
    """A perceptron with dropout and normalised layers, and four thresholds for its one number."""

    def __init__(self) -> None:
        super().__init__()

        def block(one: int, other: int) -> list[nn.Module]:
            return [nn.Linear(one, other), nn.BatchNorm1d(other), nn.ReLU(), nn.Dropout(0.1)]

        self.worth = nn.Sequential(*block(22, 64), *block(64, 32), nn.Linear(32, 1, bias=False))
        self.thresholds = nn.Parameter(torch.linspace(2, -2, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        return self.worth(x) + self.thresholds


def ordinal(outputs: Tensor, y: Tensor) -> Tensor:
    """Return the loss of whether a grade is above each of the lower ones (Cao, Mirjalili & Raschka, 2020)."""
    return BCE(outputs, (y[:, None] > torch.arange(4)).float())


class Causal(nn.Module):
    """A convolution that sees what came before, and what went into it."""

    def __init__(self, width: int, apart: int) -> None:
        super().__init__()
        self.pad = 2 * apart
        self.inner = nn.Conv1d(width, width, 3, dilation=apart)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        return x + functional.gelu(self.inner(functional.pad(x, (self.pad, 0))))


class Speaker(nn.Module):
    """Causal convolutions over characters, ever wider; classes in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(LETTERS, 32)
        self.layers = nn.Sequential(*(Causal(32, apart) for apart in (1, 2, 4)), nn.Conv1d(32, LETTERS, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        return self.layers(self.embedding(x).transpose(1, 2))


class Tagger(nn.Module):
    """A layer of a transformer over characters; classes in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(LETTERS, 32), nn.Parameter(0.02 * torch.randn(24, 32))
        self.block = nn.TransformerEncoderLayer(32, 4, 64, 0.1, "gelu", batch_first=True, norm_first=True)
        self.read = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, len(KINDS)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        return self.read(self.block(self.embedding(x) + self.places)).transpose(1, 2)


class Forecaster(nn.Module):
    """A recurrent layer over two days, whose last state says how the load changes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(5, 32, batch_first=True)
        self.read = nn.Sequential(nn.Dropout(0.1), nn.Linear(32, AHEAD))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        return x[:, -1, :1] + self.read(self.layer(x)[0][:, -1])


class UNet(nn.Module):
    """Two steps down and up again, with bridges."""

    def __init__(self) -> None:
        super().__init__()

        def block(one: int, other: int) -> nn.Module:
            return nn.Sequential(*_normalised(one, other))

        self.one, self.two, self.three = block(1, 8), block(8, 16), block(16, 24)
        self.up_two, self.up_one = nn.ConvTranspose2d(24, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)
        self.back_two, self.back_one = block(32, 16), block(16, 8)
        self.read = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        one = self.one(x)
        two = self.two(functional.max_pool2d(one, 2))
        three = self.three(functional.max_pool2d(two, 2))
        two = self.back_two(torch.cat([two, self.up_two(three)], 1))
        return self.read(self.back_one(torch.cat([one, self.up_one(two)], 1)))


def overlap(outputs: Tensor, y: Tensor) -> Tensor:
    """Return cross-entropy and how little the classes overlap, a picture (Milletari, Navab & Ahmadi, 2016)."""
    likely, true = outputs.softmax(1), functional.one_hot(y, 4).movedim(3, 1).float()
    dice = (2 * (likely * true).sum((2, 3)) + 1) / ((likely + true).sum((2, 3)) + 1)
    return CE(outputs, y) + 1 - dice.mean()


def walker() -> nn.Module:
    """Return three convolutions over a maze, and a layer."""
    convolutions = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU()]
    for _ in range(2):
        convolutions += [nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(16 * WALLS**2, 64), nn.ReLU(), nn.Linear(64, 4))


def bagged() -> nn.Module:
    """Return a perceptron with dropout over a bag of names."""
    return nn.Sequential(
        nn.Linear(BAG, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10)
    )


def parted(clip: float | None = None, **settings: Any) -> Optimizers:
    """Return what makes AdamW that decays weights alone, and clips the gradients' norm where it is told."""

    def make(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        every = list(parameters)
        parts = [[one for one in every if (one.ndim > 1) == weights] for weights in (True, False)]
        groups = [{"params": part, "weight_decay": decay} for part, decay in zip(parts, (0.1, 0.0), strict=True)]
        optimizer = torch.optim.AdamW(groups, lr=lr, **settings)
        return clipped(optimizer, clip) if clip else optimizer

    return make


def clipped(optimizer: torch.optim.Optimizer, norm: float) -> torch.optim.Optimizer:
    """Return an optimizer that clips the norm of the gradients before each step."""

    def clip(*_: Any) -> None:
        nn.utils.clip_grad_norm_([one for group in optimizer.param_groups for one in group["params"]], norm)

    optimizer.register_step_pre_hook(clip)
    return optimizer


def clipped_adam(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Return Adam over gradients of a norm of at most 1."""
    return clipped(torch.optim.Adam(parameters, lr), 1.0)


SMOOTHED = partial(CE, label_smoothing=0.1)
NADAMW = made(torch.optim.NAdam, weight_decay=0.01, decoupled_weight_decay=True)
RMSPROP = made(torch.optim.RMSprop, alpha=0.99, momentum=0.9)

BROUGHT = {
    "MNIST, student": Task(taught, student, MOMENTUM, distillation, (0.003, 0.01, 0.03, 0.1), 20, (1200, 2000), True),
    "diamonds, cut": Task(diamonds, Graded, NADAMW, ordinal, (3e-4, 1e-3, 3e-3, 1e-2), 20, (2000, 3500), True),
    "functions": Task(functions, bagged, ADAGRAD, BCE, (0.003, 0.01, 0.03, 0.1), 20, (2000, 2800)),
    "load": Task(load, Forecaster, clipped_adam, functional.l1_loss, ADAM4, 15, (1200, 1800)),
    "mazes": Task(mazes, walker, RMSPROP, CE, (1e-4, 3e-4, 1e-3), 15, (1200, 2400)),
    "halves": Task(halves, Towers, ADAM, matched, (3e-4, 1e-3, 3e-3), 15, (1000, 2000), True),
    "photographs, separable": Task(CIFAR, separable, NESTEROV, SMOOTHED, (0.03, 0.1, 0.3), 15, (1000, 1900), True),
    "code, convolutions": Task(code, Speaker, parted(1.0), CE, (1e-3, 3e-3, 1e-2), 15, (1000, 1800)),
    "shapes, U-Net": Task(shapes, UNet, ADAM, overlap, (1e-3, 3e-3, 1e-2), 15, (1000, 1400)),
    "code, colours": Task(colours, Tagger, parted(), CE, (1e-3, 3e-3, 1e-2), 15, (1000, 1900)),
}
"""Tasks on which nothing was tuned."""

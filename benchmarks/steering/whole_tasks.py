"""Six tasks on whole data sets for loops of one's own: MNIST and CIFAR-10 by convolutions, Python's help by attention.

They read ``MNIST``, the folder ``cifar10`` and ``topics.txt`` (``new_tasks.py data``) from ``--data-dir``. Unlike those
of ``large_tasks.py`` their networks are of the kinds that such data are usually given: with BatchNorm and without, with
and without pictures moved about, a transformer over letters.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.steering.large_tasks import ADAPTIVE, LETTERS, SIZES
from benchmarks.steering.latest_tasks import Moved, Residual, images
from benchmarks.steering.loop_tasks import ADAM, ADAMW, CE, MOMENTUM, NESTEROV, SGD5, Task

LINE = 32
SGD4, ADAPTIVE4 = SGD5[1:], ADAPTIVE[:-1]


def lines(folder: Path) -> tuple[Tensor, Tensor]:
    """Return 32 letters of Python's help and each one's next; the last 5,000 are of text that the others are not of."""
    text = (folder / "topics.txt").read_text()
    known = {letter: min(place, LETTERS - 1) for place, letter in enumerate(sorted(set(text)))}
    letters = torch.tensor([known[letter] for letter in text])
    draw = np.random.default_rng(0)
    apart = len(letters) * 7 // 8
    starts = [draw.integers(0, apart - LINE - 1, 20_000), draw.integers(apart, len(letters) - LINE - 1, 5000)]
    chosen = torch.tensor(np.concatenate(starts))[:, None] + torch.arange(LINE + 1)
    return letters[chosen][:, :-1], letters[chosen][:, 1:]


class Speaker(nn.Module):
    """Two blocks of attention that see what came before."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(LETTERS, 48), nn.Parameter(torch.zeros(LINE, 48))
        block = nn.TransformerEncoderLayer(48, 4, 96, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.read = nn.Sequential(nn.LayerNorm(48), nn.Linear(48, LETTERS))
        self.register_buffer("before", nn.Transformer.generate_square_subsequent_mask(LINE))

    def forward(self, x: Tensor) -> Tensor:
        """Return a number for each letter that may be next, at each place."""
        return self.read(self.blocks(self.embedding(x) + self.places, self.before, is_causal=True)).transpose(1, 2)


def _block(one: int, other: int, size: int = 3, stride: int = 2) -> list[nn.Module]:
    return [nn.Conv2d(one, other, size, stride, size // 2), nn.ReLU()]


def _normalised(one: int, other: int) -> list[nn.Module]:
    return [nn.Conv2d(one, other, 3, 2, 1, bias=False), nn.BatchNorm2d(other), nn.ReLU()]


def normalised() -> nn.Module:
    """Return three convolutions with BatchNorm over handwritten digits."""
    return nn.Sequential(
        *_normalised(1, 8), *_normalised(8, 16), *_normalised(16, 32), nn.Flatten(), nn.Linear(32 * 16, 10)
    )


def plain() -> nn.Module:
    """Return two convolutions and two layers over handwritten digits."""
    dense = [nn.Linear(16 * 49, 64), nn.ReLU(), nn.Linear(64, 10)]
    return nn.Sequential(*_block(1, 8, 5), *_block(8, 16), nn.Flatten(), *dense)


def photographs() -> nn.Module:
    """Return three convolutions over photographs."""
    return nn.Sequential(*_block(3, 16), *_block(16, 32), *_block(32, 64), nn.Flatten(), nn.Linear(64 * 16, 10))


def residual() -> nn.Module:
    """Return three residual blocks over photographs of 16 x 16 pixels, moved about."""
    return nn.Sequential(
        Moved(),
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Residual(8, 8, 1),
        Residual(8, 16, 2),
        Residual(16, 32, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


DIGITS = images("mnist10k-mlp", 1, 60_000, subset=60_000)
CIFAR, CIFAR_16 = (images("cifar5k-convnet", apart, 50_000, subset=50_000) for apart in (1, 2))

WHOLE = {
    "MNIST, whole": Task(DIGITS, normalised, NESTEROV, CE, SGD5, 8, (48_000, 54_000), True, SIZES),
    "MNIST, whole, plain": Task(DIGITS, plain, ADAM, CE, ADAPTIVE4, 6, (48_000, 54_000), True, SIZES),
    "CIFAR, whole": Task(CIFAR, photographs, ADAMW, CE, ADAPTIVE4, 10, (40_000, 45_000), True, SIZES),
    "CIFAR, whole, momentum": Task(CIFAR, photographs, MOMENTUM, CE, SGD4, 10, (40_000, 45_000), True, SIZES[1:]),
    "CIFAR, whole, residual": Task(CIFAR_16, residual, NESTEROV, CE, SGD4, 10, (40_000, 45_000), True, SIZES[1:]),
    "lines, attention": Task(lines, Speaker, ADAMW, CE, ADAPTIVE4, 10, (20_000, 22_000), True, SIZES[1:]),
}

"""Binarised convolutions for visual inspection, learned by straight-through estimators, while the controller steers.

    python examples/binary_convolutions.py

Simons and Lee (Electronics 10(13):1511, 2021) build the kernels of a binarised network out of two-tap filters, sums
(1, 1) and differences (1, -1) along rows and columns, so that it learns the kernels of classic vision (Gaussian, Sobel)
with less hardware. Shown: such a layer, 4 binary weights for a 3 x 3 kernel, binary activations with a custom
gradient, and a made-up inspection task: discs that are whole, cracked or chipped.

The lines that autobatch adds are marked `# autobatch`.
"""

import logging
import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import autobatch  # autobatch

KINDS, PIXELS = ("whole", "cracked", "chipped"), 16  # two or all of these kinds; at least 8 pixels
SIZES, EPOCHS = (16, 32, 64, 128), 8


class Sign(torch.autograd.Function):
    """1 or -1; backwards the identity where the value is within [-1, 1] (Courbariaux et al. 2016)."""

    @staticmethod
    def forward(context, x: Tensor) -> Tensor:
        context.save_for_backward(x)
        return torch.where(x >= 0, 1, -1).to(x)

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        return gradient * (context.saved_tensors[0].abs() <= 1)


autobatch.register_keeping(Sign)  # autobatch: a custom function may mix samples, and this one does not


class JetConv2d(nn.Module):
    """A convolution with kernels (1, a) * (1, b) along rows and (1, c) * (1, d) along columns; a to d are signs."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.taps = nn.Parameter(torch.empty(4, filters, channels).uniform_(-1, 1))

    def kernels(self) -> Tensor:
        a, b, c, d = Sign.apply(self.taps)
        row, column = (torch.stack([torch.ones_like(p), p + q, p * q], dim=-1) for p, q in ((a, b), (c, d)))
        return column[..., :, None] * row[..., None, :]

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernels(), padding=1)


class Inspector(nn.Module):
    """Two jet layers, each normalised and binarised, and a linear one."""

    def __init__(self, filters: int = 8) -> None:
        super().__init__()
        self.jets = nn.ModuleList([JetConv2d(1, filters), JetConv2d(filters, 2 * filters)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(filters), nn.BatchNorm2d(2 * filters)])
        self.head = nn.Linear(2 * filters * (PIXELS // 4) ** 2, len(KINDS))

    def forward(self, x: Tensor) -> Tensor:
        for jet, norm in zip(self.jets, self.norms, strict=True):
            x = F.max_pool2d(Sign.apply(norm(jet(x))), 2)
        return self.head(x.flatten(1))


def discs(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Make images (count, 1, PIXELS, PIXELS) of discs, and their kinds (count,)."""

    def drawn(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, generator=generator)

    kinds, unit = torch.randint(len(KINDS), (count,), generator=generator), PIXELS / 16
    y, x = torch.meshgrid(torch.arange(PIXELS) / unit, torch.arange(PIXELS) / unit, indexing="ij")
    x, y, angle, radius = x - drawn(7, 8), y - drawn(7, 8), drawn(0, 6.3), drawn(5, 7)
    along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    disc, crack = x**2 + y**2 < radius**2, (across - drawn(-2, 2)).abs() < 0.8
    cuts = {"whole": torch.zeros_like(disc), "cracked": crack, "chipped": along > radius * drawn(0.3, 0.6)}
    cut = torch.stack([cuts[kind] for kind in KINDS])[kinds, torch.arange(count)]
    images = (disc & ~cut) * drawn(0.7, 1) + 0.1 * torch.randn(count, PIXELS, PIXELS, generator=generator)
    return images[:, None], kinds


def main() -> Inspector:
    """Train the inspector and count what it gets wrong."""
    if PIXELS < 8 or not 1 < len({*KINDS} & {"whole", "cracked", "chipped"}) == len(KINDS):
        raise SystemExit(f"expected PIXELS of at least 8 and two KINDS of those known, got {PIXELS} and {KINDS}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    train, (images, kinds), model = TensorDataset(*discs(2000, generator)), discs(500, generator), Inspector()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    controller = autobatch.AutoBatchController(  # autobatch
        model, optimizer, policy="norm-test", rates="steered", batch_sizes=SIZES, dataset_size=len(train), epochs=EPOCHS
    )
    loader = DataLoader(train, batch_sampler=controller.batch_sampler)  # autobatch
    for epoch in controller.each_epoch():  # autobatch
        for x, y in loader:
            with controller.step() as step:  # autobatch
                loss = F.cross_entropy(model(x), y)
                step.backward(loss)  # autobatch
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            wrong = (model.eval()(images).argmax(1) != kinds).float().mean().item()
        model.train()
        controller.end_epoch(val_error=wrong)  # autobatch
        print(f"epoch {epoch + 1}: error {100 * wrong:.1f} %; C̄ {controller.c_bar:.1f}")
    return model


if __name__ == "__main__":
    sys.exit(__doc__) if sys.argv[1:] else main()

"""Nuclei in microscopy, detected by a fully convolutional regression network, while the controller steers.

    python examples/nucleus_detection.py

Xing et al. (BMC Bioinformatics 20:472, 2019) regress, pixel to pixel, a map that is high near the centre of a nucleus
and zero elsewhere, and take its local maxima for the nuclei, on images of 23 organs. Shown: such a map and network, a
loss that weighs the few pixels near a centre, and precision, recall and F1 of the centres found, on synthetic images.

The lines that autobatch adds are marked `# autobatch`.
"""

import logging
import sys

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import autobatch  # autobatch

PIXELS, NUCLEI, RADIUS, EPOCHS = 32, 7, 3.0, 6  # even, of 16 at least; 9 at most, a field each; above 0


def drawn_centres(count: int, generator: torch.Generator) -> Tensor:
    """Put nuclei into some of nine fields, where they may touch, (count, NUCLEI, 2)."""
    fields, side = torch.rand(count, 9, generator=generator).argsort(1)[:, :NUCLEI], (PIXELS - 2) / 3
    middles = side * torch.stack([fields // 3, fields % 3], -1) + (side + 1) / 2
    return middles + side * (0.8 * torch.rand(count, NUCLEI, 2, generator=generator) - 0.4)


def images_of(centres: Tensor, generator: torch.Generator) -> Tensor:
    """Draw elliptic nuclei of any brightness on an uneven background with specks, (N, 1, PIXELS, PIXELS)."""
    count, nuclei, _ = centres.shape

    def drawn(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, 1, 1, generator=generator)

    y, x = torch.meshgrid(torch.arange(PIXELS), torch.arange(PIXELS), indexing="ij")
    y, x = y - centres[..., 0, None, None], x - centres[..., 1, None, None]
    angle = drawn(0, 3.2, count, nuclei)
    along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    distance = (along / drawn(2, 3.5, count, nuclei)) ** 2 + (across / drawn(1.5, 2.5, count, nuclei)) ** 2
    bright = (drawn(0.4, 1, count, nuclei) * torch.sigmoid(6 * (1 - distance))).amax(1)
    slope = drawn(-0.01, 0.01, count) * torch.arange(PIXELS) + drawn(0, 0.3, count)
    specks = torch.rand(count, PIXELS, PIXELS, generator=generator) < 0.01
    return (bright + slope + 0.7 * specks + 0.2 * torch.randn(bright.shape, generator=generator))[:, None]


def proximity(centres: Tensor) -> Tensor:
    """Return maps that fall from 1 at a centre to 0 at RADIUS, (N, 1, PIXELS, PIXELS)."""
    grid = torch.stack(torch.meshgrid(torch.arange(PIXELS), torch.arange(PIXELS), indexing="ij"), -1).float()
    distance = torch.cdist(grid.flatten(0, 1).expand(len(centres), -1, -1), centres).amin(2)
    return (1 - distance / RADIUS).clamp(min=0).view(-1, 1, PIXELS, PIXELS)


def network(width: int = 12) -> nn.Sequential:
    """Down, through a wide receptive field, and up again; a map of the input's size."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.GroupNorm(3, width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.GroupNorm(3, 2 * width), nn.ReLU(),
        nn.Conv2d(2 * width, 2 * width, 3, dilation=2, padding=2), nn.GroupNorm(3, 2 * width), nn.ReLU(),
        nn.ConvTranspose2d(2 * width, width, 2, stride=2), nn.ReLU(), nn.Conv2d(width, 1, 3, padding=1),
    )  # fmt: skip


def loss_of(maps: Tensor, targets: Tensor) -> Tensor:
    return ((1 + 4 * targets) * (maps - targets).square()).mean()


def detected(proximities: Tensor, threshold: float = 0.4) -> Tensor:
    """Return the local maxima of one map (1, PIXELS, PIXELS) above a threshold, (n, 2)."""
    peak = (F.max_pool2d(proximities, 5, stride=1, padding=2) == proximities) & (proximities > threshold)
    return peak[0].nonzero().float()


def scores(found: list[Tensor], true: Tensor) -> tuple[float, float, float]:
    """Return precision, recall and F1; a detection is right within RADIUS of a centre that is no other's."""
    right = 0
    for own, centres in zip(found, true, strict=True):
        distance = torch.cdist(own, centres)
        # As many matches as can be, and of those the nearest.
        pairs = linear_sum_assignment((distance > RADIUS).double().add(distance.clamp(max=RADIUS), alpha=1e-6).numpy())
        right += int((distance[pairs] <= RADIUS).sum())
    detections, nuclei = sum(map(len, found)), true.shape[0] * true.shape[1]
    return right / max(1, detections), right / nuclei, 2 * right / (detections + nuclei)


def main() -> nn.Sequential:
    """Train on synthetic images, and evaluate on others."""
    if PIXELS % 2 or PIXELS < 16 or not 1 <= NUCLEI <= 9 or RADIUS <= 0:
        raise SystemExit(f"got {PIXELS=}, {NUCLEI=}, {RADIUS=}: see their ranges beside them")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    centres = drawn_centres(500, generator := torch.Generator().manual_seed(0))
    images, maps = images_of(centres, generator), proximity(centres)
    train, model = TensorDataset(images[:400], maps[:400]), network()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    controller = autobatch.AutoBatchController(  # autobatch
        model, optimizer, policy="s8-to-32", rates="steered", batch_sizes=(8, 16, 32), dataset_size=400, epochs=EPOCHS
    )
    loader = DataLoader(train, batch_sampler=controller.batch_sampler)  # autobatch
    for epoch in controller.each_epoch():  # autobatch
        for x, targets in loader:
            with controller.step() as step:  # autobatch
                step.backward(loss_of(model(x), targets))  # autobatch
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            predicted = model(images[400:])
        p, r, f1 = scores([detected(each) for each in predicted], centres[400:])
        controller.end_epoch(val_loss=loss_of(predicted, maps[400:]).item())  # autobatch
        print(f"epoch {epoch + 1}: precision {p:.2f}, recall {r:.2f}, F1 {f1:.3f}; C̄ {controller.c_bar:.1f}")
    return model


if __name__ == "__main__":
    sys.exit(__doc__) if sys.argv[1:] else main()

"""Which projection of per-sample gradients is most exact at equal size, and how exact is that?

    python benchmarks/fisher/sketch.py              # a few minutes
    python benchmarks/fisher/sketch.py --seeds 4 --rows 256

J is that of a batch of 64 of scikit-learn's digits in float64: of an MLP and of a convolutional network with BatchNorm,
both trained a little. Each kind of projection S to k rows is drawn for several seeds, and F of SJ is held to F of J:

- ``stretches``: what ``FisherProbe(measure="sketched")`` does, a CountSketch whose columns go by stretches;
- ``count``: a CountSketch with a place for each column; ``sparse 4``: four places for each column;
- ``gaussian``: dense, the yardstick of the theory, and far too slow for real networks;
- ``tensor``: TensorSketch, places and signs as sums and products of those of a weight's two dimensions, which a linear
  layer could have without J being made; ``factors``: a product of random signs of the two dimensions for each of the k.

Columns: root mean square of the relative errors of the trace and of the largest eigenvalue; mean and standard deviation
of the condition number's; the smallest and largest factor of a singular value; the squared error of F over its bound
((trace F)^2 + |F|^2) / k; and seconds a projection.
"""

import math
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from autobatch.fisher import FisherProbe, Jacobian
from autobatch.fisher.gram._sketch import _Stretches
from benchmarks.pages import parser_of

BATCH = 64
Project = Callable[[Tensor, int, torch.Generator], Tensor]


class ConvNet(nn.Module):
    """Three convolutions with BatchNorm, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((1, 16, 1), (16, 32, 2), (32, 32, 1)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 64) to logits."""
        return self.layers(x.view(-1, 1, 8, 8))


def multilayer() -> nn.Module:
    """64-128-128-10."""
    return nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )  # fmt: skip


MODELS = {"mlp, trained": (multilayer, 300), "convnet, trained": (ConvNet, 100)}


def signs(generator: torch.Generator, *shape: int) -> Tensor:
    """Return random signs, float64."""
    return torch.randint(2, shape, generator=generator).double() * 2.0 - 1.0


def gaussian(rows: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Multiply by independent normal numbers."""
    flat = rows.flatten(1)
    drawn = torch.randn(flat.shape[1], size, generator=generator, dtype=torch.float64)
    return flat @ drawn / math.sqrt(size)


def sparse(places: int) -> Project:
    """Send each column to so many random places, with random signs."""

    def project(rows: Tensor, size: int, generator: torch.Generator) -> Tensor:
        flat = rows.flatten(1)
        out = flat.new_zeros(len(flat), size)
        for _ in range(places):
            where = torch.randint(size, (flat.shape[1],), generator=generator)
            out.index_add_(1, where, flat * signs(generator, flat.shape[1]))
        return out / math.sqrt(places)

    return project


def stretches(rows: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """What the library does."""
    out = rows.new_zeros(len(rows), size)
    seed = int(torch.randint(2**31, (), generator=generator))
    _Stretches(rows.shape[1], rows.shape[2], size, str(seed)).project(rows.flatten(1), 0, out)
    return out


def tensor(rows: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """TensorSketch of a weight's two dimensions."""
    _, high, wide = rows.shape
    where = torch.randint(size, (high, 1), generator=generator) + torch.randint(size, (1, wide), generator=generator)
    signed = rows * (signs(generator, high, 1) * signs(generator, 1, wide))
    return rows.new_zeros(len(rows), size).index_add_(1, (where % size).flatten(), signed.flatten(1))


def factors(rows: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """A product of signs of a weight's two dimensions for each row of the sketch."""
    left, right = (signs(generator, length, size) for length in rows.shape[1:])
    return ((rows @ right) * left).sum(1) / math.sqrt(size)


KINDS: dict[str, Project] = {
    "stretches": stretches,
    "count": sparse(1),
    "sparse 4": sparse(4),
    "gaussian": gaussian,
    "tensor": tensor,
    "factors": factors,
}


def per_sample_gradients(model: nn.Module, steps: int) -> list[Tensor]:
    """Train for so many steps; return each parameter's J of a batch, (B, rows, width)."""
    x, y = (torch.tensor(part) for part in load_digits(return_X_y=True))
    x = x.double() / 16.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randint(len(x), (64,), generator=generator)
        F.cross_entropy(model(x[chosen]), y[chosen]).backward()
        optimizer.step()
        optimizer.zero_grad()
    found: list[Tensor] = []

    def take(_: str, uses: list[Jacobian]) -> None:
        use = uses[0]
        found.append(use.block(0, use.rows).view(BATCH, use.rows, use.width).clone())

    probe = FisherProbe(model, loss_reduction="sum")
    probe.taker = take
    with probe:
        F.cross_entropy(model(x[:BATCH]), y[:BATCH], reduction="sum").backward()
    return found


def root_mean_square(values: Tensor) -> float:
    """Return the root of the mean of squares."""
    return float(values.square().mean().sqrt())


def main() -> None:
    """Print one table for each network."""
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--rows", type=int, nargs="+", default=[128, 256, 1024])
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name, (make, steps) in MODELS.items():
        torch.manual_seed(0)
        jacobians = per_sample_gradients(make().double(), steps)
        rows = torch.cat([each.flatten(1) for each in jacobians], 1)
        gram = rows @ rows.T
        exact = torch.linalg.eigvalsh(gram)
        trace = float(gram.trace())
        largest, rank = float(exact[-1]), int((exact > exact[-1] * BATCH * torch.finfo(torch.float64).eps).sum())
        smallest = BATCH - rank
        c = math.sqrt(largest / exact[smallest])
        print(f"\n{name}: {rows.shape[1]} parameters, c {c:.4g}, trace / lambda_max {trace / largest:.2f}, rank {rank}")
        print("| k | kind | trace | lambda max | c, mean | c, sd | factors of singular values | F^2 / bound | s |")
        print("|---|---|---|---|---|---|---|---|---|")
        for size in given.rows:
            bound = (trace**2 + float(gram.square().sum())) / size
            for kind, project in KINDS.items():
                start = time.perf_counter()
                errors = []
                spread: list[Tensor] = []
                for seed in range(given.seeds):
                    generator = torch.Generator().manual_seed(seed)
                    sketch = sum((project(each, size, generator) for each in jacobians), torch.zeros(()))
                    found = sketch @ sketch.T
                    values = torch.linalg.eigvalsh(found)
                    spread.append((values[smallest:] / exact[smallest:]).sqrt())
                    errors.append([
                        float(found.trace()) / trace - 1.0,
                        float(values[-1]) / largest - 1.0,
                        math.sqrt(values[-1] / values[smallest]) / c - 1.0,
                        float((found - gram).square().sum()) / bound,
                    ])
                seconds = (time.perf_counter() - start) / given.seeds
                table, factor = torch.tensor(errors), torch.stack(spread)
                print(
                    f"| {size} | {kind} | {root_mean_square(table[:, 0]):.3f} | {root_mean_square(table[:, 1]):.3f} |"
                    f" {table[:, 2].mean():+.3f} | {table[:, 2].std():.3f} | {factor.min():.2f} to {factor.max():.2f} |"
                    f" {table[:, 3].mean():.2f} | {seconds:.3f} |"
                )


if __name__ == "__main__":
    main()

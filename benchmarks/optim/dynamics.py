"""Natural gradients held against theory: the outputs of wide networks in training, step by step.

    python benchmarks/optim/dynamics.py run                      # what the results do not hold yet, then the table
    python benchmarks/optim/dynamics.py golden --data-dir DIR    # the published run on MNIST's zeros and ones
    python benchmarks/optim/dynamics.py draw docs/images/optim_dynamics.png

Karakida and Osawa (2020, arXiv 2010.00879): on the training data of a wide network of one output, natural gradient
descent without damping goes as f_t = f_0 + (1 - (1 - α lr)ᵗ) (y - f_0), with the α of ``autobatch.optim.isotropy`` for
the exact Fisher matrix and for each approximation. Shown is the norm of measured less predicted over that of y - f_0,
the largest of three steps with α lr = 1/2 (0.1 for units, whose steps are least linear), the mean over draws of network
and samples. Networks have ReLUs, weights of variance 2 / M and no bias; 8 samples of 64 inputs and norm √64; float64.

On new data exact natural gradients give f_t(x') = f_0(x') + (1 - (1 - lr)ᵗ) Θ(x', X) Θ(X, X)⁻¹ (y - f_0), with the
neural tangent kernel Θ, here that of infinite width. The golden run has the published one's three layers, width 4,096,
100 images and rate 1; that its images have norm 1 is inferred from the losses of its beginning.
"""

import gzip
import json
import math
import statistics
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from autobatch.optim import NaturalGradient, isotropy
from benchmarks import pages

RESULTS = pages.RESULTS / "optim" / "dynamics.json"

WIDTHS = (64, 128, 256, 512, 1024, 2048)
DRAWS = 3
SAMPLES, INPUTS = 8, 64
PACE = {"unit": 0.1}
"""α lr, where it is not a half."""
CASES = (
    *(("exact", 3), ("layer", 3), ("tridiagonal", 3), ("kfac", 3), ("unit", 3)),
    *(("layer", 4), ("tridiagonal", 4), ("kfac", 4)),
)
"""Approximation and layers."""

Approximation = Literal["exact", "layer", "tridiagonal", "kfac", "unit"]


def network(width: int, layers: int, inputs: int, seed: int) -> nn.Sequential:
    """Return a network of ReLUs with one output at its random initialisation, in float64."""
    generator = torch.Generator().manual_seed(seed)
    parts: list[nn.Module] = []
    for layer in range(layers):
        size = inputs if layer == 0 else width
        linear = nn.Linear(size, 1 if layer == layers - 1 else width, bias=False, dtype=torch.float64)
        with torch.no_grad():
            linear.weight.normal_(0.0, math.sqrt(2.0 / size), generator=generator)
        parts += [linear] if layer == layers - 1 else [linear, nn.ReLU()]
    return nn.Sequential(*parts)


def examples(count: int, inputs: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return inputs of norm √inputs in directions at random, and targets of 1/2 or -1/2."""
    generator = torch.Generator().manual_seed(1000 + seed)
    drawn = torch.randn(count, inputs, generator=generator, dtype=torch.float64)
    signs = torch.randint(2, (count, 1), generator=generator).double() - 0.5
    return drawn / drawn.norm(dim=1, keepdim=True) * math.sqrt(inputs), signs


def course(model: nn.Module, x: Tensor, y: Tensor, approximation: Approximation, lr: float, steps: int) -> list[Tensor]:
    """Return the outputs on the training data after 0, 1, ... steps."""
    optimizer = NaturalGradient(model.parameters(), model, lr=lr, approximation=approximation)
    outputs = [model(x).detach()]
    for _ in range(steps):
        optimizer.step(lambda: (found := model(x), 0.5 * (found - y).square().sum(1).mean()))
        outputs.append(model(x).detach())
    return outputs


def deviation(
    approximation: Approximation, layers: int, width: int, seed: int, *, samples: int = SAMPLES, inputs: int = INPUTS
) -> float:
    """Return how far the outputs of three steps are from theory at most, over the distance that they have to go."""
    model, (x, y) = network(width, layers, inputs, seed), examples(samples, inputs, seed)
    alpha, pace = isotropy(approximation, layers, samples=samples, width=width), PACE.get(approximation, 0.5)
    first, *others = course(model, x, y, approximation, pace / alpha, steps=3)
    expected = [first + (1.0 - (1.0 - pace) ** step) * (y - first) for step in range(1, 4)]
    far = [float((found - own).norm()) for found, own in zip(others, expected, strict=True)]
    return max(far) / float((y - first).norm())


def tangent_kernel(x: Tensor, other: Tensor, layers: int) -> Tensor:
    """Return the neural tangent kernel of infinitely wide networks of ReLUs, weights of variance 2 and no bias.

    Layer by layer: of pre-activations q along the diagonals and c q off them, of derivatives K, and Θ is the sum of
    products of what is before a layer and behind it.
    """
    sizes = [own.square().mean(1) for own in (x, other)]
    lengths = (sizes[0][:, None] * sizes[1]).sqrt()
    before = [x @ other.mT / x.shape[1]]
    slopes = []
    for _ in range(layers - 1):  # variance of weights 2 cancels the half that a ReLU lets pass: lengths stay
        cosine = (before[-1] / lengths).clamp(-1.0, 1.0)
        slopes.append((math.pi / 2 + cosine.asin()) / math.pi)
        before.append(
            lengths * ((1 - cosine.square()).sqrt() + cosine * math.pi / 2 + cosine * cosine.asin()) / math.pi
        )
    behind, total = torch.ones_like(lengths), torch.zeros_like(lengths)
    for layer in reversed(range(layers)):
        total += 2.0 * behind * before[layer]
        if layer:
            behind = behind * slopes[layer - 1]
    return total


def golden_run(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], *, width: int, seed: int) -> dict[str, Any]:
    """Return losses of three layers over two exact natural steps of rate 1, and theory's test loss of the first."""
    (x, y), (new, truth) = train, test
    model = network(width, 3, x.shape[1], seed)
    optimizer = NaturalGradient(model.parameters(), model)
    with torch.no_grad():
        first, first_new = model(x), model(new)
    kernels = tangent_kernel(new, x, 3), tangent_kernel(x, x, 3)
    expected = first_new + kernels[0] @ torch.linalg.solve(kernels[1], y - first)
    losses: dict[str, Any] = {"train": [], "test": [], "test_predicted": loss_of(expected, truth)}
    for step in range(3):
        with torch.no_grad():
            losses["train"].append(loss_of(model(x), y))
            losses["test"].append(loss_of(model(new), truth))
        if step < 2:
            optimizer.step(lambda: (found := model(x), 0.5 * (found - y).square().sum(1).mean()))
    return losses


def loss_of(outputs: Tensor, targets: Tensor) -> float:
    """Return half the mean square."""
    return 0.5 * float((outputs - targets).square().mean())


def zeros_and_ones(folder: Path, part: str, count: int) -> tuple[Tensor, Tensor]:
    """Return the first images of MNIST's zeros and ones, flat and of norm 1, with targets of -1/2 and 1/2."""
    found = []
    for kind, header in (("images-idx3-ubyte", 16), ("labels-idx1-ubyte", 8)):
        path = next(path for path in (folder / f"{part}-{kind}", folder / f"{part}-{kind}.gz") if path.exists())
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        found.append(torch.frombuffer(bytearray(content[header:]), dtype=torch.uint8))
    labels = found[1]
    chosen = (labels <= 1).nonzero()[:count, 0]
    images = found[0].view(len(labels), -1)[chosen].double()
    return images / images.norm(dim=1, keepdim=True), labels[chosen, None].double() - 0.5


def recorded() -> dict[str, Any]:
    """Return the results that are there."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {"deviations": {}, "golden": {}}


def write(found: dict[str, Any]) -> None:
    """Write the results."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def run() -> None:
    """Compute what is missing, and print the table."""
    found = recorded()
    for approximation, layers in CASES:
        for width in WIDTHS:
            key = f"{approximation}, {layers} layers, width {width}"
            if key not in found["deviations"]:
                draws = [deviation(approximation, layers, width, seed) for seed in range(DRAWS)]
                found["deviations"][key] = draws
                write(found)
    print(pages.heading(f"approximation | layers | α | {' | '.join(f'M = {width}' for width in WIDTHS)}"))
    for approximation, layers in CASES:
        alpha = isotropy(approximation, layers, samples=SAMPLES, width=WIDTHS[-1])
        told = f"M / 2 · {layers - 1} + 1" if approximation == "unit" else f"{alpha:g}"
        means = [
            statistics.mean(found["deviations"][f"{approximation}, {layers} layers, width {width}"]) for width in WIDTHS
        ]
        print(f"| {approximation} | {layers} | {told} | {' | '.join(f'{mean:.3f}' for mean in means)} |")


def golden(folder: Path) -> None:
    """Compute the published run, and print it."""
    found = recorded()
    folder = next(own for own in (folder / "MNIST" / "raw", folder) if own.is_dir())
    train, test = zeros_and_ones(folder, "train", 100), zeros_and_ones(folder, "t10k", 1000)
    for seed in range(DRAWS):
        if str(seed) not in found["golden"]:
            found["golden"][str(seed)] = golden_run(train, test, width=4096, seed=seed)
            write(found)
    for seed, losses in found["golden"].items():
        print(
            seed,
            {
                name: f"{value:.3g}" if isinstance(value, float) else [f"{one:.3g}" for one in value]
                for name, value in losses.items()
            },
        )


def draw(path: Path) -> None:
    """Draw the deviations over width."""
    from matplotlib.figure import Figure

    found = recorded()["deviations"]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for approximation, layers in CASES:
        means = [statistics.mean(found[f"{approximation}, {layers} layers, width {width}"]) for width in WIDTHS]
        axes.plot(WIDTHS, means, marker="o", ls="-" if layers == 3 else "--", label=f"{approximation}, {layers} layers")
    axes.plot(WIDTHS, [2.0 / math.sqrt(width) for width in WIDTHS], color="grey", lw=0.8, ls=":", label="∝ M^(-1/2)")
    axes.set(xscale="log", yscale="log", xlabel="width M", ylabel="|f - theory| / |y - f₀|")
    axes.legend(fontsize=7, ncols=2)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run what was asked for."""
    parser = pages.parser_of(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="compute what is missing, print the table")
    of_golden = commands.add_parser("golden", help="the published run on MNIST")
    of_golden.add_argument("--data-dir", type=Path, default=Path("data"), help="where MNIST lies")
    commands.add_parser("draw", help="draw the figure").add_argument("path", type=Path)
    asked = parser.parse_args()
    if asked.command == "run":
        run()
    elif asked.command == "golden":
        golden(asked.data_dir)
    else:
        draw(asked.path)


if __name__ == "__main__":
    main()

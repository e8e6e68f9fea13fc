"""The measure held against theory: the spectrum of wide networks' Fisher matrices at random initialisation.

    python benchmarks/fisher/theory.py            # the table
    python benchmarks/fisher/theory.py --draw docs/images/fisher_theory.png

Karakida, Akaho and Amari (arXiv 1806.01316 and 1910.05992) give the mean, the second moment and the maximum of the
eigenvalues of F = (1/N) Σ ∇f ∇fᵀ of a fully connected network, exact as its width M grows: with P parameters, C outputs
and N samples, m = κ₁ C / M, s = α ((N - 1) / N κ₂² + κ₁² / N) C and λ_max = α ((N - 1) / N κ₂ + κ₁ / N) M, where κ₁ and
κ₂ sum the layers' products of forward and backward overlaps of a sample with itself and of two samples, and α counts
parameters in M². For the Fisher matrix of a softmax over the outputs, with Q = diag(p) - p pᵀ, the mean is β₁ κ₁ / M,
the second moment α (β₂ (N - 1) / N κ₂² + β₃ κ₁² / N), with β₁ the mean of tr Q, β₂ of tr QQ' over pairs of samples and
β₃ of tr Q² over samples, and the maximum is no larger than √(α s) M. Here all layers are M wide, activations are ReLUs
with weights of variance 2 / M and no bias, and samples have norm √M, so κ₁ is L / (L - 1) and α is L - 1 for depth L.

F's nonzero eigenvalues are those of the Gram matrix of the per-sample gradients over N, which is what ``FisherProbe``
measures; an output is singled out by the loss that is it. Shown are measured over predicted, in float32, the mean over
draws of network and samples: the sum of the eigenvalues and of their squares for mean and second moment, and the
maximum, of a softmax over its bound.
"""

import math
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from autobatch.fisher import FisherProbe
from benchmarks.pages import heading, parser_of

WIDTHS = (64, 128, 256, 512, 1024, 2048)
IN_TABLE = (64, 512, 2048)
SAMPLES = 32
DRAWS = 5
CLASSES = 10


def network(width: int, depth: int, outputs: int, seed: int) -> nn.Module:
    """Return a network of ReLUs, all of whose layers but the last are ``width`` wide, at its random initialisation."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for layer in range(depth):
        last = layer == depth - 1
        linear = nn.Linear(width, outputs if last else width, bias=False)
        with torch.no_grad():
            linear.weight.normal_(0.0, math.sqrt(2.0 / width), generator=generator)
        layers += [linear] if last else [linear, nn.ReLU()]
    return nn.Sequential(*layers)


def samples(width: int, count: int, seed: int) -> Tensor:
    """Return samples of norm √width, (count, width)."""
    drawn = torch.randn(count, width, generator=torch.Generator().manual_seed(10_000 + seed))
    return drawn * (math.sqrt(width) / drawn.norm(dim=1, keepdim=True))


def overlaps(depth: int) -> tuple[float, float]:
    """Return κ₁ and κ₂ of a network of ReLUs as wide everywhere, for samples that are orthogonal in the mean."""
    before, cosines = [0.0], []  # overlap of two samples' activations in front of each layer; those of pre-activations
    for _ in range(depth - 1):
        cosine = before[-1]  # over the square of a pre-activation, 2, as the overlap of pre-activations is 2 of this
        cosines.append(cosine)
        before.append((math.sqrt(1 - cosine**2) + cosine * math.pi / 2 + cosine * math.asin(cosine)) / math.pi)
    behind = [1.0]  # of the derivatives behind each layer, from the last one on
    for cosine in reversed(cosines):
        behind.append(behind[-1] * (math.pi / 2 + math.asin(cosine)) / math.pi)
    pairs = sum(back * front for back, front in zip(reversed(behind), before, strict=True))
    return depth / (depth - 1), pairs / (depth - 1)


def predicted(width: int, depth: int, outputs: int, count: int) -> dict[str, float]:
    """Return trace, sum of squares and maximum of F's eigenvalues as theory has them for linear outputs."""
    (own, pair), alpha = overlaps(depth), depth - 1
    return {
        "trace": alpha * own * outputs * width,
        "squares": (alpha * width) ** 2 * ((count - 1) / count * pair**2 + own**2 / count) * outputs,
        "largest": alpha * ((count - 1) / count * pair + own / count) * width,
    }


def measured(model: nn.Module, x: Tensor, outputs: int, *, softmax: bool = False) -> dict[str, float]:
    """Return the same of the measure; of the Fisher matrix of a softmax over the outputs where that is asked for."""
    probe = FisherProbe(model, loss_reduction="sum")
    which = torch.arange(outputs).repeat_interleave(len(x))
    with probe:
        found = model(x.repeat(outputs, 1))
        if softmax:
            logs = found.log_softmax(1).gather(1, which[:, None])
            loss = (logs * logs.detach().div(2.0).exp()).sum()
        else:
            loss = found.gather(1, which[:, None]).sum()
        loss.backward()
    gram = probe.gram().double() / len(x)
    return {
        "trace": float(gram.trace()),
        "squares": float(gram.square().sum()),
        "largest": float(torch.linalg.eigvalsh(gram)[-1]),
    }


def ratio(
    width: int, depth: int, outputs: int, seed: int, *, count: int = SAMPLES, softmax: bool = False
) -> dict[str, float]:
    """Return measured over predicted of one draw."""
    model, x = network(width, depth, outputs, seed), samples(width, count, seed)
    found = measured(model, x, outputs, softmax=softmax)
    expected = of_softmax(model, x, depth) if softmax else predicted(width, depth, outputs, count)
    return {name: found[name] / expected[name] for name in expected}


def of_softmax(model: nn.Module, x: Tensor, depth: int) -> dict[str, float]:
    """Return the same as ``predicted`` for a softmax over a network's outputs, of the maximum its bound."""
    with torch.no_grad():
        chances = model(x).double().softmax(1)
    matrices = chances.diag_embed() - chances[:, :, None] * chances[:, None, :]
    (own, pair), alpha, count, width = overlaps(depth), depth - 1, len(x), x.shape[1]
    products = torch.einsum("nij,mji->nm", matrices, matrices)
    alone, both = float(products.diagonal().sum()), float(products.sum())
    squares = (alpha * width / count) ** 2 * (pair**2 * (both - alone) + own**2 * alone)
    trace = alpha * own * width * float(matrices.diagonal(dim1=1, dim2=2).sum(1).mean())
    return {"trace": trace, "squares": squares, "largest": math.sqrt(squares)}


CASES: dict[str, Callable[[int, int], dict[str, float]]] = {
    "depth 3, one output": lambda width, seed: ratio(width, 3, 1, seed),
    "depth 5, one output": lambda width, seed: ratio(width, 5, 1, seed),
    "depth 8, one output": lambda width, seed: ratio(width, 8, 1, seed),
    "depth 3, one output, 8 samples": lambda width, seed: ratio(width, 3, 1, seed, count=8),
    "depth 3, one output, 128 samples": lambda width, seed: ratio(width, 3, 1, seed, count=128),
    "depth 3, 3 outputs": lambda width, seed: ratio(width, 3, 3, seed),
    "depth 3, softmax over 10": lambda width, seed: ratio(width, 3, CLASSES, seed, softmax=True),
    "depth 5, softmax over 10": lambda width, seed: ratio(width, 5, CLASSES, seed, softmax=True),
}


def main() -> None:
    """Print the table, and draw it."""
    parser = parser_of(__doc__)
    parser.add_argument("--draw", type=Path, help="a picture of it besides")
    asked = parser.parse_args()
    found = {
        (case, width): [of(width, seed) for seed in range(DRAWS)] for case, of in CASES.items() for width in WIDTHS
    }
    figures = {
        (case, name): [statistics.mean(draw[name] for draw in found[case, width]) for width in WIDTHS]
        for case in CASES
        for name in ("trace", "squares", "largest")
    }
    print(heading(f"network | of the eigenvalues | {' | '.join(f'M = {width}' for width in IN_TABLE)}"))
    for (case, name), ratios in figures.items():
        shown = [ratios[WIDTHS.index(width)] for width in IN_TABLE]
        print(f"| {case} | {name} | {' | '.join(f'{one:.3f}' for one in shown)} |")
    if asked.draw is not None:
        draw(figures, asked.draw)


def draw(figures: dict[tuple[str, str], list[float]], path: Path) -> None:
    """Draw measured over predicted over the width."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    titles = {"trace": "mean", "squares": "second moment", "largest": "maximum (softmax: over bound)"}
    for axes, (name, title) in zip(figure.subplots(1, 3, sharey=True), titles.items(), strict=True):
        for case in CASES:
            dashes = "--" if "softmax" in case else "-"
            axes.plot(WIDTHS, figures[case, name], marker="o", ms=3, lw=1, ls=dashes, label=case)
        axes.axhline(1.0, color="grey", lw=0.8, ls=":")
        axes.set(xscale="log", xlabel="width M", title=title)
        axes.set_xticks(WIDTHS, [str(width) for width in WIDTHS], minor=False)
        axes.tick_params(axis="x", which="minor", labelbottom=False)
    figure.axes[0].set_ylabel("measured / predicted")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()

"""Do C̄ and L say more of how a training ends if gradients are taken as their optimizer preconditions them?

    python benchmarks/optim/preconditioned.py run     # the trainings that the results do not hold yet
    python benchmarks/optim/preconditioned.py page    # write the table into docs/optimizers.md

An optimizer of step -lr P⁻¹ ∇L is plain descent in the coordinates P^(1/2) θ, in which the Gram matrix of single
samples' gradients is Jᵀ P⁻¹ J, with F's effective spectrum P^(-1/2) F P^(-1/2). Small perceptrons and a ResNet-8 on the
digits are trained for ten epochs (natural gradients: three) under each optimizer at three batch sizes and four rates,
with three seeds, rates that fall to 0 in a line, no augmentation and no weight decay. In the first tenth of the steps,
at most eight times, both matrices are taken of a batch before its step, with P as the step then has it; of steps that
K-FAC's clip shortens, L counts what is left.

Each measure then says how the configurations will end, by the logarithm of the final test loss: the losses as they are
after that tenth; the plane (log C̄, log L) by a Gaussian process on the *other* configurations' positions and ends of
all seeds; so does the configuration itself (log B, log lr), which needs nothing measured. The table has Spearman's
rank correlation within a seed and how far the pick's configuration ends above the best one (logarithm, mean of all
seeds' ends), means over the seeds. Diverged trainings end at guessing.
"""

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from torch import Tensor, nn

from autobatch import load_data, load_task
from autobatch.control.run._files import read_lines
from autobatch.fisher import Jacobian, SpectralPosition, TakenGradients, spectrum_of
from autobatch.optim import KFAC, MiniBlockFisher, NaturalGradient, observing
from autobatch.optim._mini_block import _direction
from autobatch.training.data import Data
from autobatch.training.models import build_model
from benchmarks import pages

RESULTS = pages.RESULTS / "optim" / "preconditioned.jsonl"
SIZES = (16, 64, 256)
SEEDS = (1, 2, 3)
EPOCHS = {"NaturalGradient": 3}
"""Where they are not 10."""
MEASURED = 8
RATES = {
    "SGD": (0.01, 0.03, 0.1, 0.3),
    "MiniBlockFisher": (3e-5, 1e-4, 3e-4, 1e-3),
    "KFAC": (1e-3, 3e-3, 1e-2, 3e-2),
    "NaturalGradient": (0.03, 0.1, 0.3, 1.0),
}
CASES = (
    *(("mlp", name) for name in RATES),
    *(("resnet8", name) for name in RATES if name != "NaturalGradient"),  # which takes no BatchNorm
)
EPS = float(torch.finfo(torch.float32).eps)
GUESSING = math.log(10)

Floats = NDArray[np.float64]


def network(name: str, seed: int) -> nn.Module:
    """Return a network with fresh weights."""
    if name == "mlp":
        return build_model("mlp", in_channels=1, image_size=8, seed=seed, hidden=[64, 64])
    return build_model("resnet", in_channels=1, depth=8, seed=seed)


def optimizer_of(name: str, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Return an optimizer at its defaults, but for a damping of natural gradients."""
    if name == "SGD":
        return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True)
    if name == "MiniBlockFisher":
        return MiniBlockFisher(model.parameters(), lr=lr)
    if name == "KFAC":
        return KFAC(model.parameters(), model, lr=lr)
    return NaturalGradient(model.parameters(), model, lr=lr, damping=0.1)


def rows_of(model: nn.Module, inputs: Tensor, scalars: Callable[[Tensor], list[Tensor]]) -> list[dict[str, Tensor]]:
    """Return for some scalars of the outputs every parameter's per-sample gradients, (B, ...); nothing else changes."""
    buffers = [own.clone() for own in model.buffers()]
    names = dict(model.named_parameters())
    found: list[dict[str, Tensor]] = []

    def take(name: str, uses: list[Jacobian]) -> None:
        found[-1][name] = sum(use.block(0, use.rows) for use in uses).view(len(inputs), *names[name].shape)  # type: ignore[union-attr]

    count = len(scalars(model(inputs)))
    for number in range(count):
        found.append({})
        with TakenGradients(model, take):
            torch.autograd.grad(scalars(model(inputs))[number], list(names.values()))
    for own, before in zip(model.buffers(), buffers, strict=True):
        own.copy_(before)
    return found


@torch.no_grad()
def preconditioned(optimizer: torch.optim.Optimizer, model: nn.Module, rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return per-sample gradients times P⁻¹ of a step-by-step optimizer."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = dict(rows)
    if isinstance(optimizer, MiniBlockFisher):
        for name, parameter in model.named_parameters():
            found[name] = torch.vmap(partial(_direction, optimizer.state[parameter]))(rows[name])
    elif isinstance(optimizer, KFAC):
        for layer in optimizer._layers.values():
            inputs, outputs = optimizer._factors(layer, optimizer.param_groups[0])
            own = [names[id(parameter)] for parameter in layer.parameters]
            joined = torch.cat([rows[name].flatten(2) if name is own[0] else rows[name][..., None] for name in own], 2)
            direction = inputs.apply(outputs.apply(joined).mT).mT
            parts = direction.split([rows[own[0]][0, 0].numel(), *([1] if len(own) > 1 else [])], 2)
            found |= {name: part.reshape(rows[name].shape) for name, part in zip(own, parts, strict=True)}
    return found


def flat(rows: dict[str, Tensor]) -> Tensor:
    """Return per-sample gradients as one matrix, (B, P) float64."""
    return torch.cat([own.flatten(1) for own in rows.values()], 1).double()


def natural_gram(model: nn.Module, inputs: Tensor, labels: Tensor, damping: float) -> Tensor:
    """Return Jᵀ (G + ρI)⁻¹ J of the exact natural gradient, U Θ (Θ / N + ρI)⁻¹ Uᵀ with Θ the outputs' Gram matrix."""
    outputs = torch.cat([flat(own) for own in rows_of(model, inputs, lambda found: list(found.sum(0)))])
    theta = outputs @ outputs.mT
    solved = torch.linalg.solve(theta / len(inputs) + damping * torch.eye(len(theta), dtype=theta.dtype), theta)
    with torch.no_grad():
        slopes = (model(inputs).softmax(1) - F.one_hot(labels, 10)).double()
    spread = torch.cat([torch.diag(own) for own in slopes.mT], 1)
    return spread @ solved @ spread.mT


class Course:
    """Positions of one training, of gradients as they are and as they are preconditioned."""

    def __init__(self) -> None:
        self.raw, self.own = SpectralPosition(), SpectralPosition()

    def add(self, raw: Tensor, own: Tensor, lr: float, clip: float | None, steps: int) -> None:
        """Add a measured step by both Gram matrices of the summed loss."""
        if not bool(torch.stack([raw, own]).isfinite().all()):
            return
        size = len(raw)
        pull = float(own.sum()) / size**2
        share = 1.0 if clip is None else min(1.0, math.sqrt(clip / max(lr**2 * pull, 1e-30)))
        for position, gram, rate in ((self.raw, raw, lr), (self.own, own, lr * share)):
            found = spectrum_of((gram + gram.mT) / 2, EPS)
            if math.isfinite(found.condition_number):
                position.add(found.condition_number, found.trace, size, rate, steps)


def step_of(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    course: Course | None,
    steps: int,
) -> None:
    """Take a step, measured where there is a course."""
    rows = None
    if course is not None:
        rows = rows_of(model, inputs, lambda outputs: [F.cross_entropy(outputs, labels, reduction="sum")])[0]
    lr = optimizer.param_groups[0]["lr"]
    own = None
    if isinstance(optimizer, NaturalGradient):
        if course is not None:
            own = natural_gram(model, inputs, labels, 0.1)
        optimizer.step(lambda: (outputs := model(inputs), F.cross_entropy(outputs, labels)))
    else:
        with observing(optimizer):
            F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    if course is not None and rows is not None:
        raw = flat(rows)
        if own is None:
            own = raw @ flat(preconditioned(optimizer, model, rows)).mT
        course.add(raw @ raw.mT, own, lr, optimizer.param_groups[0].get("clip"), steps)


@torch.no_grad()
def loss_of(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Return the loss in evaluation mode."""
    model.eval()
    loss = float(F.cross_entropy(model(inputs), labels))
    model.train()
    return loss


def trained(work: str, name: str, size: int, lr: float, seed: int, data: Data) -> dict[str, Any]:
    """Train, and return what was known after a tenth and how it ended."""
    model, generator = network(work, seed), torch.Generator().manual_seed(seed)
    optimizer, course = optimizer_of(name, model, lr), Course()
    parts = {
        part: (data.network_inputs(getattr(data, f"{part}_inputs")), getattr(data, f"{part}_labels"))
        for part in ("train", "validation", "test")
    }
    inputs, labels = parts["train"]
    per_epoch = len(inputs) // size
    total = per_epoch * EPOCHS.get(name, 10)
    early = -(-total // 10)
    every = -(-early // MEASURED)
    found: dict[str, Any] = {"work": work, "optimizer": name, "size": size, "lr": lr, "seed": seed}
    for step in range(total):
        if step % per_epoch == 0:
            order = torch.randperm(len(inputs), generator=generator)
        if step == early:
            for part in ("train", "validation"):
                found[f"{part}_loss"] = loss_of(model, *parts[part])
        for group in optimizer.param_groups:
            group["lr"] = lr * (1.0 - step / total)
        chosen = order[step % per_epoch * size : (step % per_epoch + 1) * size]
        measured = course if step < early and step % every == 0 else None
        steps = min(every, early - step) if measured else 0
        step_of(optimizer, model, inputs[chosen], labels[chosen], measured, steps)
    found |= {
        "c_raw": course.raw.c_bar,
        "l_raw": course.raw.l_cum,
        "c_own": course.own.c_bar,
        "l_own": course.own.l_cum,
    }
    return found | {"end": loss_of(model, *parts["test"])}


def run() -> None:
    """Train what is missing."""
    torch.set_num_threads(1)
    data = load_data(load_task(pages.ENVS / "digits-mlp"))
    done = pages.keyed(RESULTS, "work", "optimizer", "size", "lr", "seed")
    for work, name in CASES:
        for size, lr, seed in ((size, lr, seed) for size in SIZES for lr in RATES[name] for seed in SEEDS):
            if (work, name, size, lr, seed) not in done:
                row = trained(work, name, size, lr, seed, data)
                pages.keep(RESULTS, row)
                print(row, flush=True)


def log_of(value: float) -> float:
    """Return a loss or position as a bounded logarithm."""
    return float(np.clip(math.log(value), -20.0, 20.0)) if 0.0 < value < math.inf else 20.0


def left_out(rows: list[dict[str, Any]], features: tuple[str, str], ends: Floats) -> Floats:
    """Return what a Gaussian process on the other configurations says of each."""
    inputs = np.array([[log_of(row[name]) for name in features] for row in rows])
    inputs = (inputs - inputs.mean(0)) / inputs.std(0).clip(1e-9)
    configurations = [(row["size"], row["lr"]) for row in rows]
    said = np.empty(len(rows))
    kernel = ConstantKernel(1.0) * RBF([1.0, 1.0]) + WhiteKernel(0.1)
    for configuration in set(configurations):
        out = np.array([own == configuration for own in configurations])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0).fit(inputs[~out], ends[~out])
        said[out] = process.predict(inputs[out])
    return said


def figures(rows: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Return rank correlation and regret of every measure."""
    ends = np.array([min(log_of(row["end"]), math.log(GUESSING)) for row in rows])
    said = {
        "training loss": np.array([log_of(row["train_loss"]) for row in rows]),
        "validation loss": np.array([log_of(row["validation_loss"]) for row in rows]),
        "size and rate": left_out(rows, ("size", "lr"), ends),
        "plane, as measured": left_out(rows, ("c_raw", "l_raw"), ends),
        "plane, preconditioned": left_out(rows, ("c_own", "l_own"), ends),
    }
    found = {}
    for measure, values in said.items():
        ranks, lost = [], []
        for seed in SEEDS:
            own = np.array([row["seed"] == seed for row in rows])
            ranks.append(float(spearmanr(values[own], ends[own]).statistic))
            of = [(row["size"], row["lr"]) for row in rows]
            means = {
                one: float(np.mean([end for end, other in zip(ends, of, strict=True) if other == one])) for one in of
            }
            pick = [one for one, mine in zip(of, own, strict=True) if mine][int(np.argmin(values[own]))]
            lost.append(means[pick] - min(means.values()))
        found[measure] = float(np.mean(ranks)), float(np.mean(lost))
    return found


def write_page() -> None:
    """Write the table into the page."""
    rows = read_lines(RESULTS)
    of = {
        case: figures(own)
        for case in CASES
        if (own := [row for row in rows if (row["work"], row["optimizer"]) == case])
    }
    measures = list(next(iter(of.values())))
    table = ["", pages.heading(" | ".join(["network, optimizer", *measures]))]
    for (work, name), found in of.items():
        table.append(f"| {work}, {name} | {' | '.join(f'{rank:.2f}, {lost:.2f}' for rank, lost in found.values())} |")
    means = [np.mean([found[measure] for found in of.values()], axis=0) for measure in measures]
    table.append(f"| mean | {' | '.join(f'{rank:.2f}, {lost:.2f}' for rank, lost in means)} |")
    page = pages.ROOT / "docs" / "optimizers.md"
    pages.replace_between(page, "benchmarks/optim/preconditioned.py", "\n".join([*table, ""]))


def main() -> None:
    """Do what was asked for."""
    parser = pages.parser_of(__doc__)
    parser.add_argument("command", choices=["run", "page"])
    (run if parser.parse_args().command == "run" else write_page)()


if __name__ == "__main__":
    main()

"""Does anything of the Gram matrix say which learning rate ends lowest, beside a scout's losses?

    python benchmarks/steering/gram_figures.py run [--data-dir DIR] [TASK ...]
    python benchmarks/steering/gram_figures.py page

``run`` trains scouts of the tasks of ``loops.py`` at each of their rates and at the size that ``steer`` scouts with,
two seeds each, one thread: a twentieth of the training, up to a tenth until it has 60 steps. ``MEASURED`` steps of
each, spread evenly, are measured. It appends a line a scout to ``benchmarks/results/steer_gram_figures.jsonl``, in ten
minutes.

What the rates end at is known from ``small_scouts.py`` and ``large_scouts.py``, which train them by the plan of
``steer``, else from the grids of ``loops.py`` at that size. ``page`` chooses the rate with the lowest foretold end, by
ridge regression on logarithms, each less its mean over the rates of a scouting, fitted to all tasks but the one that is
chosen for; and writes how far above the best rate that ends into ``docs/concepts/steer.md``.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.ensemble import ExtraTreesRegressor

from autobatch import FisherProbe, MeasureError
from autobatch.fisher._moments import GradientMoments
from autobatch.policies.steer._search import STEPS, nearest_size
from benchmarks import pages
from benchmarks.pages import Row
from benchmarks.steering import large_scouts, loops, small_scouts
from benchmarks.steering.loop_tasks import Task
from benchmarks.steering.loops import logarithm

RESULTS = pages.RESULTS / "steer_gram_figures.jsonl"
SHARE, MOST = 0.05, 0.1
MEASURED = 16
SEEDS = {True: (30, 31), False: (0, 1)}
"""Seeds by whether a task is small."""
FIGURES = {
    "c_bar": "C̄",
    "l": "L, its growth a step",
    "c": "c of the latter half",
    "largest": "λmax / B",
    "sharpness": "η λmax / 2B",
    "top": "λmax / trace",
    "participation": "trace² / ‖F‖², effective rank",
    "entropy": "effective rank by entropy",
    "rank": "rank",
    "noise": "noise scale",
    "signal": "squared true gradient",
    "variance": "variance of a sample's gradient",
    "cosine": "cosine of the gradients of two halves",
    "median_norm": "median norm of a sample's gradient, over its mean",
    "largest_norm": "largest norm of a sample's gradient, over its mean",
}
"""What is taken from F, in logarithms but for the cosine; but for C̄ and L of the latter half of the measured steps."""
RIDGE, CAP = 1.0, 1.0
"""Of the regression; and where ends above the best rate's are cut, in logarithms, so that none decides alone."""


def scouted(task: Task, x: torch.Tensor, y: torch.Tensor, size: int, lr: float, seed: int) -> Row:
    """Train one scout; return its losses, and what the measured steps come to."""
    train, validation = task.ends
    torch.manual_seed(seed)
    model = task.model()
    optimizer = task.optimizer(model.parameters(), lr)
    probe = FisherProbe(model)
    generator = torch.Generator().manual_seed(seed)
    an_epoch = math.ceil(train / size)
    whole = task.epochs * an_epoch
    steps = round(max(SHARE * whole, min(STEPS, MOST * whole)))
    if steps > an_epoch:
        steps = round(steps / an_epoch) * an_epoch
    chosen = set(np.linspace(0, steps - 1, MEASURED).round().astype(int).tolist())
    losses: list[float] = []
    figures: list[dict[str, float]] = []
    order: list[torch.Tensor] = []
    for step in range(steps):
        if not order:
            order = list(torch.randperm(train, generator=generator).split(size))
        batch = order.pop(0)
        optimizer.zero_grad()
        if step in chosen and len(batch) == size:
            with probe:
                loss = task.loss(model(x[batch]), y[batch])
                loss.backward()
            figures.append(of_gram(probe))
        else:
            loss = task.loss(model(x[batch]), y[batch])
            loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            break
    last = losses[len(losses) // 2 :] if steps <= an_epoch else losses[-an_epoch:]
    found: Row = {
        "steps": steps,
        "train_loss": fmean(last),
        "validation_loss": loops.loss_of(model, x[train:validation], y[train:validation], task.loss),
    }
    found = {name: None if isinstance(one, float) and not math.isfinite(one) else one for name, one in found.items()}
    return {**found, "figures": folded(figures, lr)}


def of_gram(probe: FisherProbe) -> dict[str, float]:
    """Return figures of a measured step's Gram matrix, those that are finite."""
    gram, spectrum = probe.gram(), probe.spectrum()
    values, norms = np.clip(spectrum.eigenvalues, 0.0, None), gram.diagonal().numpy()
    moments, total = GradientMoments.of_gram(gram), spectrum.trace
    shares = values[values > 0.0] / total if total > 0.0 else np.ones(1)
    found = {
        "c": spectrum.condition_number,
        "trace": total,
        "rank": spectrum.rank,
        "largest": float(values[-1]) / spectrum.batch_size,
        "participation": 1.0 / float((shares**2).sum()),
        "entropy": math.exp(-float((shares * np.log(shares)).sum())),
        "variance": moments.variance,
        "signal": moments.squared_signal,
        "half_cosine": moments.half_cosine,
        "largest_norm": float(norms.max() / norms.mean()) if total > 0.0 else math.nan,
        "median_norm": float(np.median(norms) / norms.mean()) if total > 0.0 else math.nan,
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}


def folded(steps: Sequence[Mapping[str, float]], lr: float) -> dict[str, float] | None:
    """Return what a scout's measured steps come to, as ``FIGURES`` has it; None of fewer than half of them."""
    if len(steps) < MEASURED / 2:
        return None
    half = steps[len(steps) // 2 :]

    def mean(name: str) -> float:
        return fmean(math.log(max(step.get(name, 0.0), 1e-12)) for step in half)

    variance, signal = (fmean(step.get(name, 0.0) for step in half) for name in ("variance", "signal"))
    told = {
        "c_bar": math.log(fmean(step.get("c", 1.0) for step in steps)),
        "l": math.log(lr * fmean(math.sqrt(step["trace"]) for step in steps) + 1e-12),
        "c": mean("c"),
        "largest": mean("largest"),
        "sharpness": math.log(lr) + mean("largest"),
        "top": mean("largest") - mean("trace"),
        "participation": mean("participation"),
        "entropy": mean("entropy"),
        "rank": mean("rank"),
        "noise": math.log(max(variance, 1e-12) / max(signal, 1e-3 * variance, 1e-12)),
        "signal": math.log(max(signal, 1e-12)),
        "variance": math.log(max(variance, 1e-12)),
        "cosine": fmean(step.get("half_cosine", 0.0) for step in half),
        "median_norm": mean("median_norm"),
        "largest_norm": mean("largest_norm"),
    }
    return {name: float(f"{value:.5g}") for name, value in told.items()}


def run_all(tasks: Sequence[str], data_dir: Path | None) -> None:
    """Train what is missing of the tasks."""
    for name, task, x, y in loops.loaded(tasks, data_dir):
        there = recorded()
        size = nearest_size(task.sizes, task.epochs * task.ends[0])
        for seed in SEEDS[name in loops.SMALL]:
            for lr in task.rates:
                if (name, lr, seed) in there:
                    continue
                try:
                    row = scouted(task, x, y, size, lr, seed)
                except MeasureError as error:
                    print(name, lr, seed, error, flush=True)
                    row = {"steps": 0, "figures": None}
                pages.keep(RESULTS, {"task": name, "lr": lr, "seed": seed, "batch_size": size, **row})
        print(name, flush=True)


def recorded() -> dict[tuple[str, float, int], Row]:
    """Return the scouts that are there, by task, rate and seed."""
    return pages.keyed(RESULTS, "task", "lr", "seed")


Scouting = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Of each rate (n, figures): losses and what F says, in logarithms; and (n,) what it ends at."""


def scoutings() -> dict[tuple[str, int], Scouting]:
    """Return what is known of each task's rates, by task and seed."""
    found = recorded()
    ended: dict[tuple[str, float], list[float]] = defaultdict(list)
    for file in (small_scouts.RESULTS, large_scouts.RESULTS):
        for (name, lr, _), row in pages.keyed(file, "task", "lr", "seed").items():
            ended[name, lr].append(logarithm(row, "test_loss"))
    grid: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (name, run, _), row in loops.recorded().items():
        grid[name, run].append(logarithm(row, "test_loss") if "test_loss" in row else math.nan)
    known: dict[tuple[str, int], list[tuple[list[float], float]]] = defaultdict(list)
    for (name, lr, seed), row in found.items():
        ends = ended.get((name, lr)) or grid.get((name, f"s{row['batch_size']}-lr{lr:g}"))
        if row["figures"] and ends:
            losses = [logarithm(row, figure) for figure in ("train_loss", "validation_loss")]
            known[name, seed].append(([*losses, *(row["figures"][one] for one in FIGURES)], fmean(ends)))
    return {
        key: (np.array([figures for figures, _ in own]), np.array([end for _, end in own]))
        for key, own in known.items()
        if len(own) > 2
    }


def above(known: Mapping[tuple[str, int], Scouting], pick: Callable[[tuple[str, int]], int]) -> dict[str, float]:
    """Return how far above the best rate of a scouting the picked one ends, means over a task's."""
    apart: dict[str, list[float]] = defaultdict(list)
    for key, (_, ends) in known.items():
        apart[key[0]].append(float(ends[pick(key)] - ends.min()))
    return {name: fmean(each) for name, each in apart.items()}


def by_regression(
    known: Mapping[tuple[str, int], Scouting], columns: Sequence[int], model: Any = None
) -> dict[str, float]:
    """Return the same where the lowest foretold end is picked, by ridge regression or a model of scikit-learn's."""
    x = {key: (figures - figures.mean(0))[:, columns] for key, (figures, _) in known.items()}
    y = {key: (cut := np.minimum(ends - ends.min(), CAP)) - cut.mean() for key, (_, ends) in known.items()}
    scale = np.concatenate(list(x.values())).std(0) + 1e-9
    picks = {}
    for name in dict.fromkeys(name for name, _ in known):
        others, targets = (np.concatenate([one for key, one in each.items() if key[0] != name]) for each in (x, y))
        others = others / scale
        if model is None:
            weights = np.linalg.solve(others.T @ others + RIDGE * np.eye(len(columns)), others.T @ targets)
            foretold = {key: own / scale @ weights for key, own in x.items() if key[0] == name}
        else:
            model.fit(others, targets)
            foretold = {key: model.predict(own / scale) for key, own in x.items() if key[0] == name}
        picks |= {key: int(np.argmin(one)) for key, one in foretold.items()}
    return above(known, picks.__getitem__)


def page() -> None:
    """Write what each figure adds to the losses of scouts."""
    known = scoutings()
    alone = above(known, lambda key: int(np.argmin(known[key][0][:, 0])))
    titles = (
        "the rate is chosen by | rank correlation of the last with the end | above the best rate | less than by the"
    )
    lines = [pages.heading(f"{titles} training loss | better, worse on")]

    def row(told: str, own: dict[str, float], column: int | None) -> None:
        columns = [] if column is None else [(each[:, column], ends) for each, ends in known.values()]
        ranks = [spearmanr(one, ends)[0] for one, ends in columns if np.ptp(one) > 1e-9 < np.ptp(ends)]
        apart = np.array([alone[name] - own[name] for name in own])
        error = apart.std(ddof=1) / math.sqrt(len(apart))
        counts = f"{sum(apart > 0.005)}, {sum(apart < -0.005)}"
        told_apart = ["", ""] if own is alone else [f"{apart.mean():+.3f} ± {error:.3f}", counts]
        cells = [told, f"{fmean(ranks):.2f}" if ranks else "", f"{fmean(own.values()):.3f}", *told_apart]
        lines.append(f"| {' | '.join(cells)} |")

    row("training loss", alone, 0)
    row("validation loss", above(known, lambda key: int(np.argmin(known[key][0][:, 1]))), 1)
    row("both", by_regression(known, [0, 1]), None)
    for place, told in enumerate(FIGURES.values(), start=2):
        row(f"training loss and {told}", by_regression(known, [0, place]), place)
    every = list(range(2 + len(FIGURES)))
    row("all of these", by_regression(known, every), None)
    trees = ExtraTreesRegressor(100, min_samples_leaf=5, random_state=0)
    row("both losses, by trees", by_regression(known, [0, 1], trees), None)
    row("all of these, by trees", by_regression(known, every, trees), None)
    lines += ["", f"{len(alone)} tasks, {len(known)} scoutings of {min(len(ends) for _, ends in known.values())} to "
              f"{max(len(ends) for _, ends in known.values())} rates."]  # fmt: skip
    pages.put(
        pages.ROOT / "docs" / "concepts" / "steer.md", "benchmarks/steering/gram_figures.py page", "\n".join(lines)
    )


if __name__ == "__main__":
    pages.carry_out(__doc__, {"run": (run_all, loops.CHOSEN), "page": (page, {})})

"""Does anything of the Gram matrix say which learning rate ends lowest, beside a scout's loss?

    python benchmarks/steering/gram_figures.py run [--data-dir DIR] [TASK ...]
    python benchmarks/steering/gram_figures.py page

``run`` trains scouts of the tasks of ``loops.py`` at each of their rates and at the size that ``steer`` scouts with,
two seeds each, one thread: a twentieth of the training, up to a tenth until it has 60 steps. ``MEASURED`` steps of
each, spread evenly, are measured. It appends a line a scout to ``benchmarks/results/steer_gram_figures.jsonl``. What these
rates end at is known from ``small_scouts.py`` (the plan of ``steer``), and for many examples from the grids of
``loops.py``.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from autobatch import FisherProbe, MeasureError
from autobatch.fisher._moments import GradientMoments
from autobatch.policies.steer._search import STEPS, nearest_size
from benchmarks import pages
from benchmarks.pages import Row
from benchmarks.steering import loops
from benchmarks.steering.loop_tasks import Task

RESULTS = pages.RESULTS / "steer_gram_figures.jsonl"
SHARE, MOST = 0.05, 0.1
MEASURED = 16
SEEDS = {True: (30, 31), False: (0, 1)}
"""Seeds by whether a task is small."""


def scouted(task: Task, x: torch.Tensor, y: torch.Tensor, size: int, lr: float, seed: int) -> Row:
    """Train one scout; return its losses, and what the measured steps come to."""
    train, validation = task.ends
    torch.manual_seed(seed)
    model = task.model()
    optimizer = task.optimizer(model.parameters(), lr)
    probe = FisherProbe(model)
    generator = torch.Generator().manual_seed(seed)
    an_epoch = train // size + bool(train % size)
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
            figures.append({"step": step, **of_gram(probe)})
        else:
            loss = task.loss(model(x[batch]), y[batch])
            loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            break
    half = losses[len(losses) // 2 :] if steps <= an_epoch else losses[-an_epoch:]
    found = {
        "steps": steps,
        "first_loss": losses[0],
        "train_loss": float(np.mean(half)),
        "validation_loss": loops.loss_of(model, x[train:validation], y[train:validation], task.loss),
        "figures": figures,
    }
    return {
        name: value if not isinstance(value, float) or math.isfinite(value) else None for name, value in found.items()
    }


def of_gram(probe: FisherProbe) -> dict[str, float]:
    """Return figures of a measured step's Gram matrix."""
    gram = probe.gram()
    spectrum = probe.spectrum()
    values = np.clip(spectrum.eigenvalues, 0.0, None)
    total, batch_size = spectrum.trace, spectrum.batch_size
    moments = GradientMoments.of_gram(gram)
    norms = gram.diagonal().numpy()
    shares = values[values > 0.0] / total if total > 0.0 else np.ones(1)
    told = {
        "c": spectrum.condition_number,
        "trace": total,
        "rank": spectrum.rank,
        "largest": float(values[-1]) / batch_size,
        "participation": total**2 / float((values**2).sum()) if total > 0.0 else math.nan,
        "entropy": math.exp(-float((shares * np.log(shares)).sum())),
        "variance": moments.variance,
        "signal": moments.squared_signal,
        "mean_squared": moments.mean_squared_norm,
        "along": moments.variance_along,
        "half_cosine": moments.half_cosine,
        "largest_norm": float(norms.max() / norms.mean()) if norms.mean() > 0.0 else math.nan,
        "median_norm": float(np.median(norms) / norms.mean()) if norms.mean() > 0.0 else math.nan,
        "batch": batch_size,
    }
    return {name: float(f"{value:.6g}") for name, value in told.items() if math.isfinite(value)}


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
                    row = {"steps": 0, "figures": []}
                pages.keep(RESULTS, {"task": name, "lr": lr, "seed": seed, "batch_size": size, **row})
        print(name, flush=True)


def recorded() -> dict[tuple[str, float, int], Row]:
    """Return the scouts that are there, by task, rate and seed."""
    return pages.keyed(RESULTS, "task", "lr", "seed")


if __name__ == "__main__":
    pages.carry_out(__doc__, {"run": (run_all, loops.CHOSEN)})

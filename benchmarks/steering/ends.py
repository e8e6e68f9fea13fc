"""What the whole length would come to: what ``steer`` says when it ends at 0.7 of it, beside what it is.

    python benchmarks/steering/ends.py run [--data-dir DIR] [TASK ...]
    python benchmarks/steering/ends.py page

``run`` trains each of the small tasks of ``loops.py`` from where ``steer`` began most often there, by its plan to 0.7
and to the whole of the length, two seeds each, one thread, and appends one line a run to
``benchmarks/results/steer_ends.jsonl``. ``page`` sets what the validation losses until half of the length promise
beside what the whole length gave over 0.7 of it, there and on the recorded tasks of ``lengths.py``, whose curves
``overfit.py`` has, writes the table of ``docs/steer.md``, and prints what comes of it where losses rose at the end.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from autobatch.control.run._files import read_lines
from autobatch.policies._protocol import NOTHING_SEEN
from autobatch.policies.steer._ends import LOOK, RISEN, elasticity, lower_by
from autobatch.policies.steer._overfit import Validated
from autobatch.policies.steer._plan import Plan, grown
from autobatch.policies.steer._policy import SteerParameters
from benchmarks import pages
from benchmarks.steering import lengths, loops, overfit
from benchmarks.steering.loop_tasks import Task

RESULTS = pages.RESULTS / "steer_ends.jsonl"
SEEDS = (20, 21)
USUAL = float(SteerParameters().length)


def trained(task: Task, x: Tensor, y: Tensor, start: tuple[int, float], length: float, seed: int) -> pages.Row:
    """Train from a batch size and a rate by the plan of ``steer`` to a share of the task's length."""
    train, validation = task.ends
    size, lr = start
    torch.manual_seed(seed)
    model = task.model()
    optimizer = task.optimizer(model.parameters(), lr)
    plan, generator = Plan.of(task.epochs, length, SteerParameters().decay), torch.Generator().manual_seed(seed)
    losses: dict[str, list[float]] = {"train": [], "validation": []}
    for epoch in range(plan.end):
        chosen_size, factor = grown(size, plan.factor(epoch), task.sizes, None)
        for group in optimizer.param_groups:
            group["lr"] = lr * factor
        total = 0.0
        for chosen in torch.randperm(train, generator=generator).split(chosen_size):
            optimizer.zero_grad()
            loss = task.loss(model(x[chosen]), y[chosen])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(chosen)
        losses["train"].append(total / train)
        losses["validation"].append(loops.loss_of(model, x[train:validation], y[train:validation], task.loss))
        if not math.isfinite(total):
            break
    return {**loops.ends(task, model, x, y), **{f"{kind}_losses": one for kind, one in losses.items()}}


def run_all(tasks: Sequence[str], data_dir: Path | None) -> None:
    """Train what is missing of the tasks."""
    steered = loops.recorded()
    for name, task, x, y in loops.loaded(tasks, data_dir):
        began = Counter(tuple(steered[name, "steer", seed]["start"]) for seed in loops.FRESH).most_common(1)[0][0]
        there = recorded()
        for seed in SEEDS:
            for length in (USUAL, 1.0):
                if (name, length, seed) not in there:
                    row = {"task": name, "length": length, "seed": seed, "start": list(began)}
                    row |= trained(task, x, y, began, length, seed)
                    del row["train_losses"]
                    pages.keep(RESULTS, row)
                    print(name, length, seed, row["validation_loss"], flush=True)


def recorded() -> dict[tuple[str, float, int], pages.Row]:
    """Return the runs that are there, by task, length and seed."""
    return pages.keyed(RESULTS, "task", "length", "seed")


def promised(losses: Sequence[float], epochs: int) -> float | None:
    """Return the logarithm of the loss at the whole length over that at the usual one, as half of it promises."""
    until = round(LOOK * epochs)
    falls = elasticity(dict(enumerate(losses[:until], start=1)))
    return None if falls is None else math.log1p(-lower_by(falls, round(USUAL * epochs), epochs))


Pair = tuple[str, float, float, float]
"""A task; what is promised, and what came of it in validation and in test loss; logarithms."""


def small() -> list[Pair]:
    """Return the pairs of the small tasks, means over seeds; without those whose losses come to nothing."""
    found = recorded()
    pairs = []
    for name in dict.fromkeys(name for name, _, _ in found):
        epochs = loops.EVERY[name].epochs
        promises = [promised(found[name, USUAL, seed]["validation_losses"], epochs) for seed in SEEDS]
        came = [
            fmean(
                loops.logarithm(found[name, 1.0, seed], figure) - loops.logarithm(found[name, USUAL, seed], figure)
                for seed in SEEDS
            )
            for figure in ("validation_loss", "test_loss")
        ]
        told = [one for one in promises if one is not None]
        if told and any(came):
            pairs.append((name, fmean(told), came[0], came[1]))
    return pairs


def risen() -> tuple[int, list[tuple[float, float]]]:
    """Return how many small trainings promise anything, and of those whose losses rose at the end what came of it.

    Returns:
        Their number, and logarithms of what is promised and of what came in test loss.
    """
    found, told, pairs = recorded(), 0, []
    for name, seed in dict.fromkeys((name, seed) for name, _, seed in found):
        shorter, whole = (found[name, length, seed] for length in (USUAL, 1.0))
        losses = shorter["validation_losses"]
        promise, validated = promised(losses, loops.EVERY[name].epochs), Validated("validation_loss")
        if promise is None:
            continue
        told += 1
        for epoch, loss in enumerate(losses, start=1):
            validated.take(replace(NOTHING_SEEN, epoch=epoch, validation_loss=loss))
        if validated.risen > RISEN:
            pairs.append((promise, loops.logarithm(whole, "test_loss") - loops.logarithm(shorter, "test_loss")))
    return told, pairs


def larger() -> list[Pair]:
    """Return the pairs of the recorded tasks, which the law was not chosen on."""
    ends = lengths.recorded()
    pairs = []
    for name in dict.fromkeys(task for task, _, _ in ends):
        curves = [row for row in read_lines(overfit.CURVES) if row["task"] == name]
        told = [promised(row["validation_loss"], row["epochs"]) for row in curves]
        seeds = [seed for task, length, seed in ends if task == name and length == 1.0]
        came = [
            fmean(math.log(ends[name, 1.0, seed][figure] / ends[name, USUAL, seed][figure]) for seed in seeds)
            for figure in ("validation_loss", "test_loss")
        ]
        promises = [one for one in told if one is not None]
        if promises:
            pairs.append((name, fmean(promises), came[0], came[1]))
    return pairs


def page() -> None:
    """Write the table of ``docs/steer.md`` between its marks, and print it."""
    titles = "tasks | promised, mean | came, validation and test loss | rank correlation"
    lines = [pages.heading(f"{titles} | off by, and by the mean of the others")]
    for told, pairs in (("small ones", small()), ("recorded ones", larger())):
        table = np.array([pair[1:] for pair in pairs])
        ranks = [stats.spearmanr(table[:, 0], table[:, column]).statistic for column in (1, 2)]
        off = [np.abs(table[:, column] - table[:, 0]).mean() for column in (1, 2)]
        others = [(table[:, column].sum() - table[:, column]) / (len(table) - 1) for column in (1, 2)]
        naive = [np.abs(table[:, column] - others[column - 1]).mean() for column in (1, 2)]
        lines.append(
            f"| {len(pairs)} {told} | {pages.relative(table[:, 0].mean())} | {pages.relative(table[:, 1].mean())}, "
            f"{pages.relative(table[:, 2].mean())} | {ranks[0]:.2f}, {ranks[1]:.2f} | {off[0]:.3f}, {off[1]:.3f}; "
            f"{naive[0]:.3f}, {naive[1]:.3f} |"
        )
    pages.put(pages.ROOT / "docs" / "steer.md", "benchmarks/steering/ends.py page", "\n".join(lines))
    for name, *figures in sorted([*small(), *larger()], key=lambda pair: pair[1]):
        print(name, *(f"{figure:+.3f}" for figure in figures))
    number, pairs = risen()
    promises, came = (pages.relative(fmean(column)) for column in zip(*pairs, strict=True))
    print(f"risen at the end: {len(pairs)} of {number} trainings, promised {promises}, came {came} in test loss")


if __name__ == "__main__":
    pages.carry_out(__doc__, {"run": (run_all, loops.CHOSEN), "page": (page, {})})

"""Scouts and a steered rate where a training sees many examples: what it ends at, and how long it takes.

    python benchmarks/steering/loops.py run --data-dir DIR prices shuttle ...
    python benchmarks/steering/loop_rivals.py run --data-dir DIR prices shuttle ...
    python benchmarks/steering/large.py times [--data-dir DIR]
    python benchmarks/steering/large.py page

The fifteen tasks of ``large_tasks.py`` see 120,000 to 1,400,000 examples each, thirteen of them so many that scouts
take larger batches than 32; those of ``whole_tasks.py`` are whole data sets, convolutions and attention. What is
trained, and on which seeds, say ``loops.py`` (a grid of one seed) and ``loop_rivals.py``. ``times`` times a step of
each task at each batch size on one thread, the least of several medians, without a data loader and without a
controller; ``page`` writes the tables of ``docs/steer.md``. Times there are sums of these over all steps of a training
and of what it has thrown away; measuring is not in them.
"""

import math
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch

from autobatch.policies.steer._search import nearest_size
from benchmarks import pages
from benchmarks.learning.learned_growth import told_test
from benchmarks.pages import Row, relative
from benchmarks.steering import loops
from benchmarks.steering.large_tasks import LARGE
from benchmarks.steering.loops import AT_32, FRESH, LARGER, SEARCHED, UNLISTED, logarithm
from benchmarks.steering.whole_tasks import WHOLE

A_STEP = "a step"
"""The run that has the seconds of a step by batch size."""
ROUNDS, STEPS = 8, 25
RIVALS = (
    AT_32,
    "portfolio",
    "pick-after-i-epochs",
    "middle",
    "seesaw",
    "late-switch",
    "prodigy",
    "optuna-halving",
)
Found = dict[tuple[str, str, int], Row]


def times(data_dir: Path | None) -> None:
    """Time a step of each task at each batch size, where that has not been done."""
    for name, task, x, y in loops.loaded([*LARGE, *WHOLE], data_dir):
        if (name, A_STEP, 0) in loops.recorded():
            continue
        model = task.model()
        optimizer = task.optimizer(model.parameters(), min(task.rates))
        seconds = {}
        for size in task.sizes:
            rounds = []
            for _ in range(ROUNDS):
                taken = []
                for chosen in torch.randperm(task.ends[0])[: STEPS * size].split(size):
                    begun = time.perf_counter()
                    optimizer.zero_grad()
                    task.loss(model(x[chosen]), y[chosen]).backward()
                    optimizer.step()
                    taken.append(time.perf_counter() - begun)
                rounds.append(statistics.median(taken))
            seconds[size] = round(min(rounds), 7)
        row = {"task": name, "run": A_STEP, "seed": 0, "seconds": seconds}
        pages.keep(loops.RESULTS, row)
        print(row, flush=True)


def seconds_of(name: str, row: Row, found: Found) -> float:
    """Return what a training's steps take, s."""
    step = found[name, A_STEP, 0]["seconds"]
    if "batches" not in row:  # at one size
        return row["steps"] * step[row["run"].removeprefix("s").split("-")[0]]
    return math.fsum(count * step[size] for size, count in row["batches"].items())


def beside(name: str, run: str, found: Found, seeds: Sequence[int] = FRESH) -> list[float]:
    """Return validation and test loss, time and steps of a task's runs beside the best of its grid, as logarithms."""
    ours, best = ([found[name, one, seed] for seed in seeds] for one in (run, loops.best_of(name, found)))
    losses = [
        fmean(logarithm(row, figure) for row in ours) - fmean(logarithm(row, figure) for row in best)
        for figure in ("validation_loss", "test_loss")
    ]
    seconds = fmean(seconds_of(name, row, found) for row in ours) / seconds_of(name, best[0], found)
    return [*losses, math.log(seconds), math.log(fmean(row["steps"] for row in ours) / best[0]["steps"])]


def page() -> None:
    """Write the tables: a line a task, and what else can be had."""
    found, docs = loops.recorded(), pages.ROOT / "docs" / "steer.md"
    names, whole = _complete(LARGE, AT_32, found), _complete(WHOLE, LARGER, found)
    pages.put(docs, "benchmarks/steering/large.py page", _table(names, AT_32, "scouts at 32", found))
    told = _table(whole, LARGER, "with larger batches", found)
    pages.put(docs, "benchmarks/steering/large.py page: whole data sets", told)
    _put_rivals(names, found)


def _complete(tasks: Iterable[str], beside: str, found: Found) -> list[str]:
    """Return the tasks that all of the table is there of, in which another run stands beside ``steer``."""
    runs = [(run, FRESH[-1]) for run in ("steer", beside)] + [(A_STEP, 0)]
    return [name for name in tasks if all((name, *run) in found for run in runs)]


def _table(names: Sequence[str], other: str, called: str, found: Found) -> str:
    """Return a line a task, and the means of all; ``called`` is what the other run is beside ``steer``."""
    titles = (
        "task | examples of all epochs | best of the grid | test loss | `steer` starts with | test loss | time | steps"
    )
    lines = [pages.heading(f"{titles} | {called}: test loss | time | steps")]
    for name in names:
        best, task = loops.best_of(name, found), loops.EVERY[name]
        ours, theirs = ([found[name, run, seed] for seed in FRESH] for run in ("steer", best))
        ends = [[logarithm(row, "test_loss") for row in rows] for rows in (ours, theirs)]
        error = math.sqrt(sum(stdev(one) ** 2 / len(one) for one in ends))
        starts = ", ".join(dict.fromkeys(f"s{size}-lr{lr:g}" for size, lr in (row["start"] for row in ours)))
        _, test, seconds, steps = beside(name, "steer", found)
        _, other_test, other_seconds, other_steps = beside(name, other, found)
        lines.append(
            f"| {name} | {task.epochs * task.ends[0]:,} | `{best}` | {math.exp(fmean(ends[1])):.4g} | {starts} | "
            f"{relative(test)} ± {100 * error:.0f} | {math.exp(seconds):.2f} | {math.exp(steps):.2f} | "
            f"{relative(other_test)} | {math.exp(other_seconds):.2f} | {math.exp(other_steps):.2f} |"
        )
    for kind, fold in (("mean", np.mean), ("median", np.median), ("worst", np.max)):
        columns = np.hstack([[beside(name, run, found)[1:] for name in names] for run in ("steer", other)]).T
        told = [float(fold(column)) for column in columns]
        cells = [relative(one) if place % 3 == 0 else f"{math.exp(one):.2f}" for place, one in enumerate(told)]
        lines.append(f"| {kind} | | | | | {' | '.join(cells)} |")
    return "\n".join([*lines, *_told_unlisted(names, found)])


def _told_unlisted(names: Sequence[str], found: Found) -> list[str]:
    """Say what naming neither sizes nor rates comes to, on the tasks that it was tried on."""
    names = [name for name in names if all((name, UNLISTED, seed) in found for seed in FRESH)]
    if not names:
        return []
    losses, seconds = np.array([beside(name, UNLISTED, found)[1:3] for name in names]).T
    return [
        "",
        f"With neither sizes nor rates listed, on {len(names)} of them: test loss {relative(losses.mean())} in the "
        f"mean, {relative(float(np.median(losses)))} in the median, {relative(losses.max())} at worst, in "
        f"{math.exp(seconds.mean()):.2f} of the time.",
    ]


def _told_without_scouts(found: Found) -> str:
    """Say what the middle rate comes to without scouts, on the grid's own seed."""
    told = []
    for size in (32, 64, 128, None):
        figures = []
        for name, task in LARGE.items():
            own = size or nearest_size(task.sizes, task.epochs * task.ends[0])
            row, best = (
                found[name, run, SEARCHED[0]]
                for run in (f"s{own}-lr{task.rates[len(task.rates) // 2]:g}", loops.best_of(name, found))
            )
            loss = logarithm(row, "test_loss") - logarithm(best, "test_loss")
            figures.append((loss, math.log(seconds_of(name, row, found) / seconds_of(name, best, found))))
        losses, seconds = np.array(figures).T
        told.append(
            f"at {size or 'the size that `steer` starts with'} {relative(losses.mean())} (median "
            f"{relative(float(np.median(losses)))}) in {math.exp(seconds.mean()):.2f} of the time"
        )
    return (
        f"On the grid's own seed, all {len(LARGE)} tasks, the middle rate without scouts, under a cosine schedule "
        f"over the whole length, ends, beside the best of the grid, {'; '.join(told)}."
    )


def _put_rivals(names: list[str], found: Found) -> None:
    """Write what else can be had, over the tasks that have all of it."""
    names = [name for name in names if all((name, run, FRESH[0]) in found for run in RIVALS)]
    seeds = [seed for seed in FRESH if all((name, run, seed) in found for name in names for run in RIVALS)]
    figures = {run: np.array([beside(name, run, found, seeds)[1:] for name in names]) for run in ("steer", *RIVALS)}
    titles = "what is done | test loss, mean | median | time, mean | worst | steps | test loss of `steer` beside it"
    lines = [pages.heading(f"{titles} | its time")]
    for run, own in figures.items():
        losses, seconds, steps = own.T
        apart = figures["steer"] - own
        tests = ["", ""] if run == "steer" else [told_test(apart[:, 0]), f"{math.exp(apart[:, 1].mean()):.2f}"]
        cells = [
            f"`{run}`",
            relative(float(losses.mean())),
            relative(float(np.median(losses))),
            *(f"{math.exp(one):.2f}" for one in (seconds.mean(), seconds.max(), steps.mean())),
            *tests,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"{len(names)} tasks, {len(seeds)} seeds each.", "", _told_without_scouts(found)]
    pages.put(pages.ROOT / "docs" / "steer.md", "benchmarks/steering/large.py page: rivals", "\n".join(lines))


if __name__ == "__main__":
    pages.carry_out(__doc__, {"times": (times, pages.DATA_DIR), "page": (page, {})})

"""What forks scatter by, which the forks of the surrogate rest on: each made anew on four orders of the data.

    python benchmarks/steering/fork_scatter.py run TASK [--seeds 600-604] [--data-dir data]
    python benchmarks/steering/fork_scatter.py page

``run`` trains the courses of ``forks.py`` as far as their last fork, and makes each fork from its one state on four
orders. It appends a line a fork to ``benchmarks/results/forks/scatter.jsonl``; what is there is not trained again.
``page`` writes, as logarithms of ratios: what the surrogate predicts of a fork and what averaged weights said of it;
its scatter over seeds and orders, and over orders alone; the standard error that forks told; which share of them is
taken; and what growing for good came to at the end, as the surrogate predicts and as ``forks.py`` found. Then come the
coefficients of ``measured`` in ``autobatch/envs/steered/_forks.py``.
"""

import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autobatch.control.run._files import read_lines
from autobatch.envs.steered._forks import NOISE, measured
from autobatch.envs.surrogate._dynamics import Outcome, State
from autobatch.envs.surrogate._load import load_steered
from autobatch.policies.steer import no_worse
from autobatch.policies.steer._plan import Plan, grown
from autobatch.training._checkpoint import put_back, snapshot
from autobatch.training._engine import reproducible
from benchmarks import pages
from benchmarks.steering import forks
from benchmarks.steering.forks import SIZE, Course
from benchmarks.steering.schedules import arguments

RESULTS = forks.RESULTS / "scatter.jsonl"
RATES = forks.RATES | {"diamonds-mlp": 0.008}
ORDERS = 4
PAGE = pages.ROOT / "docs" / "concepts" / "surrogate.md"
TITLES = (
    "task | difference, predicted | measured | its scatter | by order alone | standard error | taken, predicted | "
    "measured | at the end, predicted | measured"
)


def wider(adaptive: bool) -> float:
    """Return what the rate is multiplied by with the larger batch."""
    return math.sqrt(2.0) if adaptive else 2.0


def train(name: str, seed: int, data_dir: Path | None) -> list[pages.Row]:
    """Return what each of a seed's forks says on each order."""
    lr, rows = RATES[name], []
    with reproducible(torch.device("cpu"), 1):
        course = Course(name, seed, data_dir)
        engine, faster = course.engine, lr * wider(course.task.optimizer.name != "sgd")
        first = max(1, round(0.05 * course.task.epochs))
        at = range(first, course.plan.decay_from, first)
        for epoch in range(max(at) + 1):
            before = snapshot(engine.model, engine.optimizer)
            said = []
            for order in range(ORDERS if epoch in at else 0):
                sides = []
                for size, rate in ((2 * SIZE, faster), (SIZE, lr)):
                    sides.append(course.epoch(epoch, size, rate, order))
                    put_back(before, engine.model, engine.optimizer, "a fork")
                (last, _), (averaged, error) = (relative(*both) for both in zip(*sides, strict=True))
                said.append((float(sides[1][1].mean()), last, averaged, error))
            course.epoch(epoch, SIZE, lr)
            if said:
                figures = zip(("losses", "last", "averaged", "errors"), map(list, zip(*said, strict=True)), strict=True)
                rows.append({"task": name, "seed": seed, "epoch": epoch, **dict(figures)})
    return rows


def relative(tried: torch.Tensor, kept: torch.Tensor) -> tuple[float, float]:
    """Return the mean difference of losses and its standard error over the examples, relative to those kept."""
    difference, loss = tried - kept, float(kept.mean())
    return float(difference.mean()) / loss, float(difference.std()) / math.sqrt(len(difference)) / loss


def run_all(task: str, seeds: Iterable[int], data_dir: Path | None) -> None:
    """Make the forks that are missing."""
    done = pages.keyed(RESULTS, "task", "seed")
    for seed in seeds:
        if (task, seed) not in done:
            for row in train(task, seed, data_dir):
                pages.keep(RESULTS, row)
                print(task, seed, row["epoch"], row["averaged"], row["errors"], flush=True)


class Predicted:
    """The courses of a task on the surrogate."""

    def __init__(self, name: str) -> None:
        self.dynamics = load_steered(name)
        self.plan = Plan.of(self.dynamics.epochs, 0.7, 0.75)
        self.slow, self.fast = RATES[name], RATES[name] * wider(self.dynamics.task.adaptive)

    def course(self, grows_at: int) -> tuple[list[float], list[float]]:
        """Return log validation loss and ``Outcome.scatter`` by epochs, where batches have doubled from an epoch on.

        Both are what the mean of the ensemble expects.
        """
        state, mean, none = self.dynamics.begin(1), np.array([-1]), np.zeros((1, self.dynamics.noise_size))
        losses, scatter = [], []
        for epoch in range(self.plan.end):
            state, outcome = self.epoch(state, epoch, epoch >= grows_at, mean, none)
            losses.append(float(state.seen[0, 0]))
            scatter.append(float(outcome.scatter[0]))
        return losses, scatter

    def taken(self, epochs: Iterable[int], count: int = 2000) -> float:
        """Return which share of forks at some epochs is taken, over members and noise."""
        generator, shares = np.random.default_rng(0), []
        state, member = self.dynamics.begin(count), generator.integers(self.dynamics.members, size=count)
        for epoch in range(max(epochs) + 1):
            noise = generator.standard_normal((count, self.dynamics.noise_size))
            kept, _ = self.epoch(state, epoch, False, member, noise)
            tried, outcome = self.epoch(state, epoch, True, member, noise)
            if epoch in epochs:
                ratio = np.exp(tried.seen[:, 0] - kept.seen[:, 0])
                change, error = measured(ratio, outcome.scatter, generator.standard_normal((count, NOISE)))
                shares.append(np.mean(no_worse(1.0, np.expm1(change), error)))
            state = kept
        return float(np.mean(shares))

    def epoch(self, state: State, epoch: int, grown_up: bool, member: Any, noise: Any) -> tuple[State, Outcome]:
        """Train an epoch of some trainings by the plan, with batches that have doubled or have not."""
        task, count = self.dynamics.task, len(member)
        assert task.costs is not None
        size, lr = (2 * SIZE, self.fast) if grown_up else (SIZE, self.slow)
        there, factor = grown(size, self.plan.factor(epoch), task.batch_sizes, task.costs)
        rung, rate, fall = task.batch_sizes.index(there), math.log2(lr), math.log2(factor)
        full = partial(np.full, count)
        return self.dynamics.train(state, full(rung), full(rate), member, noise, factor=full(fall))


def page() -> None:
    """Write the table into ``docs/concepts/surrogate.md``, and print it and the coefficients."""
    table = [pages.heading(TITLES)]
    logs: list[tuple[float, float]] = []
    widths: list[float] = []
    for name in RATES:
        rows = [row for row in read_lines(RESULTS) if row["task"] == name]
        predicted, epochs = Predicted(name), sorted({row["epoch"] for row in rows})
        stays, _ = predicted.course(predicted.plan.end)
        tried = {epoch: predicted.course(epoch) for epoch in epochs}
        said = np.log1p([[row["averaged"] for row in rows if row["epoch"] == epoch] for epoch in epochs])
        told = np.log([[row["errors"] for row in rows if row["epoch"] == epoch] for epoch in epochs])
        own = said.std(axis=(1, 2), ddof=1)  # of each epoch, over seeds and orders
        widths += (own / np.exp(told.mean(axis=(1, 2)))).tolist()
        logs += [
            (math.log(tried[epoch][1][epoch]), one)
            for epoch, some in zip(epochs, told, strict=True)
            for one in some.ravel().tolist()
        ]
        known = read_lines(forks.RESULTS / f"{name}.jsonl")
        came = f"{np.mean([math.log(row['doubled'][0] / row['stayed'][0]) for row in known]):+.3f}" if known else "-"
        cells = [
            f"{np.mean([tried[epoch][0][epoch] - stays[epoch] for epoch in epochs]):+.3f}",
            f"{said.mean():+.3f}",
            *(f"{math.sqrt(np.mean(some)):.3f}" for some in (own**2, said.var(axis=2, ddof=1))),
            f"{math.exp(told.mean()):.3f}",
            f"{predicted.taken(epochs):.2f}",
            f"{np.mean(no_worse(1.0, np.expm1(said), np.exp(told))):.2f}",
            f"{tried[epochs[0]][0][-1] - stays[-1]:+.3f}",
            came,
        ]
        table.append(f"| {name} | {' | '.join(cells)} |")
    pages.put(PAGE, "benchmarks/steering/fork_scatter.py page", "\n".join(table))
    scatter, error = np.array(logs).T
    power, constant = np.polyfit(scatter, error, 1)
    spread = (error - power * scatter - constant).std()
    print(f"error = {math.exp(constant):.2f} scatter^{power:.2f}, its logarithm ± {spread:.2f}")
    print(f"the difference scatters by {math.exp(np.mean(np.log(widths))):.1f} of them")


if __name__ == "__main__":
    pages.carry_out(__doc__, {"run": (run_all, arguments(RATES, "600-604")), "page": (page, {})})

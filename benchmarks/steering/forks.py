"""What a fork can tell: a larger batch from the state of now, by the last weights and by averaged ones.

    python benchmarks/steering/forks.py run TASK [--seeds 600-604] [--data-dir data]
    python benchmarks/steering/forks.py page

``run`` trains a shipped task by `steer`'s plan from 32 at a fixed rate, twice a seed: at 32, with a fork at some epochs
whose other epoch (64, the rate doubled) is looked at and thrown away; and gone over to 64 at the first of these epochs.
It appends a line a seed to ``benchmarks/results/forks/TASK.jsonl``; what is there is not trained again. ``page`` prints
what the forks said beside what came of growing at the end, as logarithms of ratios: mean and scatter over forks and
seeds, and the mean with its standard error over seeds.
"""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from autobatch.beacons import BeaconLibrary
from autobatch.control.run._files import read_lines
from autobatch.policies.steer._plan import Plan, grown
from autobatch.training import load_data, load_task
from autobatch.training._checkpoint import put_back, snapshot
from autobatch.training._engine import Engine, reproducible
from autobatch.training.running._forking import Average
from benchmarks import pages
from benchmarks.pages import ENVS
from benchmarks.steering.schedules import arguments, train_epoch

RESULTS = pages.RESULTS / "forks"
RATES = {"digits-resnet8": 0.05, "digits-mlp": 0.05, "digits-densenet8": 0.05, "mnist10k-mlp": 0.025}
SIZE = 32


class Course:
    """One training by the plan, epoch by epoch."""

    def __init__(self, name: str, seed: int, data_dir: Path | None) -> None:
        self.task = load_task(ENVS / name)
        costs = BeaconLibrary.load(ENVS / name).costs
        assert costs is not None
        self.costs = costs
        self.seed = seed
        self.plan = Plan.of(self.task.epochs, 0.7, 0.75)
        device = torch.device("cpu")
        self.engine = Engine(self.task, load_data(self.task, data_dir, device), device, seed, trust_code=False)

    def epoch(self, epoch: int, size: int, lr: float, order: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Train an epoch, on another order of the data where that is not 0.

        Return each validation example's loss, by the last weights and by averaged ones.
        """
        factor = self.plan.factor(epoch)
        grown_size, factor_there = grown(size, factor, self.task.batch_sizes, self.costs)
        average = Average(self.engine.model)
        train_epoch(self.engine, epoch, self.seed + 1000 * order, grown_size, lr * factor_there, average.after_step)
        last, state = self.engine.validation_losses(), snapshot(self.engine.model, self.engine.optimizer)
        average.install()
        averaged = self.engine.validation_losses()
        put_back(state, self.engine.model, self.engine.optimizer, "an epoch")
        return last, averaged


def train(name: str, seed: int, data_dir: Path | None) -> pages.Row:
    """Train a seed both ways and return what the forks said and what came of it."""
    lr = RATES[name]
    with reproducible(torch.device("cpu"), 1):
        course = Course(name, seed, data_dir)
        first = max(1, round(0.05 * course.task.epochs))
        forks = []
        for epoch in range(course.plan.end):
            tried = None
            if first <= epoch < course.plan.decay_from and (epoch - first) % first == 0:
                before = snapshot(course.engine.model, course.engine.optimizer)
                tried = course.epoch(epoch, 2 * SIZE, 2 * lr)
                put_back(before, course.engine.model, course.engine.optimizer, "a fork")
            kept = course.epoch(epoch, SIZE, lr)
            if tried is not None:
                forks.append([math.log(float(tried[way].mean() / kept[way].mean())) for way in (0, 1)])
        stayed = (*course.engine.validate(), *course.engine.test())
        course = Course(name, seed, data_dir)
        for epoch in range(course.plan.end):
            course.epoch(epoch, *((SIZE, lr) if epoch < first else (2 * SIZE, 2 * lr)))
        doubled = (*course.engine.validate(), *course.engine.test())
    return {"seed": seed, "forks": forks, "stayed": stayed, "doubled": doubled}


def run_all(task: str, seeds: Iterable[int], data_dir: Path | None) -> None:
    """Train what is missing."""
    path = RESULTS / f"{task}.jsonl"
    done = {one["seed"] for one in read_lines(path)}
    for seed in seeds:
        if seed not in done:
            row = train(task, seed, data_dir)
            pages.keep(path, row)
            print(f"{task} {seed}: {row['stayed'][0]:.4f} {row['doubled'][0]:.4f}", flush=True)


def page() -> None:
    """Print the table."""
    titles = "task | seeds | fork, last weights | fork, averaged weights | at the end: validation loss | test loss"
    print(pages.heading(titles))
    for name in RATES:
        rows = read_lines(RESULTS / f"{name}.jsonl")
        if rows:
            last, averaged = np.array([fork for row in rows for fork in row["forks"]]).T
            ends = [np.array([math.log(row["doubled"][at] / row["stayed"][at]) for row in rows]) for at in (0, 2)]
            said = [f"{one.mean():+.2f}, scatter {one.std(ddof=1):.2f}" for one in (last, averaged)]
            came = [f"{one.mean():+.3f} ± {one.std(ddof=1) / math.sqrt(len(one)):.3f}" for one in ends]
            print(f"| {name} | {len(rows)} | {' | '.join([*said, *came])} |")


if __name__ == "__main__":
    pages.carry_out(__doc__, {"run": (run_all, arguments(RATES, "600-604")), "page": (page, {})})

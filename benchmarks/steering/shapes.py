"""Does the plan of `steer` lie where it should? The shape of the fall, its share and the rate, one changed at a time.

    python benchmarks/steering/shapes.py run digits-mlp [--seeds 700-703] [--data-dir data]
    python benchmarks/steering/shapes.py page

``run`` trains a shipped task from batch size 32 at the rate that its scouts mostly choose, to 0.7 of its length, the
batch growing with the fall as in the policy, in loops that measure nothing and decide nothing, and appends one line a
run to ``benchmarks/results/steer_shapes.jsonl``; what is there is not trained again. ``page`` prints by how much the
losses at the end differ from those of the plan, on the same seeds.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, stdev

import torch

from autobatch.beacons import BeaconLibrary
from autobatch.policies.steer._plan import grown
from autobatch.training import load_data, load_task
from benchmarks import pages
from benchmarks.pages import ENVS
from benchmarks.steering.schedules import arguments, train_course

RESULTS = pages.RESULTS / "steer_shapes.jsonl"
LENGTH = 0.7
RATES = {
    "digits-mlp": 0.05, "digits-resnet8": 0.05, "digits-densenet8": 0.2, "topics-gpt": 0.032, "mnist10k-mlp": 0.025,
    "diamonds-mlp": 0.008,
}  # fmt: skip
"""The rate at batch size 32 that most scoutings of a task choose."""
SHAPES = {
    "line": lambda gone: 1.0 - gone,
    "1 - root": lambda gone: 1.0 - math.sqrt(gone),
    "cosine": lambda gone: 0.5 * (1.0 + math.cos(math.pi * gone)),
    "power 1.5": lambda gone: (1.0 - gone) ** 1.5,
    "1 - power 1.5": lambda gone: 1.0 - gone**1.5,
}
"""The factor on the rate by the share of the fall that is over."""
Plan = tuple[str, float, float]
PLAN: Plan = ("line", 0.75, 1.0)
"""Shape, share of the training over which the rate falls, multiple of the scouts' rate: the policy's own."""
OTHERS: tuple[Plan, ...] = (
    ("1 - root", 0.75, 1.0), ("cosine", 0.75, 1.0), ("power 1.5", 0.75, 1.0), ("1 - power 1.5", 0.75, 1.0),
    ("line", 0.5, 1.0), ("line", 0.6, 1.0), ("line", 1.0, 1.0),
    ("line", 0.75, 0.7), ("line", 0.75, 1.4), ("line", 0.75, 2.0),
)  # fmt: skip


def recorded() -> dict[tuple[str, int, Plan], dict[str, float]]:
    """Return the runs that are there, by task, seed and plan."""
    return pages.keyed(RESULTS, "task", "seed", "plan")


def run_all(task: str, seeds: Iterable[int], data_dir: Path | None) -> None:
    """Train what is missing of a task."""
    found = recorded()
    own, costs = load_task(ENVS / task), BeaconLibrary.load(ENVS / task).costs
    data = load_data(own, data_dir, torch.device("cpu"))
    epochs = round(LENGTH * own.epochs)
    for seed in seeds:
        for plan in (PLAN, *OTHERS):
            if (task, seed, plan) in found:
                continue
            shape, share, multiple = plan
            falling = round(share * epochs)
            course = []
            for epoch in range(epochs):
                gone = (epoch - (epochs - falling) + 0.5) / falling
                size, factor = grown(32, SHAPES[shape](gone) if gone > 0.0 else 1.0, own.batch_sizes, costs)
                course.append((size, RATES[task] * multiple * factor))
            _, figures = train_course(own, data, seed, course)
            row = {"task": task, "plan": plan, "seed": seed, **figures}
            pages.keep(RESULTS, row)
            print(row, flush=True)


def page() -> None:
    """Print the differences: means over tasks, which weigh alike, with the standard error by the seeds of each."""
    found = recorded()
    print(pages.heading("shape | falls over | rate | validation loss | test loss | test loss, worst task"))
    for plan in OTHERS:
        told, worst = [], ("", -math.inf)
        for figure in ("validation_loss", "test_loss"):
            apart = defaultdict(list)
            for (task, seed, one), row in found.items():
                if one == plan:
                    apart[task].append(math.log(row[figure] / found[task, seed, PLAN][figure]))
            means = {task: fmean(some) for task, some in apart.items()}
            error = math.sqrt(sum(stdev(some) ** 2 / len(some) for some in apart.values())) / len(apart)
            told.append(f"{100 * fmean(means.values()):+.1f} ± {100 * error:.1f} %")
            worst = max(((task, mean) for task, mean in means.items()), key=lambda one: one[1])
        shape, share, multiple = plan
        print(f"| {shape} | {share:.0%} | × {multiple:g} | {' | '.join(told)} | {worst[0]}, {100 * worst[1]:+.0f} % |")


if __name__ == "__main__":
    pages.carry_out(__doc__, {"run": (run_all, arguments(RATES, "700-703")), "page": (page, {})})

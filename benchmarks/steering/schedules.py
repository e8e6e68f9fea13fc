"""How the rate falls, how long training goes on, and whether the batch grows meanwhile: what `steer`'s plan rests on.

    python benchmarks/steering/schedules.py run TASK [--seeds 100-103] [--data-dir data]
    python benchmarks/steering/schedules.py page

``run`` trains a few fixed starts of a shipped task under the plans of ``PLANS`` in loops of their own, which measure
nothing and decide nothing, and appends one line a run to ``benchmarks/results/schedules/TASK.jsonl``; what is there is
not trained again. ``page`` writes what they come to beside the first plan of ``PLANS``: means over tasks and seeds, and
time by the cost table of the task's library, from its least to its most over the tasks. A plan is: batch size, rate,
the share of the task's length that is trained, the share of that over which the rate falls linearly (0: the paper's
steps at a half and three quarters), and what the batch does meanwhile: ``none``; ``seesaw``: it doubles and the rate
gains the root of 2 whenever the rate has halved; ``grow``: it doubles, and the rate is doubled with it; ``double``: it
doubles once, with the rate, when the rate begins to fall.
"""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean, stdev

import torch
import torch.nn.functional as F

from autobatch.beacons import BeaconLibrary, CostTable
from autobatch.control import derive_generator, derive_seed, steps_per_epoch
from autobatch.control.run._files import read_lines
from autobatch.training import Data, TaskSpec, load_data, load_task
from autobatch.training._engine import Engine, divergence, reproducible, seed_global_generators
from benchmarks import pages
from benchmarks.pages import ENVS

RESULTS = pages.RESULTS / "schedules"
LARGEST = 512
Plan = tuple[int, float, float, float, str]
PLANS: dict[str, tuple[Plan, ...]] = {
    task: (
        (32, rate, 1.0, 0.0, "none"),
        (32, rate, 0.65, 0.75, "none"),
        (32, rate, 0.65, 0.75, "seesaw"),
        (32, rate, 0.65, 0.75, "grow"),
        (32, rate, 0.65, 0.75, "double"),
        (32, rate, 0.55, 0.75, "none"),
        (64, 2 * rate, 0.65, 0.75, "none"),
    )
    for task, rate in {"digits-resnet8": 0.05, "digits-mlp": 0.05, "digits-densenet8": 0.05}.items()
}


def factor(epoch: int, epochs: int, falling: int) -> float:
    """Return what the rate is multiplied by: the mean of a falling line over an epoch, or the paper's steps."""
    if not falling:
        return float(0.1 ** ((epoch >= epochs / 2) + (epoch >= 3 * epochs / 4)))
    return 1.0 if epoch < epochs - falling else (epochs - epoch - 0.5) / falling


def batch_and_rate(plan: Plan, scale: float) -> tuple[int, float]:
    """Return batch size and rate where the plan's rate has come to ``scale`` of its start."""
    size, rate, _, falling, growth = plan
    if growth == "none" or not falling:
        return size, rate * scale
    if growth == "double":
        return (2 * size, 2 * rate * scale) if scale < 1.0 else (size, rate)
    halvings = min(math.floor(math.log2(1.0 / scale) + 1e-9), int(math.log2(LARGEST / size)))
    return size * 2**halvings, rate * scale * 2 ** (halvings / 2 if growth == "seesaw" else halvings)


def train(task: TaskSpec, data: Data, plan: Plan, seed: int) -> pages.Row:
    """Train one plan and return its figures."""
    epochs = round(plan[2] * task.epochs)
    falling = round(plan[3] * epochs)
    course = [batch_and_rate(plan, factor(epoch, epochs, falling)) for epoch in range(epochs)]
    trained, figures = train_course(task, data, seed, course)
    taken = [(size, steps_per_epoch(len(data.train_labels), size)) for size, _ in course[:trained]]
    return {"plan": list(plan), "seed": seed, "epochs": taken, **figures}


def train_course(
    task: TaskSpec, data: Data, seed: int, course: Iterable[tuple[int, float]]
) -> tuple[int, dict[str, float]]:
    """Train by batch size and rate of each epoch, unless it diverges; return the epochs trained and the figures."""
    device, trained = torch.device("cpu"), 0
    with reproducible(device, 1):
        engine = Engine(task, data, device, seed, trust_code=False)
        for epoch, (size, rate) in enumerate(course):
            loss = train_epoch(engine, epoch, seed, size, rate)
            trained += 1
            if divergence(loss, 0.0, data.num_classes):
                break
        (validation, _), (test, error) = engine.validate(), engine.test()
    return trained, {"validation_loss": validation, "test_loss": test, "test_error": error}


def train_epoch(
    engine: Engine,
    epoch: int,
    seed: int,
    size: int,
    rate: float,
    after_step: Callable[[int, int], None] = lambda step, steps: None,
) -> float:
    """Train one epoch at one batch size and rate; return the mean loss as trained."""
    data = engine.data
    count = len(data.train_labels)
    seed_global_generators(engine.device, derive_seed(seed, "layers", epoch))
    images = engine.augmented(epoch)
    order = torch.randperm(count, generator=derive_generator(seed, "order", epoch))
    engine.model.train()
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    total = 0.0
    steps = steps_per_epoch(count, size)
    for step, indices in enumerate(torch.tensor_split(order, steps), start=1):
        outputs = engine.model(engine.normalised(images.index_select(0, indices)))
        loss = F.cross_entropy(outputs, data.train_labels.index_select(0, indices))
        loss.backward()
        engine.optimizer.step()
        engine.optimizer.zero_grad()
        total += float(loss.detach()) * len(indices)
        after_step(step, steps)
    return total / count


def run_all(task: str, seeds: Iterable[int], data_dir: Path | None) -> None:
    """Train what is missing."""
    path = RESULTS / f"{task}.jsonl"
    done = pages.keyed(path, "plan", "seed")
    own = load_task(ENVS / task)
    data = load_data(own, data_dir, torch.device("cpu"))
    for seed in seeds:
        for plan in PLANS[task]:
            if (plan, seed) not in done:
                row = train(own, data, plan, seed)
                pages.keep(path, row)
                print(f"{task} {plan} {seed}: {row['validation_loss']:.4f} {row['test_loss']:.4f}", flush=True)


def page() -> None:
    """Write the table of ``docs/steer.md`` between its marks, and print it: each plan beside the first, by seeds."""
    logs: dict[Plan, list[list[float]]] = {}
    costs: dict[Plan, list[tuple[float, float]]] = {}
    for task, (first, *_) in PLANS.items():
        table = BeaconLibrary.load(ENVS / task).costs
        assert table is not None
        rows: dict[Plan, list[pages.Row]] = {}
        for row in read_lines(RESULTS / f"{task}.jsonl"):
            rows.setdefault(tuple(row["plan"]), []).append(row)
        spent = {plan: _costs(some[0]["epochs"], table) for plan, some in rows.items()}
        for plan, some in rows.items():
            logs.setdefault(plan, []).extend(pages.paired(some, rows[first], ("validation_loss", "test_loss")).values())
            ratios = (one / other for one, other in zip(spent[plan], spent[first], strict=True))
            costs.setdefault(plan, []).append(tuple(ratios))
    lines = [pages.heading("start | trained | falls over | batch | validation loss | test loss | time | steps")]
    for plan, apart in logs.items():
        size, rate, length, falling, growth = plan
        errors = [(fmean(some), 100 * stdev(some) / math.sqrt(len(some))) for some in zip(*apart, strict=True)]
        losses = " | ".join(f"{pages.relative(mean)} ± {error:.0f}" for mean, error in errors)
        ranges = [sorted({f"{one:.2f}" for one in ratios}) for ratios in zip(*costs[plan], strict=True)]
        told = " | ".join(" to ".join(dict.fromkeys((some[0], some[-1]))) for some in ranges)
        falls = f"{falling:.0%}" if falling else "steps"
        lines.append(f"| s{size} at {rate:g} | {length:.0%} | {falls} | {growth} | {losses} | {told} |")
    pages.put(pages.ROOT / "docs" / "steer.md", "benchmarks/steering/schedules.py page", "\n".join(lines))


def _costs(epochs: list[tuple[int, int]], table: CostTable) -> tuple[float, float]:
    """Return what epochs of these sizes and steps take: seconds and steps."""
    return sum(table.training_seconds(size, steps, 1) for size, steps in epochs), sum(steps for _, steps in epochs)


def arguments(tasks: Iterable[str], seeds: str) -> pages.Options:
    """Return the arguments of a script's ``run TASK``, for these tasks."""
    return {"task": {"choices": sorted(tasks)}, **pages.seeds(seeds), **pages.DATA_DIR}


if __name__ == "__main__":
    pages.carry_out(__doc__, {"run": (run_all, arguments(PLANS, "100-103")), "page": (page, {})})

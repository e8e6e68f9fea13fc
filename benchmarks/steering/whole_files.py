"""Whole data sets trained by ``autobatch run``: where larger batches spare no time, `steer` beside a grid.

    python benchmarks/steering/whole_files.py run [TASK ...] [--data-dir data]
    python benchmarks/steering/whole_files.py page

``run`` trains what is missing of MNIST and CIFAR-10 by plain convolutions whose files name neither sizes nor rates, one
run at a time with one thread, and appends one line a run to ``benchmarks/results/steer_whole_files.jsonl``: on one seed
a grid of batch sizes 16 to 64 and three rates each, with a cosine schedule over the whole length; on two others the
best of it, `steer`, and `steer` with the larger batches that many examples ask for. ``page`` writes the table of
``docs/steer.md``. Times are by one cost table of each task, timed where its first run is, scouts charged.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from autobatch.beacons import CostTable
from autobatch.control.run._files import read_lines
from autobatch.policies import PolicySpec, load_policy_spec
from autobatch.policies.steer import _search
from autobatch.training import RunConfig, TaskSpec, calibrate, load_data
from benchmarks import pages
from benchmarks.steering.few_epochs import FIGURES, lowest, trained

RESULTS = pages.RESULTS / "steer_whole_files.jsonl"
SGD, ADAMW = {"name": "sgd"}, {"name": "adamw", "weight_decay": 0.01}
TASKS = {
    "MNIST, SGD": ("mnist", [8, 16], SGD, 6, (0.03, 0.1, 0.3)),
    "MNIST, AdamW": ("mnist", [8, 16], ADAMW, 6, (0.001, 0.003, 0.01)),
    "CIFAR-10, AdamW": ("imagefolder:cifar10", [16, 32, 64], ADAMW, 8, (0.001, 0.003, 0.01)),
}
"""Data, channels of the convolutions, optimizer, epochs, and the rates of the grid."""

SIZES = (16, 32, 64)
GRID_SEED, SEEDS = 7, range(920, 922)
LARGER = "larger batches"


def task_of(name: str) -> tuple[TaskSpec, TaskSpec]:
    """Return a task, and the same with the schedule that fixed configurations have."""
    dataset, channels, optimizer, epochs, _ = TASKS[name]
    task = TaskSpec(
        name=name.replace(", ", "-"),
        dataset={"name": dataset},
        model={"name": "convnet", "arguments": {"channels": channels}},
        optimizer=optimizer,
        epochs=epochs,
    )
    return task, task.model_copy(
        update={"schedule": task.schedule.model_copy(update={"name": "cosine", "milestones": ()})}
    )


def costs_of(name: str, data_dir: Path | None) -> CostTable:
    """Return the cost table of a task, timed where there is none yet."""
    kept = pages.keyed(RESULTS, "task", "policy", "seed").get((name, "costs", 0))
    if kept is None:
        task, _ = task_of(name)
        table = calibrate(task, load_data(task, data_dir), torch.device("cpu"), task.batch_sizes)
        kept = {"task": name, "policy": "costs", "seed": 0, "costs": table.to_dict()}
        pages.keep(RESULTS, kept)
    return CostTable.from_dict(kept["costs"])


def train(task: TaskSpec, policy: PolicySpec, seed: int, costs: CostTable, data_dir: Path | None) -> pages.Row:
    """Train one run and return its figures."""
    config = RunConfig(task=task, policy=policy, seed=seed, device="cpu", data_dir=data_dir, costs=costs)
    return trained(config, costs, (*FIGURES, "batch_sizes"))


def missing(name: str) -> Iterator[tuple[str, TaskSpec, PolicySpec, int]]:
    """Yield what is to be trained of a task: how it is called, the task, the policy, and the seed."""
    task, fixed = task_of(name)
    for size in SIZES:
        for lr in TASKS[name][-1]:
            yield f"s{size}-lr{lr:g}", fixed, PolicySpec.fixed(size, lr), GRID_SEED
    for seed in SEEDS:
        yield "best", fixed, PolicySpec.fixed(*lowest(RESULTS, name, GRID_SEED)), seed
        yield "steer", task, load_policy_spec("steer"), seed
        yield LARGER, task, load_policy_spec("steer"), seed


def run_all(tasks: list[str], data_dir: Path | None) -> None:
    """Train what is missing."""
    for name in tasks or TASKS:
        costs = costs_of(name, data_dir)
        for policy, task, spec, seed in missing(name):
            if (name, policy, seed) in pages.keyed(RESULTS, "task", "policy", "seed"):
                continue
            longer = 0.0 if policy == LARGER else _search.HARDLY_LONGER
            with mock.patch.object(_search, "HARDLY_LONGER", longer):
                row = {"task": name, "policy": policy, "seed": seed, **train(task, spec, seed, costs, data_dir)}
            pages.keep(RESULTS, row)
            print(json.dumps({key: row[key] for key in row if key != "scouts"}), flush=True)


def page() -> None:
    """Write the table."""
    rows = [row for row in read_lines(RESULTS) if row["seed"] in SEEDS]
    titles = ["task", "examples of all epochs", "best of the grid", "test loss", "its test error"]
    titles += [f"{name}: test loss | test error | time" for name in ("`steer`", f"with {LARGER}")]
    lines = [pages.heading(" | ".join(titles))]
    every: list[list[float]] = []
    for name in TASKS:
        own = {
            policy: [row for row in rows if (row["task"], row["policy"]) == (name, policy)]
            for policy in ("steer", LARGER, "best")
        }
        if any(len(found) < len(SEEDS) for found in own.values()):
            continue
        means = {
            policy: [np.mean(np.log([row[figure] for row in found])) for figure in ("test_loss", "modelled_seconds")]
            for policy, found in own.items()
        }
        errors = {policy: 100.0 * np.mean([row["test_error"] for row in found]) for policy, found in own.items()}
        apart = [means[policy][figure] - means["best"][figure] for policy in ("steer", LARGER) for figure in (0, 1)]
        every.append(apart)
        size, lr = lowest(RESULTS, name, GRID_SEED)
        cells = [name, f"{own['best'][0]['examples']:,}", f"`s{size}-lr{lr:g}`", f"{np.exp(means['best'][0]):.4g}"]
        cells.append(f"{errors['best']:.2f} %")
        for place, policy in enumerate(("steer", LARGER)):
            loss, time = apart[2 * place : 2 * place + 2]
            cells += [pages.relative(loss), f"{errors[policy]:.2f} %", f"{np.exp(time):.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    loss, time, other, longer = np.mean(every, axis=0)
    mean = [pages.relative(loss), "", f"{np.exp(time):.2f}", pages.relative(other), "", f"{np.exp(longer):.2f}"]
    lines.append(f"| mean | | | | | {' | '.join(mean)} |")
    pages.put(pages.ROOT / "docs" / "steer.md", "benchmarks/steering/whole_files.py page", "\n".join(lines))


if __name__ == "__main__":
    running = {"tasks": {"nargs": "*", "metavar": "TASK", "choices": [*TASKS, []]}, **pages.DATA_DIR}
    pages.carry_out(__doc__, {"run": (run_all, running), "page": (page, {})})

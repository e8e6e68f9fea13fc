"""How the rate falls, how long training goes on, and whether the batch grows meanwhile: what `steer`'s plan rests on.

    python benchmarks/steering/schedules.py run TASK [--seeds 100-103] [--data-dir data]
    python benchmarks/steering/schedules.py page

``run`` trains a few fixed starts of a shipped task under the plans of ``PLANS`` in loops of their own, which measure
nothing and decide nothing, and appends one line a run to ``benchmarks/results/schedules/TASK.jsonl``; what is there is
not trained again. ``page`` prints means over seeds, the time by the cost table of the task's library. A plan is: batch
size, rate, the share of the task's length that is trained, the share of that over which the rate falls linearly (0: the
paper's steps at a half and three quarters), and what the batch does meanwhile: ``none``; ``seesaw``: it doubles and
the rate gains the root of 2 whenever the rate has halved; ``grow``: it doubles, and the rate is doubled with it;
``double``: it doubles once, with the rate, when the rate begins to fall.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F

from autobatch.beacons import BeaconLibrary
from autobatch.control import derive_generator, derive_seed, steps_per_epoch
from autobatch.control.run._files import append_lines, read_lines
from autobatch.training import Data, TaskSpec, load_data, load_task
from autobatch.training._engine import Engine, divergence, reproducible, seed_global_generators

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "schedules"
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


def train(task: TaskSpec, data: Data, plan: Plan, seed: int) -> dict[str, Any]:
    """Train one plan and return its figures."""
    device = torch.device("cpu")
    epochs = round(plan[2] * task.epochs)
    falling = round(plan[3] * epochs)
    taken: list[tuple[int, int]] = []
    with reproducible(device, 1):
        engine = Engine(task, data, device, seed, trust_code=False)
        for epoch in range(epochs):
            size, rate = batch_and_rate(plan, factor(epoch, epochs, falling))
            loss = train_epoch(engine, epoch, seed, size, rate)
            taken.append((size, steps_per_epoch(len(data.train_labels), size)))
            if divergence(loss, 0.0, data.num_classes):
                break
        validation, test = engine.validate(), engine.test()
    return {
        "plan": list(plan),
        "seed": seed,
        "epochs": taken,
        "validation_loss": validation[0],
        "test_loss": test[0],
        "test_error": test[1],
    }


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


def run_all(name: str, seeds: range, data_dir: Path | None) -> None:
    """Train what is missing."""
    path = RESULTS / f"{name}.jsonl"
    RESULTS.mkdir(parents=True, exist_ok=True)
    found = read_lines(path)
    done = {(tuple(one["plan"]), one["seed"]) for one in found}
    task = load_task(ROOT / "envs" / name)
    data = load_data(task, data_dir, torch.device("cpu"))
    for seed in seeds:
        for plan in PLANS[name]:
            if (plan, seed) not in done:
                row = train(task, data, plan, seed)
                append_lines(path, [row])
                print(f"{name} {plan} {seed}: {row['validation_loss']:.4f} {row['test_loss']:.4f}", flush=True)


def page() -> None:
    """Print the table."""
    print("| task | start | trained | falls over | batch | seeds | validation loss | test loss | time, s | steps |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for path in sorted(RESULTS.glob("*.jsonl")):
        costs = BeaconLibrary.load(ROOT / "envs" / path.stem).costs
        assert costs is not None
        rows = pd.DataFrame(json.loads(line) for line in path.read_text().splitlines())
        rows["plan"] = rows["plan"].map(tuple)
        for plan, some in rows.groupby("plan", sort=False):
            size, rate, length, falling, growth = plan
            taken = some["epochs"].iloc[0]
            seconds = sum(costs.training_seconds(one, steps, 1) for one, steps in taken)
            figures = [f"{some[name].mean():.4f} ± {some[name].std():.4f}" for name in ("validation_loss", "test_loss")]
            print(
                f"| {path.stem} | s{size} at {rate:g} | {length:.0%} | {f'{falling:.0%}' if falling else 'steps'} | "
                f"{growth} | {len(some)} | {' | '.join(figures)} | {seconds:.2f} | {sum(steps for _, steps in taken)} |"
            )


def command_line(
    arguments: list[str],
    about: str | None,
    tasks: Iterable[str],
    seeds: str,
    train_all: Callable[[str, range, Path | None], None],
    write: Callable[[], None],
) -> None:
    """Carry out ``run TASK`` or ``page`` of a script that trains seeds of a few tasks and prints a table."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    training = commands.add_parser("run")
    training.add_argument("task", choices=sorted(tasks))
    training.add_argument("--seeds", default=seeds)
    training.add_argument("--data-dir", type=Path, default=None)
    commands.add_parser("page")
    given = parser.parse_args(arguments)
    if given.command == "page":
        write()
        return
    first, _, last = given.seeds.partition("-")
    train_all(given.task, range(int(first), int(last or first) + 1), given.data_dir)


if __name__ == "__main__":
    command_line(sys.argv[1:], __doc__, PLANS, "100-103", run_all, page)

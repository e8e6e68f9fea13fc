"""Shipped tasks trained for few epochs by ``autobatch run``: `steer` beside a grid and beside simple rules.

    python benchmarks/steering/few_epochs.py run [TASK ...] [--data-dir data]
    python benchmarks/steering/few_epochs.py page

``run`` trains what is missing, as if nothing had been recorded of the tasks, one run at a time with one thread, and
appends one line a run to ``benchmarks/results/steer_few_epochs.jsonl``: on one seed a grid of batch sizes 8 to 128 and
all rates of the task, each with a cosine schedule over the whole length; on four others the best of it, batches of 32
at the middle rate, the same for an epoch more (which is more than scouts cost), `steer`, and `steer` as it decides
where it may not within epochs. ``page`` writes the table of ``docs/steer.md``. Times are by the cost table of the
task's library, scouts charged.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import numpy as np

from autobatch.beacons import BeaconLibrary, CostTable
from autobatch.control.run._files import read_lines
from autobatch.policies import PolicySpec, load_policy_spec
from autobatch.policies.steer._search import start_without_scouts
from autobatch.report._comparison import modelled_seconds
from autobatch.training import RunConfig, TaskSpec, load_epochs, load_task, run, task_info
from autobatch.training.running import _carry_out
from benchmarks import pages
from benchmarks.pages import ENVS

RESULTS = pages.RESULTS / "steer_few_epochs.jsonl"
EPOCHS = {
    "mnist10k-mlp": 3,
    "diamonds-mlp": 2,
    "topics-gpt": 3,
    "cifar5k-convnet": 5,
    "mnist5k-convnet": 6,
    "mnist10k-resnet8": 2,
}
"""The tasks, and how many epochs each is trained for: between 300 and 800 steps of 32."""

FIGURES = ("validation_loss", "test_loss", "test_error", "optimizer_steps", "examples", "scouts")
SIZES = (8, 16, 32, 64, 128)
GRID_SEED, SEEDS = 7, range(910, 914)
LONGER = "middle, an epoch more"


def tasks_of(name: str) -> tuple[TaskSpec, TaskSpec, TaskSpec]:
    """Return a task at its length, with the schedule that fixed configurations have, and that for an epoch more."""
    task = load_task(ENVS / name).model_copy(update={"threads": 1, "epochs": EPOCHS[name]})
    fixed = task.model_copy(update={"schedule": task.schedule.model_copy(update={"name": "cosine"})})
    return task, fixed, fixed.model_copy(update={"epochs": task.epochs + 1})


def train(task: TaskSpec, name: str, policy: PolicySpec, seed: int, data_dir: Path | None) -> pages.Row:
    """Train one run and return its figures."""
    costs = BeaconLibrary.load(ENVS / name).costs
    assert costs is not None
    config = RunConfig(task=task, policy=policy, seed=seed, device="cpu", data_dir=data_dir, measure=False, costs=costs)
    return trained(config, costs, (*FIGURES, "stopped_because"))


def trained(config: RunConfig, costs: CostTable, figures: Sequence[str]) -> pages.Row:
    """Train one run and return its figures, the time by a cost table among them."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        summary = run(config, out)
        seconds = modelled_seconds(load_epochs(out), costs, summary.scouts)
    return {**{figure: getattr(summary, figure) for figure in figures}, "modelled_seconds": seconds}


def missing(name: str) -> Iterator[tuple[str, TaskSpec, PolicySpec, int]]:
    """Yield what is to be trained of a task: how it is called, the task, the policy, and the seed."""
    task, fixed, longer = tasks_of(name)
    middle = start_without_scouts(task_info(load_task(ENVS / name), BeaconLibrary.load(ENVS / name)))
    for size in SIZES:
        if size in task.batch_sizes:
            for lr in task.learning_rates:
                yield f"s{size}-lr{lr:g}", fixed, PolicySpec.fixed(size, lr), GRID_SEED
    for seed in SEEDS:
        yield "best", fixed, PolicySpec.fixed(*best_of(name)), seed
        yield "middle", fixed, PolicySpec.fixed(*middle), seed
        yield LONGER, longer, PolicySpec.fixed(*middle), seed
        yield "steer", task, load_policy_spec("steer"), seed
        yield "between epochs", task, load_policy_spec("steer"), seed


def best_of(name: str) -> tuple[int, float]:
    """Return the configuration of a task's grid with the lowest validation loss."""
    return lowest(RESULTS, name, GRID_SEED)


def lowest(results: Path, name: str, seed: int) -> tuple[int, float]:
    """Return which configuration of a task ends lowest in validation loss, of those trained on a seed."""
    rows = [row for row in read_lines(results) if (row["task"], row["seed"]) == (name, seed)]
    best = min(rows, key=lambda row: row["validation_loss"] or np.inf)["policy"]
    size, lr = best.removeprefix("s").split("-lr")
    return int(size), float(lr)


def run_all(tasks: list[str], data_dir: Path | None) -> None:
    """Train what is missing."""
    for name in tasks or EPOCHS:
        for policy, task, spec, seed in missing(name):
            if (name, policy, seed) in pages.keyed(RESULTS, "task", "policy", "seed"):
                continue
            decided = {"return_value": 1} if policy == "between epochs" else {"wraps": _carry_out.periods_of}
            with mock.patch.object(_carry_out, "periods_of", **decided):
                row = {"task": name, "policy": policy, "seed": seed, **train(task, name, spec, seed, data_dir)}
            pages.keep(RESULTS, row)
            print(json.dumps(row), flush=True)


def page() -> None:
    """Write the table."""
    rows = [row for row in read_lines(RESULTS) if row["seed"] in SEEDS]
    shown = ("steer", "between epochs", "middle", LONGER)
    titles = ["task", "epochs", "best of the grid", "test loss"]
    titles += [f"{'`steer`' if name == 'steer' else name}: test loss | time" for name in shown]
    lines = [pages.heading(" | ".join(titles))]
    every: dict[str, list[float]] = {}
    for name, epochs in EPOCHS.items():
        own = {
            policy: [row for row in rows if (row["task"], row["policy"]) == (name, policy)]
            for policy in (*shown, "best")
        }
        if any(len(found) < len(SEEDS) for found in own.values()):
            continue
        means = {
            policy: [np.mean(np.log([row[figure] for row in found])) for figure in ("test_loss", "modelled_seconds")]
            for policy, found in own.items()
        }
        apart = [means[policy][figure] - means["best"][figure] for policy in shown for figure in (0, 1)]
        every[name] = apart
        size, lr = best_of(name)
        cells = [name, str(epochs), f"`s{size}-lr{lr:g}`", f"{np.exp(means['best'][0]):.4g}"]
        lines.append(f"| {' | '.join([*cells, *told(apart)])} |")
    lines.append(f"| mean | | | | {' | '.join(told(np.mean(list(every.values()), axis=0)))} |")
    farthest = max(every, key=lambda name: abs(every[name][0]))
    others = [apart for name, apart in every.items() if name != farthest]
    lines.append(f"| mean but for {farthest} | | | | {' | '.join(told(np.mean(others, axis=0)))} |")
    pages.put(pages.ROOT / "docs" / "steer.md", "benchmarks/steering/few_epochs.py page", "\n".join(lines))


def told(apart: list[float]) -> list[str]:
    """Return differences of logarithms of losses and times, in turn, in words."""
    return [f"{np.exp(one):.2f}" if place % 2 else pages.relative(one) for place, one in enumerate(apart)]


if __name__ == "__main__":
    running = {"tasks": {"nargs": "*", "metavar": "TASK", "choices": [*EPOCHS, []]}, **pages.DATA_DIR}
    pages.carry_out(__doc__, {"run": (run_all, running), "page": (page, {})})

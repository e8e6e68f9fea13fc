"""What ending early costs: `steer` trained to half, to 0.7 and to the whole of a task's length.

    python benchmarks/steering/lengths.py run digits-mlp [--seeds 900-902] [--data-dir data]
    python benchmarks/steering/lengths.py page

``run`` trains what is missing, one run at a time, one thread, without forks and without measuring, and appends one line
a run to ``benchmarks/results/steer_lengths.jsonl``. ``page`` prints the table of ``docs/steer.md``.
"""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from autobatch import BeaconLibrary
from autobatch.policies import load_policy_spec
from autobatch.training import RunConfig, load_task, run
from benchmarks import pages
from benchmarks.pages import ENVS, changed

RESULTS = pages.RESULTS / "steer_lengths.jsonl"
LENGTHS = (0.5, 0.7, 1.0)
"""Shares of the task's length; the policy's own is the middle one."""

FIGURES = ("epochs", "validation_loss", "test_loss", "test_error")


def recorded() -> dict[tuple[str, float, int], pages.Row]:
    """Return the runs that are there, by task, length and seed."""
    return pages.keyed(RESULTS, "task", "length", "seed")


def run_all(task: str, seeds: Sequence[int], data_dir: Path | None) -> None:
    """Train what is missing of a task."""
    spec, found = load_policy_spec("steer"), recorded()
    own, costs = load_task(ENVS / task).model_copy(update={"threads": 1}), BeaconLibrary.load(ENVS / task).costs
    for seed in seeds:
        for length in LENGTHS:
            if (task, length, seed) in found:
                continue
            policy = changed(spec, length=length, forks=0)
            config = RunConfig(
                task=own, policy=policy, seed=seed, device="cpu", data_dir=data_dir, measure=False, costs=costs
            )
            with tempfile.TemporaryDirectory() as folder:
                summary = run(config, Path(folder) / "run")
            row = {"task": task, "length": length, "seed": seed, **{name: getattr(summary, name) for name in FIGURES}}
            pages.keep(RESULTS, row)
            print(row, flush=True)


def page() -> None:
    """Print by how much the losses at the end of other lengths differ from those at 0.7."""
    found = recorded()
    print(pages.heading("task | seeds | half: validation loss | test loss | whole: validation loss | test loss"))
    every: list[list[float]] = []
    for name in dict.fromkeys(task for task, _, _ in found):
        seeds = [seed for task, length, seed in found if task == name and length == 1.0]
        apart = [
            fmean(math.log(found[name, length, seed][figure] / found[name, 0.7, seed][figure]) for seed in seeds)
            for length in (0.5, 1.0)
            for figure in ("validation_loss", "test_loss")
        ]
        every.append(apart)
        print(f"| {name} | {len(seeds)} | {' | '.join(map(pages.relative, apart))} |")
    means = [pages.relative(fmean(column)) for column in zip(*every, strict=True)]
    print(f"| all {len(every)} | | {' | '.join(means)} |")


if __name__ == "__main__":
    options = {"task": {}, **pages.seeds("900-902"), **pages.DATA_DIR}
    pages.carry_out(__doc__, {"run": (run_all, options), "page": (page, {})})

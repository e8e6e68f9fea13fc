"""What ending early costs: `steer` trained to half, to 0.7 and to the whole of a task's length.

    python benchmarks/steering/lengths.py run digits-mlp [--seeds 900-902] [--data-dir data]
    python benchmarks/steering/lengths.py page

``run`` trains what is missing, one run at a time, one thread, without forks and without measuring, and appends one line
a run to ``benchmarks/results/steer_lengths.jsonl``. ``page`` prints the table of ``docs/steer.md``.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from steer import ROOT, numbers

from autobatch import BeaconLibrary
from autobatch.control.run._files import append_lines
from autobatch.policies import load_policy_spec
from autobatch.training import RunConfig, load_task, run

RESULTS = ROOT / "benchmarks" / "results" / "steer_lengths.jsonl"
LENGTHS = (0.5, 0.7, 1.0)
"""Shares of the task's length; the policy's own is the middle one."""

Row = Mapping[str, float]


def recorded() -> dict[tuple[str, float, int], Row]:
    """Return the runs that are there, by task, length and seed."""
    rows = map(json.loads, RESULTS.read_text().splitlines() if RESULTS.exists() else [])
    return {(row["task"], row["length"], row["seed"]): row for row in rows}


def run_all(name: str, seeds: Sequence[int], data_dir: Path | None) -> None:
    """Train what is missing of a task."""
    spec, found, env = load_policy_spec("steer"), recorded(), ROOT / "envs" / name
    task, costs = load_task(env).model_copy(update={"threads": 1}), BeaconLibrary.load(env).costs
    for seed in seeds:
        for length in LENGTHS:
            if (name, length, seed) in found:
                continue
            own = spec.model_copy(update={"parameters": {**spec.parameters, "length": length, "forks": 0}})
            config = RunConfig(
                task=task, policy=own, seed=seed, device="cpu", data_dir=data_dir, measure=False, costs=costs
            )
            with tempfile.TemporaryDirectory() as folder:
                summary = run(config, Path(folder) / "run")
            row = {
                "task": name, "length": length, "seed": seed, "epochs": summary.epochs,
                "validation_loss": summary.validation_loss, "test_loss": summary.test_loss,
                "test_error": summary.test_error,
            }  # fmt: skip
            append_lines(RESULTS, [row])
            print(row, flush=True)


def page() -> None:
    """Print by how much the losses at the end of other lengths differ from those at 0.7."""
    found = recorded()
    print("| task | seeds | half: validation loss | test loss | whole: validation loss | test loss |")
    print("| --- " * 6 + "|")
    every: list[list[float]] = []
    for name in dict.fromkeys(task for task, _, _ in found):
        seeds = [seed for task, length, seed in found if task == name and length == 1.0]
        apart = [
            fmean(math.log(found[name, length, seed][figure] / found[name, 0.7, seed][figure]) for seed in seeds)
            for length in (0.5, 1.0)
            for figure in ("validation_loss", "test_loss")
        ]
        every.append(apart)
        print(f"| {name} | {len(seeds)} | {' | '.join(map(_told, apart))} |")
    print(f"| all {len(every)} | | {' | '.join(_told(fmean(column)) for column in zip(*every, strict=True))} |")


def _told(apart: float) -> str:
    return f"{100 * math.expm1(apart):+.0f} %"


def main() -> None:
    """Carry out a command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    training = commands.add_parser("run")
    training.add_argument("task")
    training.add_argument("--seeds", default="900-902")
    training.add_argument("--data-dir", type=Path, default=None)
    commands.add_parser("page")
    given = parser.parse_args()
    if given.command == "page":
        page()
    else:
        run_all(given.task, numbers(given.seeds), given.data_dir)


if __name__ == "__main__":
    main()

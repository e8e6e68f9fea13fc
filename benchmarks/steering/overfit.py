"""Trainings that fit their own examples alone: what ending them sooner gives, and how often it is done by mistake.

    python benchmarks/steering/overfit.py run
    python benchmarks/steering/overfit.py page
    python benchmarks/steering/overfit.py alarms

``run`` trains `steer` on two tasks that overfit, made here: a table of 1,800 rows labelled by a random network with
noise, and the first 700 windows of the help on Python's language; once as it is and once with ``patience: 0``, which
never hastens the end; five seeds, one thread. It appends a line a run to ``benchmarks/results/steer_overfit.jsonl``;
what is there is not trained again. ``page`` prints the table of ``docs/steer.md``. ``alarms`` replays the rule on every
recorded beacon that ended within a quarter of the best of its library, and says how many would have been ended although
their validation loss fell by more than 3 % below the lowest until then. Their rate is constant for half the training,
where figures scatter most.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from new_tasks import help_text
from steer import ROOT

from autobatch import BeaconLibrary, LibraryError
from autobatch.policies import Observation, load_policy_spec
from autobatch.policies.steer._overfit import WINDOW, Validated
from autobatch.policies.steer._policy import SteerParameters
from autobatch.training import RunConfig, TaskSpec, run

RESULTS = ROOT / "benchmarks" / "results" / "steer_overfit.jsonl"
SEEDS = range(5)
NEAR = 1.25
LOST = 0.97
FIGURES = {
    "epochs": (1, 1),
    "validation_loss": (1, 3),
    "test_loss": (1, 3),
    "test_error": (100, 1),
    "steps": (1, 0),
}
"""Figures of the page, what each is multiplied by, and its digits."""

COMMON = {
    "schedule": {"name": "cosine"},
    "batch_sizes": [8, 16, 32, 64, 128],
    "score": "validation_loss",
    "seeds": [0],
    "threads": 1,
}
TASKS = {
    "teacher-mlp": {
        "dataset": {"name": "csv:teacher.csv", "target": "label", "validation": 0.2, "test": 0.15, "split_seed": 0},
        "model": {"name": "mlp", "arguments": {"hidden": [128, 128]}},
        "optimizer": {"name": "sgd", "momentum": 0.9, "weight_decay": 0.0001},
        "learning_rates": [0.003, 0.01, 0.03, 0.1, 0.3],
        "epochs": 30,
    },
    "little-text-gpt": {
        "dataset": {"name": "text:topics.txt", "context": 32, "subset": 700, "validation": 0.2, "test": 0.1},
        "model": {"name": "gpt", "depth": 2, "arguments": {"width": 64, "heads": 4}},
        "optimizer": {"name": "adamw", "momentum": 0.9},
        "learning_rates": [0.0003, 0.001, 0.003, 0.01, 0.03],
        "epochs": 24,
    },
}


def write_data(folder: Path) -> None:
    """Write the table and the text."""
    (folder / "topics.txt").write_bytes(help_text().encode())
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((1800, 24))
    scores = np.tanh(2 * inputs @ rng.standard_normal((24, 32)) / 24**0.5) @ rng.standard_normal((32, 5))
    labels = (scores + 0.4 * rng.gumbel(size=scores.shape)).argmax(axis=1)
    rows = [
        ",".join([*(f"{value:.5f}" for value in row), f"c{label}"]) for row, label in zip(inputs, labels, strict=True)
    ]
    (folder / "teacher.csv").write_text("\n".join([",".join([*(f"x{i}" for i in range(24)), "label"]), *rows]) + "\n")


def recorded() -> list[dict[str, object]]:
    """Return the runs that are there."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def run_all() -> None:
    """Train what is missing."""
    found = {(row["task"], row["patience"], row["seed"]) for row in recorded()}
    spec = load_policy_spec("steer")
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder))
        for seed in SEEDS:
            for name, keys in TASKS.items():
                task = TaskSpec(name=name, **COMMON, **keys)
                for patience in (0.0, SteerParameters().patience):
                    if (name, patience, seed) in found:
                        continue
                    own = spec.model_copy(update={"parameters": {**spec.parameters, "patience": patience}})
                    config = RunConfig(
                        task=task, policy=own, seed=seed, device="cpu", data_dir=Path(folder), measure=False
                    )
                    summary = run(config, Path(folder) / f"{name}-{patience}-{seed}")
                    row = {
                        "task": name, "patience": patience, "seed": seed, "epochs": summary.epochs,
                        "validation_loss": summary.validation_loss, "test_loss": summary.test_loss,
                        "test_error": summary.test_error, "steps": summary.optimizer_steps,
                    }  # fmt: skip
                    with RESULTS.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(row, flush=True)


def page() -> None:
    """Print the table."""
    lines = ["| task | end | runs | epochs | validation loss | test loss | test error, % | steps |", "| --- " * 8 + "|"]
    for name in TASKS:
        for patience, told in ((0.0, "as planned"), (SteerParameters().patience, "hastened")):
            rows = [row for row in recorded() if (row["task"], row["patience"]) == (name, patience)]
            cells = [
                _spread([float(row[key]) * factor for row in rows], digits) for key, (factor, digits) in FIGURES.items()
            ]
            lines.append(f"| {name} | {told} | {len(rows)} | {' | '.join(cells)} |")
    print("\n".join(lines))


def _spread(values: list[float], digits: int) -> str:
    return f"{fmean(values):,.{digits}f} ± {stdev(values):,.{digits}f}"


def good_beacons() -> Iterator[tuple[BeaconLibrary, dict[str, np.ndarray]]]:
    """Yield the curves of all beacons that ended nearly as well as the best of their library."""
    for folder in sorted((ROOT / "envs").iterdir()):
        try:
            library = BeaconLibrary.load(folder)
        except LibraryError:
            continue
        sound = [result for result in library.results() if not result.diverged]
        best = min(result.mean[library.score] for result in sound)
        for result in sound:
            if result.mean[library.score] <= NEAR * best:
                for beacon in library.beacons_at(result.batch_size, result.lr):
                    yield library, beacon.rows


def alarms() -> None:
    """Print how many good beacons the rule would have ended by mistake."""
    seen = ended = mistaken = 0
    share = SteerParameters().patience
    for library, rows in good_beacons():
        seen += 1
        validated, losses = Validated("validation_loss"), rows["validation_loss"]
        patience = max(WINDOW, round(share * len(losses)))
        for epoch in range(1, len(losses)):
            figures = {name: float(rows[name][epoch - 1]) for name in ("validation_loss", "validation_error")}
            validated.take(_observation(epoch, library, figures))
            if validated.worse_since(patience) is not None:
                ended += 1
                mistaken += bool(losses[-1] < LOST * min(losses[:epoch]))
                break
    print(f"{seen} beacons, {ended} ended sooner, {mistaken} of them by mistake")


def _observation(epoch: int, library: BeaconLibrary, figures: dict[str, float]) -> Observation:
    nan = float("nan")
    return Observation(epoch, epoch / (library.epochs or 1), 32, nan, nan, nan, 0, nan, **figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "page", "alarms"))
    {"run": run_all, "page": page, "alarms": alarms}[parser.parse_args().command]()

"""Does it help to steer batch size and rate where an optimizer preconditions by the Fisher matrix itself?

    python benchmarks/optim/steering.py run     # the trainings that the results do not hold yet
    python benchmarks/optim/steering.py page    # write the table into docs/optimizers.md

The task is digits-mlp with two hidden layers of 100 and 20 epochs, under SGD, mini-block Fisher and K-FAC. ``steer``
scouts and steers as ever, with three rates of each optimizer's own to begin with; beside it stands the best of six
fixed configurations (batch sizes 32 and 128, the three rates), chosen by validation loss on a seed of its own. C̄ and L
are those of the gradients before they are preconditioned, as they are measured everywhere. Six fresh seeds each.
"""

import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

from autobatch import RunConfig, TaskSpec, load_policy_spec, load_task, run
from autobatch.beacons import BeaconLibrary
from benchmarks import pages
from benchmarks.pages import ENVS, spread

RESULTS = pages.RESULTS / "optim" / "steering.jsonl"
RATES = {"sgd": (0.025, 0.1, 0.4), "mini-block-fisher": (1e-4, 3e-4, 1e-3), "kfac": (3e-3, 1e-2, 3e-2)}
SIZES = (32, 128)
TUNING_SEED, SEEDS = 10, (11, 12, 13, 31, 32, 33)


def task(optimizer: str) -> TaskSpec:
    """Return the task with an optimizer."""
    given = load_task(ENVS / "digits-mlp").model_dump(mode="json", exclude_unset=True)
    return TaskSpec.model_validate({
        **given,
        "model": {"name": "mlp", "arguments": {"hidden": [100, 100]}},
        "optimizer": {"name": optimizer, "weight_decay": 1e-4},
        "learning_rates": RATES[optimizer],
        "epochs": 20,
    })


def recorded() -> dict[tuple[str, str, int], dict[str, Any]]:
    """Return the runs that are there, by optimizer, policy and seed."""
    return pages.keyed(RESULTS, "optimizer", "policy", "seed")


def trained(optimizer: str, policy: str, seed: int) -> dict[str, Any]:
    """Return a run's figures; trains it where they are not there."""
    if (row := recorded().get((optimizer, policy, seed))) is not None:
        return row
    costs = BeaconLibrary.load(ENVS / "digits-mlp").costs
    config = RunConfig(task=task(optimizer), policy=load_policy_spec(policy), seed=seed, device="cpu", costs=costs)
    with tempfile.TemporaryDirectory() as folder:
        summary = run(config, Path(folder) / "run")
    names = ("validation_loss", "test_loss", "test_error", "optimizer_steps", "batch_sizes", "stopped_because")
    row = {"optimizer": optimizer, "policy": policy, "seed": seed, **{name: getattr(summary, name) for name in names}}
    pages.keep(RESULTS, row)
    print(row, flush=True)
    return row


def run_all() -> None:
    """Train what is missing."""
    for optimizer, rates in RATES.items():
        tried = [trained(optimizer, f"s{size}-lr{rate:g}", TUNING_SEED) for size in SIZES for rate in rates]
        best = min(tried, key=_validation)["policy"]
        for seed in SEEDS:
            trained(optimizer, best, seed)
            trained(optimizer, "steer", seed)


def _validation(row: dict[str, Any]) -> float:
    loss = row["validation_loss"]
    return loss if loss is not None and math.isfinite(loss) else math.inf


def write_page() -> None:
    """Write the table into the page."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for (optimizer, policy, seed), row in recorded().items():
        if seed in SEEDS:
            groups.setdefault((optimizer, policy), []).append(row)
    table = ["", pages.heading("optimizer | policy | validation loss | test loss | test error, % | steps")]
    for (optimizer, policy), rows in groups.items():
        cells = [spread([row[name] for row in rows]) for name in ("validation_loss", "test_loss")]
        cells.append(spread([row["test_error"] for row in rows], 2, 100))
        steps = statistics.mean(row["optimizer_steps"] for row in rows)
        table.append(f"| {optimizer} | `{policy}` | {' | '.join(cells)} | {steps:.0f} |")
    page = pages.ROOT / "docs" / "optimizers.md"
    pages.replace_between(page, "benchmarks/optim/steering.py", "\n".join([*table, ""]))


def main() -> None:
    """Do what was asked for."""
    parser = pages.parser_of(__doc__)
    parser.add_argument("command", choices=["run", "page"])
    (run_all if parser.parse_args().command == "run" else write_page)()


if __name__ == "__main__":
    main()

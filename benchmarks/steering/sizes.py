"""Where scouts have hardly begun to learn: which batch size, rate and length from there, without any scout.

    python benchmarks/steering/sizes.py run [--data-dir data]
    python benchmarks/steering/sizes.py page

Trains the plan of `steer` from given configurations on three tasks whose scouts have hardly begun, one run at a time,
one thread, and appends one line a run to ``benchmarks/results/steer_sizes.jsonl``; what is there is not trained again.
At batch size 16 the rate is once the best scout's at 32 or a rate of the list, and once the floor of the parabola
through the scouts, scaled: 0.032, 0.0035, 0.0034. ``page`` prints the means over the seeds. Times are by the cost
tables of the tasks.
"""

import statistics
from pathlib import Path
from unittest import mock

from autobatch.control.run._files import read_lines
from autobatch.policies import load_policy_spec
from benchmarks import pages
from benchmarks.steering import steer

RESULTS = pages.RESULTS / "steer_sizes.jsonl"
SEEDS = (400, 401, 402)
STARTS = {
    "mnist5k-convnet": (
        *((32, 0.1, 1.0), (16, 0.025, 0.7), (16, 0.025, 1.0), (16, 0.032, 1.0)),
        *((8, 0.025, 0.5), (8, 0.025, 0.7), (8, 0.1, 0.7)),
    ),
    "digits-vit": (
        *((32, 0.002, 1.0), (32, 0.008, 1.0), (16, 0.002, 0.7), (16, 0.002, 1.0), (16, 0.0035, 1.0)),
        *((8, 0.002, 0.5), (8, 0.002, 0.7)),
    ),
    "cifar5k-convnet": ((32, 0.008, 0.7), (32, 0.008, 1.0), (16, 0.008, 1.0), (16, 0.0034, 1.0)),
}
"""Batch size, base learning rate and share of the length of each task's runs."""

FIGURES = ("validation_loss", "test_loss", "modelled_seconds", "optimizer_steps")


def recorded() -> dict[tuple[str, int, float, float, int], dict[str, float]]:
    """Return the runs that are there, by task, batch size, rate, length and seed."""
    return {tuple(row["key"]): row for row in read_lines(RESULTS)}


def run_all(data_dir: Path | None) -> None:
    """Train what is missing."""
    found = recorded()
    spec = load_policy_spec("steer")
    for seed in SEEDS:
        for task, starts in STARTS.items():
            for size, lr, length in starts:
                if (task, size, lr, length, seed) in found:
                    continue
                own = pages.changed(spec, scouts=0, length=length)
                with (
                    mock.patch("autobatch.policies.steer._policy.start_without_scouts", return_value=(size, lr)),
                    mock.patch.object(steer, "load_policy_spec", return_value=own),
                ):
                    row = steer.train(task, "steer", seed, data_dir)
                kept = {"key": (task, size, lr, length, seed), **{name: row[name] for name in FIGURES}}
                pages.keep(RESULTS, kept)
                print(f"{task} s{size} at {lr:g}, {length:.0%}, {seed}: {row['test_loss']:.4f}", flush=True)


def page() -> None:
    """Print the means over the seeds."""
    found = recorded()
    print(pages.heading("task | start | trained | seeds | validation loss | test loss | time, s | steps"))
    for task, size, lr, length in sorted({key[:4] for key in found}):
        rows = [row for key, row in found.items() if key[:4] == (task, size, lr, length)]
        losses, tests, times, steps = (statistics.mean(row[name] for row in rows) for name in FIGURES)
        print(
            f"| {task} | s{size} at {lr:g} | {length:.0%} | {len(rows)} | {losses:.4f} | {tests:.4f} | {times:.1f} | "
            f"{steps:.0f} |"
        )


if __name__ == "__main__":
    parser = pages.parser_of(__doc__)
    parser.add_argument("command", choices=("run", "page"))
    parser.add_argument("--data-dir", type=Path)
    given = parser.parse_args()
    page() if given.command == "page" else run_all(given.data_dir)

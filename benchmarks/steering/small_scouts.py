"""What scouts of small tasks see, and how the rates that they try end.

    python benchmarks/steering/small_scouts.py [--data-dir DIR] [TASK ...]

Trains each of the small tasks of ``loops.py`` at batch size 32 and each of its rates by the plan of ``steer``, two
seeds each, one thread, and appends one line a run to ``benchmarks/results/steer_small_scouts.jsonl``, from which
``scouting.py --sure`` tells how often the scout that is ahead ends best. What is there is not trained again; rows of
before scouts of few steps were compared by their validation losses have these only where scouts are so short.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks import pages
from benchmarks.steering import loops
from benchmarks.steering.ends import USUAL, trained

RESULTS = pages.RESULTS / "steer_small_scouts.jsonl"
SIZE = 32
SEEDS = (30, 31)
SEEN = 0.1
"""Share of the length that a scout takes at most, rounded up."""


def run_all(names: Sequence[str], folder: Path | None) -> None:
    """Train what is missing of the tasks."""
    for name, task, x, y in loops.loaded(names, folder):
        there = pages.keyed(RESULTS, "task", "lr", "seed")
        for seed in SEEDS:
            for lr in task.rates:
                if (name, lr, seed) not in there:
                    found = trained(task, x, y, (SIZE, lr), USUAL, seed)
                    until = max(1, round(SEEN * task.epochs))
                    seen = {kind: found[kind][:until] for kind in ("train_losses", "validation_losses")}
                    ended = {figure: found[figure] for figure in ("validation_loss", "test_loss")}
                    pages.keep(RESULTS, {"task": name, "lr": lr, "seed": seed, **seen, **ended})
                    print(name, lr, seed, ended["validation_loss"], flush=True)


if __name__ == "__main__":
    parser = pages.parser_of(__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", choices=[*loops.EVERY, []])
    parser.add_argument("--data-dir", type=Path, default=None)
    given = parser.parse_args()
    run_all(given.tasks, given.data_dir)

"""Where a training sees many examples: which of the rates that were scouted should go on?

    python benchmarks/steering/large_scouts.py run --data-dir DIR [TASK ...]
    python benchmarks/steering/large_scouts.py page

``run`` trains the tasks of ``large_tasks.py`` and ``whole_tasks.py`` that see more than 200,000 examples at each of
their rates from the beginning, by the plan of ``steer`` and at its size of batches, two seeds each, one thread, and
appends a line a training to ``benchmarks/results/steer_large_scouts.jsonl``. ``page`` takes the scouts that ``loops.py
run`` has made of these tasks, four seeds each, and writes into ``docs/concepts/steer.md`` how far above the best of the
rates the one ends that goes on, in logarithms of the test loss: the highest whose training loss is above the lowest by
at most so much, its validation loss above the same scout's by at most so much.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from autobatch.policies.steer._policy import AS_GOOD, NOT_ABOVE
from autobatch.policies.steer._search import EXAMPLES
from benchmarks import pages
from benchmarks.steering import loops
from benchmarks.steering.large_tasks import LARGE
from benchmarks.steering.loops import FRESH, SEARCHED, logarithm
from benchmarks.steering.whole_tasks import WHOLE

RESULTS = pages.RESULTS / "steer_large_scouts.jsonl"
MANY = {name: task for name, task in {**LARGE, **WHOLE}.items() if task.epochs * task.ends[0] > 2 * EXAMPLES}
ABOVE = (
    (1.0, math.inf),
    (1.02, math.inf),
    (AS_GOOD, math.inf),
    (1.02, NOT_ABOVE),
    (AS_GOOD, NOT_ABOVE),
    (1.08, NOT_ABOVE),
    (AS_GOOD, 1.1),
)
"""Times the lowest training loss, and times the validation loss of the scout that has it."""


def run_all(tasks: Sequence[str], data_dir: Path | None) -> None:
    """Train what is missing of the tasks."""
    for name, task, x, y in loops.loaded(tasks or list(MANY), data_dir):
        for seed in SEARCHED:
            for lr in task.rates:
                if (name, lr, seed) not in recorded():
                    row = loops.steered(task._replace(rates=(lr,)), x, y, seed)
                    pages.keep(RESULTS, {"task": name, "lr": lr, "seed": seed, **row})
                    print(name, lr, seed, row, flush=True)


def recorded() -> dict[tuple[str, float, int], pages.Row]:
    """Return the trainings that are there, by task, rate and seed."""
    return pages.keyed(RESULTS, "task", "lr", "seed")


def page() -> None:
    """Write what each choice comes to."""
    found, scouted = recorded(), loops.recorded()
    ends: dict[str, dict[float, float]] = {}
    for name, task in MANY.items():
        rows = {lr: [found.get((name, lr, seed)) for seed in SEARCHED] for lr in task.rates}
        if all("scouted" in scouted.get((name, "steer", seed), {}) for seed in FRESH) and all(map(all, rows.values())):
            ends[name] = {lr: fmean(logarithm(row, "test_loss") for row in own if row) for lr, own in rows.items()}
    titles = "training loss at most above the lowest | validation loss | above the best of the rates, mean | worst task"
    lines = [pages.heading(f"{titles} | another rate than the lowest loss, and lower with it")]
    picks = {(own, name): [_picked(scouted[name, "steer", seed]["scouted"], *own) for seed in FRESH]
             for own in ABOVE for name in ends}  # fmt: skip
    for own in ABOVE:
        above = [fmean(ends[name][lr] for lr in picks[own, name]) - min(ends[name].values()) for name in ends]
        changed = [
            ends[name][lr] < ends[name][other]
            for name in ends
            for lr, other in zip(picks[own, name], picks[ABOVE[0], name], strict=True)
            if lr != other
        ]
        training, validation = (f"{100 * (times - 1.0):.0f} %" if math.isfinite(times) else "any" for times in own)
        told = f"{len(changed)}, {sum(changed)}" if changed else ""
        lines.append(f"| {training} | {validation} | {np.mean(above):.3f} | {max(above):.2f} | {told} |")
    lines += ["", f"{len(ends)} tasks, {len(ends) * len(FRESH)} scoutings: {', '.join(ends)}."]
    page = pages.ROOT / "docs" / "concepts" / "steer.md"
    pages.put(page, "benchmarks/steering/large_scouts.py page", "\n".join(lines))


def _picked(scouts: Sequence[Sequence[float]], training: float, validation: float) -> float:
    """Return the rate that goes on, of (batch size, rate, training loss, validation loss) of each scout."""
    _, best, lowest, told = min(scouts, key=lambda scout: scout[2])
    close = (lr for _, lr, loss, score in scouts if loss <= training * lowest and score <= validation * told)
    return max(best, *close)


if __name__ == "__main__":
    chosen: pages.Options = {**loops.CHOSEN, "tasks": {"nargs": "*", "metavar": "TASK", "choices": [*MANY, []]}}
    pages.carry_out(__doc__, {"run": (run_all, chosen), "page": (page, {})})

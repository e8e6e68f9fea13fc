"""The rules for scouts on other people's tasks: LCBench's 35 tabular ones, from YAHPO Gym's surrogate.

    python benchmarks/steering/other_tasks.py FOLDER [--half first|second|both]

FOLDER has ``lcbench-model.onnx`` and ``lcbench-encoding.json`` of YAHPO Gym (Apache-2.0; needs ``onnxruntime``). One
network (3 layers, at most 256 units, momentum 0.9, weight decay 1e-4, dropout 0.2) is looked up at 6 batch sizes and 7
rates after 3 and after 50 epochs; its training loss is not known there, so scouts are judged by their validation
cross-entropy. A rule's regret is how far its choice ends above the best cell, over how far the median cell does: 0 is
the best, 1 no better than the median. The portfolio is the cell with the best mean rank over the other tasks of the
same half. With the tasks in alphabetical order, the even ones are the first half (for development), the odd ones the
second (looked at once).
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from autobatch.policies import TaskInfo
from autobatch.policies.steer import Scout
from autobatch.policies.steer._scouts import choose_scout
from autobatch.policies.steer._search import plan_scouts
from benchmarks.pages import heading, parser_of

SIZES = (16, 32, 64, 128, 256, 512)
RATES = tuple(float(rate) for rate in np.round(np.logspace(-4, -1, 7), 6))
EARLY, END = 3, 50
CELLS = [(size, rate) for size in SIZES for rate in RATES]
PICK = ((32, RATES[4]), (32, RATES[5]), (128, RATES[5]), (128, RATES[6]))
"""Four scouts at sizes 32 and 128 and high rates, as ``pick-after-i-epochs`` has them, moved to this grid."""

Floats = NDArray[np.float64]


def curves(folder: Path) -> dict[str, tuple[Floats, Floats]]:
    """Return validation cross-entropy of every cell after ``EARLY`` and after ``END`` epochs, by task."""
    session = onnxruntime.InferenceSession(str(folder / "lcbench-model.onnx"))
    codes = json.loads((folder / "lcbench-encoding.json").read_text())
    names = codes["OpenML_task_id"]
    outputs = ("time", "val_accuracy", "val_cross_entropy")
    place = outputs.index("val_cross_entropy")
    found = {}
    for name, code in sorted((name, code) for name, code in names.items() if name.isdecimal()):
        ends = []
        for epoch in (EARLY, END):
            inputs = np.array([[epoch, size, rate, 0.9, 1e-4, 3, 256, 0.2] for size, rate in CELLS], dtype=np.float32)
            told = {"x_cat": np.full((len(CELLS), 1), code, dtype=np.int32), "x_cont": inputs}
            ends.append(np.asarray(session.run(None, told)[0], dtype=float)[:, place])
        found[name] = (ends[0], ends[1])
    return found


def steer_choice(early: Floats) -> int:
    """Return the cell that steer's scouts choose."""
    task = TaskInfo("other", SIZES, RATES, END, 10_000, "validation_loss", (), 0, None, 0.0)
    scouts: list[Scout] = []
    while len(scouts) < len((plan := plan_scouts(task, 3, 0.05, scouts)).configurations):
        cell = plan.configurations[len(scouts)]
        scouts.append(Scout(*cell, (np.nan,), (float(early[CELLS.index(cell)]),)))
    choice = choose_scout(scouts).scout
    assert choice is not None
    return CELLS.index(plan.configurations[choice])


def pick_choice(early: Floats) -> int:
    """Return the cell that the four fixed scouts choose."""
    return min((CELLS.index(cell) for cell in PICK), key=lambda index: early[index])


def main() -> None:
    """Print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--half", choices=("first", "second", "both"), default="first")
    given = parser.parse_args()
    every = curves(given.folder)
    kept = list(every)[{"first": slice(0, None, 2), "second": slice(1, None, 2), "both": slice(None)}[given.half]]
    ranks = {name: every[name][1].argsort().argsort() for name in kept}
    rules: dict[str, Callable[[str], int]] = {
        "steer: up to 3 rates at 32": lambda name: steer_choice(every[name][0]),
        "pick-after-i-epochs: 4 fixed": lambda name: pick_choice(every[name][0]),
        "portfolio of the other tasks": lambda name: int(
            np.mean([ranks[other] for other in kept if other != name], axis=0).argmin()
        ),
        "the middle rate at 32, no scout": lambda _: CELLS.index((32, RATES[len(RATES) // 2])),
        "all 42 cells as scouts": lambda name: int(every[name][0].argmin()),
    }
    print(heading(f"rule ({len(kept)} tasks, {given.half} half) | median regret | mean | worst"))
    for label, rule in rules.items():
        regrets = []
        for name in kept:
            end = every[name][1]
            regrets.append((end[rule(name)] - end.min()) / (np.median(end) - end.min()))
        print(f"| {label} | {np.median(regrets):.2f} | {np.mean(regrets):.2f} | {max(regrets):.2f} |")


if __name__ == "__main__":
    main()

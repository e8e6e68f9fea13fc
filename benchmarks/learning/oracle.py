"""What could be had at best: the policy or fixed configuration that is best in hindsight, task by task.

    python benchmarks/learning/oracle.py

trains nothing. Candidates on a task are all that ``benchmarks/results`` has at least five finished trainings of, on any
seeds: policies, learned ones among them, and fixed configurations, as ``compare``, ``steer``, ``learned_growth`` and
``learned_general`` recorded them with everything charged. The oracle takes the one with the lowest mean log validation
loss. So that it is not paid for luck, it chooses on four fifths of each candidate's trainings and is judged by the last
fifth of the one it chose, five times; what it chose may differ from fifth to fifth. *In the rule's time* it may only
choose what takes no longer than ``steer`` in the mean. The first table sets it beside ``steer`` on each task: the
difference of mean logarithms with Welch's 95 % interval, for the seeds are not the same. The second is of means over
tasks with Student's, for it, trivial baselines and learned policies, each on the tasks that it was recorded on
(``learned-general`` as learned without the task's data). Test losses are only told: nothing is chosen by them.
"""

import math
from functools import cache
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy import stats

from autobatch import BeaconLibrary
from autobatch._artefacts import find_artefact
from autobatch.control.run._files import read_lines
from benchmarks.learning.general_policy import SHIPPED, with_data_left_out
from benchmarks.pages import RESULTS, half_width, heading, relative_interval

TASKS = (
    "digits-resnet8",
    "digits-mlp",
    "digits-densenet8",
    "mnist10k-resnet8",
    "mnist10k-mlp",
    "mnist5k-convnet",
    "cifar5k-resnet8",
    "cifar5k-convnet",
    "diamonds-mlp",
    "topics-gpt",
)
RULE, FOLDS = "steer", 5
BASELINES = ("beacon-follow", "pick-after-i-epochs-stopped", "portfolio")
LEARNED = ("learned-digits", "steer-by-task")
FIGURES = ("validation_loss", "test_loss", "modelled_seconds")
TITLES = "validation loss | test loss | time"


@cache
def candidates(task: str) -> dict[str, np.ndarray]:
    """Return natural logarithms of ``FIGURES`` of each candidate's finished trainings, by seed, shape (seeds, 3)."""
    compared = RESULTS / "compare" / task / "runs.parquet"
    rows: list[dict[str, Any]] = pq.read_table(compared).to_pylist() if compared.exists() else []
    for place in ("steer", "learned_general"):
        rows += read_lines(RESULTS / place / f"{task}.jsonl")
    for row in read_lines(RESULTS / "learned_growth" / f"{task}.jsonl"):
        names = [f"plan {row['growth']:g}, {row['growth_power']:g}, {row['length']:g}"]
        names += ["steer-by-task"] if row["policy"] == "learned" else []
        rows += [row | {"policy": name} for name in names]
    found: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        if row["stopped_because"] == "finished":
            found.setdefault(row["policy"], {})[row["seed"]] = [math.log(row[name]) for name in FIGURES]
    return {name: np.array([own[seed] for seed in sorted(own)]) for name, own in found.items() if len(own) >= FOLDS}


def oracle(task: str, within: float = math.inf) -> tuple[list[str], np.ndarray]:
    """Say what is best in hindsight.

    Args:
        task: name of the task.
        within: longest mean time that it may take, in modelled seconds.

    Returns:
        What was chosen on each four fifths, and the logarithms of ``FIGURES`` on the last fifths of those.
    """
    allowed = {name: own for name, own in candidates(task).items() if seconds(own) <= within * (1.0 + 1e-9)}
    chosen, reached = [], []
    for fold in range(FOLDS):
        means = {name: np.delete(own, np.s_[fold::FOLDS], axis=0)[:, 0].mean() for name, own in allowed.items()}
        chosen.append(min(means, key=means.__getitem__))
        reached.append(allowed[chosen[-1]][fold::FOLDS])
    return chosen, np.concatenate(reached)


def seconds(own: np.ndarray) -> float:
    """Return the mean time of some trainings."""
    return float(np.exp(own[:, 2]).mean())


def best_fixed(task: str) -> str:
    """Return the name of the best fixed beacon's configuration."""
    best = BeaconLibrary.load(find_artefact("envs", task).parent).best_fixed()
    return f"s{best.batch_size}-lr{best.lr:g}"


def apart(ours: np.ndarray, rule: np.ndarray) -> list[str]:
    """Return relative differences between two sets of trainings, with Welch's intervals."""
    cells = []
    for one, other in zip(ours.T, rule.T, strict=True):
        centre, sizes = one.mean() - other.mean(), (len(one), len(other))
        parts = np.array([one.var(ddof=1) / sizes[0], other.var(ddof=1) / sizes[1]])
        degrees = parts.sum() ** 2 / max((parts**2 / (np.array(sizes) - 1)).sum(), 1e-300)
        cells.append(told(centre, float(stats.t.ppf(0.975, max(degrees, 1.0)) * math.sqrt(parts.sum()))))
    return cells


def told(centre: float, half: float) -> str:
    """Return a relative difference and its interval, given those of logarithms."""
    return relative_interval(centre, centre - half, centre + half)


def main() -> None:
    """Print the tables."""
    print(heading(f"task | candidates | oracle | chosen | {TITLES}"))
    means: dict[str, list[np.ndarray]] = {}
    for task in TASKS:
        own = candidates(task)
        rule = own[RULE]
        for name, within in (("any time", math.inf), ("the rule's time", seconds(rule))):
            chosen, reached = oracle(task, within)
            often = ", ".join(f"{one} ({chosen.count(one)})" for one in sorted(set(chosen), key=chosen.index))
            print(f"| {task} | {len(own)} | {name} | {often} | {' | '.join(apart(reached, rule))} |")
            means.setdefault(f"the oracle, {name}", []).append(reached.mean(axis=0) - rule.mean(axis=0))
        named = {"best fixed beacon": best_fixed(task), **{one: one for one in (*BASELINES, *LEARNED)}}
        for name, policy in (named | {SHIPPED: with_data_left_out(task)}).items():
            if policy in own:
                means.setdefault(name, []).append(own[policy].mean(axis=0) - rule.mean(axis=0))
    print("\n" + heading(f"beside `{RULE}` | tasks | {TITLES}"))
    for name, each in means.items():
        logs = np.array(each)
        cells = [told(column.mean(), half_width(column)) for column in logs.T]
        print(f"| {name} | {len(logs)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

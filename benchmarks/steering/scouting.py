"""What tells early which configuration will end best? A replay of the shipped libraries; nothing is trained.

    python benchmarks/steering/scouting.py [--share 0.05] [--short | --sure | --sizes | --two]

Each beacon is stopped, in thought, after a share of its training. What is known then ranks the configurations of its
seed: the training loss of the last epoch, the validation loss after it, or the place in the plane. The plane knows no
beacon of the task itself: a Gaussian process on log C̄ and log L relative to the task's own reference configuration (64
at the rate nearest to 0.1) is fitted to the final losses of all *other* tasks, with and without the training loss
beside them. The table has Spearman's rank correlation with the final validation loss over the whole grid, and by how
much the pick ends above the best: by the mean over the seeds of its configuration, in logarithms of the validation
loss, when all rates at batch size 32 are scouts, and when all rates at 16 to 128 are. Diverged beacons count as
guessing.

With --short: do scouts of one epoch pay in short trainings? The pick among the scouts after 70 % of the epochs
against the middle rate after as many more as the losers took, at batch size 32, by the logarithm of the ratio of their
validation losses (above 0 the epochs are better spent on the middle rate). Rates are constant in both.

With --sure: how sure are the scouts that steer makes? Its search on every task and seed, and by how much the final
validation loss of the pick's configuration (mean over seeds) is above that of the best scout and of the best rate of
the list, all at batch size 32; by how far the pick's training loss was below the next scout's. Then the same on the
small tasks in loops of one's own, by the trainings of ``small_scouts.py``, which are those of steer's plan.

With --sizes: can a scout at another batch size tell what that size comes to? The lowest training loss over the rates at
16 and at 64 after a share of the training, and the lowest final validation loss, beside those at 32: logarithms of the
ratios, on every task, and their rank correlation over the tasks.

With --two: which two of three rates to try where two scouts are all that a training can have? Every three neighbouring
rates of each task's list, at batch size 32: by how much the pick by training loss, after that share of a recorded
task's training or a tenth of a small one's, ends above the best of the three, in logarithms of the validation loss (at
most 1.5).
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from autobatch.beacons import BeaconLibrary
from autobatch.control.run._files import read_lines
from autobatch.policies import TaskInfo
from autobatch.policies.steer import MOST, Scout
from autobatch.policies.steer._scouts import choose_scout
from autobatch.policies.steer._search import _nearest, compared, plan_scouts, start_without_scouts
from autobatch.training import load_task, task_info
from benchmarks.pages import ENVS, RESULTS, heading, parser_of
from benchmarks.steering import small_scouts
from benchmarks.steering.loops import EVERY, logarithm

OUT = RESULTS / "scouting.json"
TASKS = (
    "cifar5k-resnet8",
    "digits-densenet8",
    "digits-mlp",
    "digits-resnet8",
    "mnist10k-densenet8",
    "mnist10k-mlp",
    "mnist10k-resnet8",
)
LATER = ("cifar5k-convnet", "diamonds-mlp", "digits-vit", "mnist5k-convnet", "topics-gpt")
FAR_BEHIND = 1.5
"""What a pick may be above the best of three rates, at most, so that no single one decides a mean."""

CLOSE = 0.1
"""Below this margin two scouts are close."""

SIZE, RATE, SEED, END, TRAIN, VALIDATION, C_BAR, L_CUM = range(8)
REFERENCE = (64, 0.1)
FAR = 8.0
"""Logarithms are cut off here: a beacon that diverges can have any figure."""

Floats = NDArray[np.float64]
Rank = Callable[[str, Floats], Floats]


def read(task: str, share: float) -> Floats:
    """Return one row a beacon: its configuration, its end, and what was known after a share of the training."""
    library = BeaconLibrary.load(ENVS / task)
    epochs = max(len(beacon.rows["epoch"]) for beacon in library.beacons)
    place = max(1, round(share * epochs)) - 1
    rows = []
    for beacon in library.beacons:
        if len(beacon.rows["epoch"]) > place:
            known = (beacon.rows[name][place] for name in ("train_loss", "validation_loss", "c_bar", "l_cum"))
            logs = [math.log(value) if 0.0 < value < math.inf else FAR for value in known]
            end = beacon.final("validation_loss") if beacon.finished else library.diverged_score
            rows.append([beacon.batch_size, beacon.lr, beacon.seed, math.log(end), *np.clip(logs, -FAR, FAR)])
    return np.array(rows)


def relative(rows: Floats, chosen: Floats, columns: list[int]) -> Floats:
    """Return figures relative to the task's reference configuration, seed by seed."""
    rate = min(set(rows[:, RATE]), key=lambda lr: abs(math.log(lr / REFERENCE[1])))
    reference = rows[(rows[:, SIZE] == REFERENCE[0]) & (rows[:, RATE] == rate)]
    return np.array([
        row[columns] - reference[np.argmin(np.abs(reference[:, SEED] - row[SEED]))][columns] for row in chosen
    ])


def elsewhere(tables: dict[str, Floats], columns: list[int]) -> Rank:
    """Return a rule that predicts the end from figures relative to the reference, as the other tasks have it."""
    models = {}
    for task in tables:
        others = [rows for name, rows in tables.items() if name != task]
        inputs = np.vstack([relative(rows, rows, columns) for rows in others])
        ends = np.concatenate([np.minimum(rows[:, END] - rows[:, END].min(), 3.0) for rows in others])
        kernel = ConstantKernel(1.0) * RBF([1.0] * len(columns)) + WhiteKernel(0.1)
        models[task] = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0).fit(inputs, ends)
    return lambda task, chosen: models[task].predict(relative(tables[task], chosen, columns))


def regret(rows: Floats, rank: Callable[[Floats], Floats], sizes: tuple[int, ...]) -> float:
    """Return how far above the best the picks end, as a mean over seeds."""
    among = rows[np.isin(rows[:, SIZE], sizes)]
    found = []
    for seed in set(among[:, SEED]):
        scouts = among[among[:, SEED] == seed]
        means = [among[(among[:, SIZE] == one[SIZE]) & (among[:, RATE] == one[RATE]), END].mean() for one in scouts]
        found.append(means[int(np.argmin(rank(scouts)))] - min(means))
    return float(np.mean(found))


def correlation(rows: Floats, rank: Callable[[Floats], Floats]) -> float:
    """Return the rank correlation with the end, as a mean over seeds."""
    seeds = [rows[rows[:, SEED] == seed] for seed in set(rows[:, SEED])]
    return float(np.mean([spearmanr(rank(some), some[:, END]).statistic for some in seeds]))


def short(epochs: int) -> list[float]:
    """Return what scouts lose against longer training at the middle rate, a figure a task and seed."""
    end, scouts = max(1, round(0.7 * epochs)), min(3, epochs // 3 + 1)
    lost = []
    for task in TASKS:
        library = BeaconLibrary.load(ENVS / task)
        info = task_info(load_task(ENVS / task), library)
        rates = [lr for _, lr in plan_scouts(replace(info, epochs=60), scouts, 0.01).configurations]
        middle = start_without_scouts(info)[1]
        for seed in {own.seed for own in library.beacons}:
            rows = {own.lr: own.rows for own in library.beacons if (own.batch_size, own.seed) == (32, seed)}
            pick = min(rates, key=lambda lr: at(rows[lr]["train_loss"], 1))
            alone = at(rows[middle]["validation_loss"], end + scouts - 1)
            lost.append(math.log(at(rows[pick]["validation_loss"], end) / alone))
    return lost


Pick = tuple[float, float, float, float]
"""What a search came to; see ``searched``."""


Losses, Ends = dict[tuple[float, int], Sequence[float]], dict[tuple[float, int], float]
"""By rate and seed: the training loss of each epoch, and the logarithm of the final validation loss."""


def recorded_at_32(task: str) -> tuple[Losses, Ends]:
    """Return what is recorded of a task at batch size 32."""
    own = {(one.lr, one.seed): one for one in BeaconLibrary.load(ENVS / task).beacons if one.batch_size == 32}
    ends = {key: math.log(one.final("validation_loss")) if one.finished else FAR for key, one in own.items()}
    return {key: one.rows["train_loss"] for key, one in own.items()}, ends


def recorded(task: str) -> list[Pick]:
    """Return what steer's search comes to on a recorded task."""
    return searched(task_info(load_task(ENVS / task), BeaconLibrary.load(ENVS / task)), *recorded_at_32(task))


def small() -> list[Pick]:
    """Return what it comes to on the small tasks in loops of one's own."""
    rows = read_lines(small_scouts.RESULTS)
    picks = []
    for name in dict.fromkeys(row["task"] for row in rows):
        task = EVERY[name]
        own = {(row["lr"], row["seed"]): row for row in rows if row["task"] == name}
        info = TaskInfo(
            name, task.sizes, task.rates, task.epochs, task.ends[0], "validation_loss", (), 0, None, 0.0, steered=True
        )
        ends = {key: logarithm(row, "validation_loss") for key, row in own.items()}
        losses = {key: row["train_losses"] for key, row in own.items()}
        picks += searched(info, losses, ends, {key: row.get("validation_losses") for key, row in own.items()})
    return picks


def searched(
    info: TaskInfo,
    trained: Mapping[tuple[float, int], Sequence[float]],
    ended: Mapping[tuple[float, int], float],
    validated: Mapping[tuple[float, int], Sequence[float] | None] | None = None,
) -> list[Pick]:
    """Return for each seed the margin of steer's pick, and how far it ends above the best scout and the best rate.

    Last comes how far above the best rate the pick of as many fixed scouts ends, the simplest rule: at a sixth, a half
    and five sixths of the span of the list.
    """
    ends = {lr: float(np.mean([end for (rate, _), end in ended.items() if rate == lr])) for lr, _ in ended}
    found = []
    for seed in sorted({seed for _, seed in trained}):
        scouts: list[Scout] = []
        while len(scouts) < len((plan := plan_scouts(info, MOST, 0.05, scouts)).configurations):
            size, lr = plan.configurations[len(scouts)]
            losses = tuple(map(float, trained[lr, seed][: plan.epochs]))
            sound = len(losses) == plan.epochs and math.isfinite(losses[-1])
            scores = tuple(map(float, ((validated or {}).get((lr, seed)) or losses)[: plan.epochs]))
            scouts.append(Scout(size, lr, losses, scores, None if sound else "diverged"))
        choice = choose_scout(compared(info, scouts, plan.epochs))
        if choice.scout is None or choice.margin is None:  # of these losses nothing is said
            continue
        end, lowest = ends[scouts[choice.scout].lr], min(ends.values())
        fixed = min(
            {_nearest(info.learning_rates, place) for place in (1 / 6, 1 / 2, 5 / 6)},
            key=lambda lr: at(trained[lr, seed], plan.epochs),
        )
        above = end - min(ends[scout.lr] for scout in scouts)
        found.append((choice.margin, above, end - lowest, ends[fixed] - lowest))
    return found


WAYS = {"the lower two": (0, 1), "the upper two": (1, 2), "the lowest and the highest": (0, 2), "all three": (0, 1, 2)}


def two(share: float) -> None:
    """Print what two scouts of three rates come to."""
    rows = read_lines(small_scouts.RESULTS)
    known: dict[str, list[tuple[Losses, Ends, int]]] = {"recorded": [], "small": []}
    for task in (*TASKS, *LATER):
        known["recorded"].append((*recorded_at_32(task), max(1, round(share * load_task(ENVS / task).epochs))))
    for name in dict.fromkeys(row["task"] for row in rows):
        own = {(row["lr"], row["seed"]): row for row in rows if row["task"] == name}
        losses: Losses = {key: row["train_losses"] for key, row in own.items()}
        ends = {key: logarithm(row, "validation_loss") for key, row in own.items()}
        known["small"].append((losses, ends, max(map(len, losses.values()))))
    print(heading(f"tasks | triples | {' | '.join(WAYS)}"))
    for told, tasks in known.items():
        lost = np.array([one for losses, ends, epochs in tasks for one in _of_triples(losses, ends, epochs)])
        print(f"| {told} | {len(lost)} | {' | '.join(f'{mean:.3f}' for mean in lost.mean(axis=0))} |")


def _of_triples(losses: Losses, ends: Ends, epochs: int) -> Iterator[list[float]]:
    """Yield for each seed and each three neighbouring rates how far the pick of each way ends above the best."""
    rates = sorted({lr for lr, _ in losses})
    for seed in sorted({seed for _, seed in losses}):
        for three in zip(rates, rates[1:], rates[2:], strict=False):
            if all((lr, seed) in losses for lr in three):
                seen = [at(losses[lr, seed], epochs) for lr in three]
                end = [ends[lr, seed] for lr in three]
                picks = [end[min(way, key=seen.__getitem__)] for way in WAYS.values()]
                yield [min(pick - min(end), FAR_BEHIND) for pick in picks]


def sure(picks: Sequence[Pick]) -> None:
    """Print how often the scout that is ahead ends best."""
    print(heading("ahead of the next scout | picks | also the best scout at the end | above it | above the best rate"))
    for told, some in (
        (f"{CLOSE:.0%} or more", [pick for pick in picks if pick[0] >= CLOSE]),
        ("less", [pick for pick in picks if pick[0] < CLOSE]),
    ):
        _, scout, rate, _ = (np.array(column) for column in zip(*some, strict=True))
        above = " | ".join(f"{column.mean():.3f}, {column.max():.2f}" for column in (scout, rate))
        print(f"| {told} | {len(some)} | {int((scout <= 0.0).sum())} | {above} |")
    ends = {"steer's search": 2, "three fixed rates": 3}
    for told, column in ends.items():
        own = np.array([pick[column] for pick in picks])
        print(f"{told}: {own.mean():.3f} above the best rate of the list, {own.max():.2f} at worst")


def beside(rows: Floats, size: int, column: int) -> float:
    """Return how far the best rate of a size is from the best rate of 32, by means over seeds."""

    def lowest(size: int) -> float:
        some = rows[rows[:, SIZE] == size]
        return float(min(some[some[:, RATE] == rate, column].mean() for rate in set(some[:, RATE])))

    return lowest(size) - lowest(32)


def sizes(share: float) -> None:
    """Print what scouts at other sizes would have told, and what those sizes come to."""
    tasks = (*TASKS, *LATER)
    columns = [(size, column) for size in (16, 64) for column in (TRAIN, END)]
    told = np.array([[beside(read(task, share), *one) for one in columns] for task in tasks])
    print(heading(f"task | 16, after {share:.0%} | 16, at the end | 64, after {share:.0%} | 64, at the end"))
    for task, figures in zip(tasks, told, strict=True):
        print(f"| {task} | {' | '.join(f'{one:+.3f}' for one in figures)} |")
    for size, (early, late) in {16: (0, 1), 64: (2, 3)}.items():
        print(f"{size}: rank correlation over the tasks {spearmanr(told[:, early], told[:, late]).statistic:.2f}")


def at(losses: Sequence[float] | Floats, epoch: int) -> float:
    """Return a loss after an epoch; 10, where a beacon has diverged."""
    value = float(losses[epoch - 1]) if epoch <= len(losses) else math.inf
    return min(value, 10.0) if math.isfinite(value) else 10.0


def main() -> None:
    """Print the table and keep its figures."""
    parser = parser_of(__doc__)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--sure", action="store_true")
    parser.add_argument("--sizes", action="store_true")
    parser.add_argument("--two", action="store_true")
    asked = parser.parse_args()
    if asked.two:
        two(asked.share)
        return
    if asked.sizes:
        sizes(asked.share)
        return
    if asked.sure:
        sure([pick for task in (*TASKS, *LATER) for pick in recorded(task)])
        print("\nsmall tasks in loops of one's own:")
        sure(small())
        return
    if asked.short:
        for epochs in (3, 4, 5, 6, 8, 10):
            lost = short(epochs)
            print(f"{epochs} epochs: {np.mean(lost):+.2f} on average, {min(lost):+.2f} to {max(lost):+.2f}")
        return
    share = asked.share
    tables = {task: read(task, share) for task in TASKS}
    rules: dict[str, Rank] = {
        "training loss": lambda _, rows: rows[:, TRAIN],
        "validation loss": lambda _, rows: rows[:, VALIDATION],
        "plane of other tasks": elsewhere(tables, [C_BAR, L_CUM]),
        "plane and training loss of other tasks": elsewhere(tables, [TRAIN, C_BAR, L_CUM]),
    }
    titles = f"known after {share:.0%} of the training | rank correlation | at 32: regret, worst | at 16 to 128"
    print(heading(titles))
    kept: dict[str, dict[str, list[float]]] = {}
    for name, rule in rules.items():
        ranks = {task: partial(rule, task) for task in TASKS}
        figures = {
            "correlation": [correlation(tables[task], ranks[task]) for task in TASKS],
            "regret_32": [regret(tables[task], ranks[task], (32,)) for task in TASKS],
            "regret_16_128": [regret(tables[task], ranks[task], (16, 32, 64, 128)) for task in TASKS],
        }
        kept[name] = figures
        told = [f"{np.mean(figures[key]):.3f}, {max(figures[key]):.2f}" for key in ("regret_32", "regret_16_128")]
        print(f"| {name} | {np.mean(figures['correlation']):.2f} | {told[0]} | {told[1]} |")
    found = json.loads(OUT.read_text()) if OUT.exists() else {}
    OUT.write_text(json.dumps({**found, f"{share:g}": {"tasks": TASKS, "rules": kept}}, indent=1) + "\n")


if __name__ == "__main__":
    main()

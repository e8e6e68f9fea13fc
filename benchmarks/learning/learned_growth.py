"""How fast batches grow and how long `steer` trains, learned from short real trainings, tested on data left out.

    python benchmarks/learning/learned_growth.py explore [--seeds 1200-1205] [--data-dir data]
    python benchmarks/learning/learned_growth.py fit
    python benchmarks/learning/learned_growth.py run [TASK ...] [--seeds 1500-1509] [--data-dir data]
    python benchmarks/learning/learned_growth.py page

``explore`` draws plans at random, trains each on a seed beside the plan of ``steer``, from the rate that its scouts
mostly take, and appends a line a run to ``benchmarks/results/learned_growth/explored.jsonl``. ``fit`` prints what is
learned from them, with each set of data left out: by how much the loss depends on the plan and on the steps that an
epoch has, and the plan that pays best on each task by its cost table. ``run`` trains whole runs of ``steer``, scouts
and all, under its own plan, under that learned *without the task's data*, and under those of two rules set by hand, all
on each seed, and appends to ``benchmarks/results/learned_growth/TASK.jsonl``; where plans are one, so are the runs.
``page`` prints the tables of ``docs/how-to/train-a-policy.md``. What is there is not trained again. One process, one
thread.
"""

import math
import random
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from scipy import stats

from autobatch.beacons import BeaconLibrary
from autobatch.control.run._files import read_lines
from autobatch.policies import TaskInfo, load_policy_spec
from autobatch.policies.steer._by_task import CHOICES, RULE, PlanChoice, best_plan, choice_seconds, described, expected
from autobatch.policies.steer._plan import Plan, grown
from autobatch.training import load_data, load_task, task_info
from benchmarks import pages
from benchmarks.pages import ENVS
from benchmarks.steering import steer
from benchmarks.steering.schedules import train_course

RESULTS = pages.RESULTS / "learned_growth"
EXPLORED = RESULTS / "explored.jsonl"


DECAY = 0.75
DRAWN = 4
"""Plans that are drawn for each task and seed."""

RATES = {
    "digits-mlp": 0.05,
    "digits-resnet8": 0.05,
    "digits-densenet8": 0.2,
    "diamonds-mlp": 0.008,
    "topics-gpt": 0.032,
    "mnist10k-mlp": 0.025,
}
"""The tasks that are learned from, and the rate that the scouts of ``steer`` take most often there at 32."""

EXTRA = ("cifar5k-convnet", "mnist5k-convnet")
"""Tasks that are tested too, and never learned from."""

SCOUTED = 32
"""Batch size of scouts, by which the steps of an epoch are told."""

THRESHOLD, GROWN = 128, PlanChoice(4.0, 1.0, 0.7)
"""Set by hand: where an epoch has more steps than that, batches grow four times as far, the rate in proportion."""

PRICE = 1 / 6
"""What a per cent of time is worth in per cent of loss: the whole length costs 43 % more and leaves 6 % less loss."""

PRIOR = 0.05
"""Prior scatter of an effect on the logarithm of the loss."""

BETWEEN = 0.03
"""Scatter that is added to that of a task's seeds, so that a task that hardly scatters is not all there is."""

FIGURES = ("validation_loss", "test_loss", "test_error", "modelled_seconds", "optimizer_steps")


def course(task: TaskInfo, lr: float, choice: PlanChoice) -> list[tuple[int, float]]:
    """Return batch size and rate of each epoch."""
    plan = Plan.of(task.epochs, choice.length, DECAY)
    factors = (plan.factor(epoch) for epoch in range(plan.end))
    grow = (task.batch_sizes, task.costs, (choice.growth, choice.growth_power))
    return [(size, lr * factor) for size, factor in (grown(32, factor, *grow) for factor in factors)]


def explore(seeds: Iterable[int], data_dir: Path | None) -> None:
    """Train what is missing of the plans that are drawn."""
    done = {(row["task"], row["seed"], *chosen(row)) for row in read_lines(EXPLORED)}
    for seed in seeds:
        for name, lr in RATES.items():
            task, info = load_task(ENVS / name), known(name)
            data = load_data(task, data_dir, torch.device("cpu"))
            others = [choice for choice in CHOICES if choice != RULE]
            for choice in (RULE, *random.Random(f"{name}{seed}").sample(others, DRAWN)):
                if (name, seed, *choice) in done:
                    continue
                _, figures = train_course(task, data, seed, course(info, lr, choice))
                pages.keep(EXPLORED, {"task": name, "seed": seed, **choice._asdict(), **figures})


class Effects(NamedTuple):
    """What the explored runs say: by how much a plan changes the logarithm of the loss.

    Attributes:
        loss: by what ``described`` returns, shape (6,).
        covariance: of ``loss``, shape (6, 6).
    """

    loss: np.ndarray
    covariance: np.ndarray


@cache
def known(name: str) -> TaskInfo:
    """Return a task as it is known before it begins, with its cost table."""
    return task_info(load_task(ENVS / name), BeaconLibrary.load(ENVS / name))


def chosen(row: pages.Row) -> PlanChoice:
    """Return the plan of a run."""
    return PlanChoice(*(row[name] for name in PlanChoice._fields))


def data_of(name: str) -> str:
    """Return what a task trains on."""
    return name.partition("-")[0].rstrip("0123456789k")


@cache
def effects(without: str) -> Effects:
    """Return what is learned from the tasks on other data, each run weighed by how much its task's scatter."""
    rows = [row for row in read_lines(EXPLORED) if data_of(row["task"]) != without]
    rule = {(row["task"], row["seed"]): row for row in rows if chosen(row) == RULE}
    inputs, losses, weights = [], [], []
    for name in dict.fromkeys(row["task"] for row in rows):
        own = [row for row in rows if row["task"] == name and chosen(row) != RULE and (name, row["seed"]) in rule]
        apart = [_loss(row) - _loss(rule[name, row["seed"]]) for row in own]
        inputs += [described(known(name), chosen(row)) for row in own]
        losses += apart
        weights += [1.0 / (float(np.var(apart)) + BETWEEN**2)] * len(own)
    x, y, w = np.array(inputs), np.array(losses), np.array(weights)
    covariance = np.linalg.inv((x * w[:, None]).T @ x + np.eye(x.shape[1]) / PRIOR**2)
    return Effects(covariance @ (x * w[:, None]).T @ y, covariance)


def _loss(row: pages.Row) -> float:
    return 0.5 * (math.log(row["validation_loss"]) + math.log(row["test_loss"]))


def learned(name: str, without: str) -> PlanChoice:
    """Return the plan that gains most on a task, by what tasks on other data than ``without`` say."""
    own = effects(without)
    return best_plan(known(name), own.loss.tolist(), own.covariance.tolist(), PRICE, DECAY)[0]


def plans(name: str) -> dict[str, PlanChoice]:
    """Return the plan that each policy has for a task."""
    steps = known(name).train_size / SCOUTED
    adaptive = load_task(ENVS / name).optimizer.name == "adamw"
    return {
        "steer": RULE,
        "learned": learned(name, data_of(name)),
        "threshold": GROWN if steps > THRESHOLD else RULE,
        "under AdamW": GROWN if adaptive else RULE,
    }


def fit() -> None:
    """Print what is learned, and what the policy's file has of it."""
    for without in ("", *dict.fromkeys(map(data_of, (*RATES, *EXTRA)))):
        own = effects(without)
        errors = np.sqrt(np.diag(own.covariance))
        told = ", ".join(f"{value:+.3f} ± {error:.3f}" for value, error in zip(own.loss, errors, strict=True))
        print(f"without {without or 'nothing'}: {told}")
        for name in (*RATES, *EXTRA):
            if without in {"", data_of(name)}:
                task, choice = known(name), learned(name, without)
                change, error = expected(described(task, choice), own.loss.tolist(), own.covariance.tolist())
                time = choice_seconds(task, choice, DECAY) / choice_seconds(task, RULE, DECAY)
                print(f"  {name}: {tuple(choice)}, log loss {change:+.3f} ± {error:.3f}, time {time:.2f}")
    own = effects("")
    shipped = {"effects": own.loss.round(5).tolist(), "covariance": own.covariance.round(7).tolist()}
    print(yaml.safe_dump(shipped, default_flow_style=None, width=120))


def run(tasks: Iterable[str], seeds: Iterable[int], data_dir: Path | None) -> None:
    """Train what is missing, the tasks taking turns."""
    rule = load_policy_spec("steer")
    choices = {name: plans(name) for name in tasks}
    for seed in seeds:
        for name, own in choices.items():
            path = RESULTS / f"{name}.jsonl"
            for label, choice in own.items():
                rows = read_lines(path)
                if (label, seed) in {(row["policy"], row["seed"]) for row in rows}:
                    continue
                same = [row for row in rows if row["seed"] == seed and chosen(row) == choice]
                if same:  # the same run, bit for bit
                    pages.keep(path, same[0] | {"policy": label})
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    spec = {"name": label, "kind": "steer", "parameters": {**rule.parameters, **choice._asdict()}}
                    (Path(folder) / "policy.yaml").write_text(yaml.safe_dump(spec))
                    row = steer.train(name, f"{folder}/policy.yaml", seed, data_dir)
                pages.keep(path, row | {"policy": label, **choice._asdict()})
                print(f"{name} {label} {seed}: {row['validation_loss']:.4f} {row['test_loss']:.4f}", flush=True)


def page() -> None:
    """Print the tables: each task whose runs differ, all pairs, the means over tasks; then the rules set by hand."""
    figures = " | ".join(name.replace("_", " ") for name in FIGURES[:3]) + " | time | steps"
    print(pages.heading(f"task | growth, power, length | seeds | {figures}"))
    every = {name: logs for name in (*RATES, *EXTRA) if len(logs := beside(name, "learned", "steer"))}
    for name, logs in every.items():
        if logs.any():
            plan = ", ".join(f"{value:g}" for value in plans(name)["learned"])
            print(f"| {name} | {plan} | {len(logs)} | {' | '.join(told_mean(column) for column in logs.T)} |")
    print(over_all("all pairs |", np.concatenate(list(every.values()))))
    print(over_all("the tasks' means |", np.array([logs.mean(axis=0) for logs in every.values()])))
    print("\n" + pages.heading(f"policy | beside | other plans on | tasks | pairs | {figures}"))
    for one, other in (("threshold", "steer"), ("under AdamW", "steer"), ("learned", "threshold")):
        every = {name: logs for name in (*RATES, *EXTRA) if len(logs := beside(name, one, other))}
        apart = [name for name in every if plans(name)[one] != plans(name)[other]]
        pairs = np.concatenate(list(every.values()))
        print(over_all(f"{one} | {other} | {', '.join(apart)} | {len(every)}", pairs))


def beside(name: str, one: str, other: str) -> np.ndarray:
    """Return by how much the logarithms of two policies' figures differ, a row for each seed that both have."""
    rows = read_lines(RESULTS / f"{name}.jsonl")
    ours, theirs = ([row for row in rows if row["policy"] == label] for label in (one, other))
    return np.array(list(pages.paired(ours, theirs, FIGURES).values()))


def over_all(title: str, logs: np.ndarray) -> str:
    """Return a row of what differences over several tasks come to."""
    return f"| {title} | {len(logs)} | {' | '.join(told_test(column) for column in logs.T)} |"


def told_mean(logs: np.ndarray) -> str:
    """Return a relative difference with its 95 % interval (Student, paired)."""
    centre, half = float(logs.mean()), pages.half_width(logs) if len(logs) > 1 else 0.0
    return pages.relative_interval(centre, centre - half, centre + half)


def told_test(logs: np.ndarray) -> str:
    """Return the same with the p-values of Student's and Wilcoxon's paired tests, unless nothing differs."""
    if not logs.any():
        return "none"
    student, wilcoxon = stats.ttest_1samp(logs, 0.0).pvalue, stats.wilcoxon(logs).pvalue
    return f"{told_mean(logs)}; p = {student:.2g}, {wilcoxon:.2g}"


if __name__ == "__main__":
    running = {"tasks": {"nargs": "*", "default": [*RATES, *EXTRA]}, **pages.seeds("1500-1509"), **pages.DATA_DIR}
    commands = {
        "explore": (explore, {**pages.seeds("1200-1205"), **pages.DATA_DIR}),
        "run": (run, running),
        "fit": (fit, {}),
        "page": (page, {}),
    }
    pages.carry_out(__doc__, commands)

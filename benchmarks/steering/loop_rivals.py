"""What else can be had for about one training, on the small tasks of ``loops.py``, beside scouts and a steered rate.

    pip install optuna prodigyopt
    python benchmarks/steering/loop_rivals.py run [--data-dir DIR] [TASK ...]
    python benchmarks/steering/loop_rivals.py page

``run`` trains what is missing on the fresh seeds of ``loops.py``, one thread, and appends one line a run to the same
``benchmarks/results/steer_loops.jsonl``; a task needs its grid and its runs of ``steer`` there. All train the whole
length under a cosine schedule, but for the trials of ``optuna-halving``:

- ``middle``: batches of 32 at the middle rate of the task's list, as one who knows nothing would;
- ``seesaw``: the same, and at factors of 1/2, 1/4, ... of the schedule the batch doubles, the rate by the root of that;
- ``late-switch``: the same, and batches of 128 after 75 % of the training;
- ``prodigy``: the optimizer that finds its rate itself, with the task's weight decay, batches of 32;
- ``pick-after-i-epochs``: 32 and 128 at the two highest rates for 5 % of the training each, and the one with the lowest
  validation loss goes on;
- ``portfolio``: the batch size and the place in the list of rates that have the best mean rank over the grids of all
  other tasks;
- ``optuna-halving``: trials of a quarter of the length, drawn at random and pruned by successive halving, until they
  have taken the examples of one training.

Tasks of many examples (``large_tasks.py``) are trained where they are named; their table is ``large.py``'s.

``page`` writes the table of ``docs/steer.md``: over tasks, relative to the best of the grid, and ``steer`` beside each
by Student's and Wilcoxon's paired tests on the tasks' means: on all, on the twenty-two that took part in choosing few
rules, and on the ten of these that took part in hardly any. Examples and steps have in them what was thrown away.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import optuna  # type: ignore[import-not-found, unused-ignore]
import torch
from prodigyopt import Prodigy
from scipy import stats
from torch import Tensor

from benchmarks import pages
from benchmarks.learning.learned_growth import told_test
from benchmarks.pages import Row, relative
from benchmarks.steering import loops
from benchmarks.steering.brought_tasks import BROUGHT
from benchmarks.steering.large_tasks import LARGE
from benchmarks.steering.loop_tasks import Task
from benchmarks.steering.loops import CHOSEN, EVERY, FRESH, SIZE, SMALL, logarithm
from benchmarks.steering.newest_tasks import NEWEST

PLACES = 5
"""Places in a list of rates that a portfolio tells apart, from the lowest to the highest."""

Plan = Callable[[int], tuple[int, float]]
"""Batch size and rate of an epoch, counted from 0."""


class Training:
    """A training of a small task that goes on epoch by epoch."""

    def __init__(self, task: Task, x: Tensor, y: Tensor, seed: int) -> None:
        """Begin with the weights and the order of a seed."""
        torch.manual_seed(seed)
        self.task, self.x, self.y = task, x, y
        self.model = task.model()
        self.optimizer = task.optimizer(self.model.parameters(), task.rates[0])
        self.generator = torch.Generator().manual_seed(seed)
        self.epoch = self.steps = self.examples = 0
        self.batches = Counter[int]()
        self.diverged = False

    def go_on(self, plan: Plan, until: int) -> "Training":
        """Train until an epoch, or until a loss is no number."""
        while self.epoch < until and not self.diverged:
            batch_size, lr = plan(self.epoch)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            total = 0.0
            for chosen in torch.randperm(self.task.ends[0], generator=self.generator).split(batch_size):
                self.optimizer.zero_grad()
                value = self.task.loss(self.model(self.x[chosen]), self.y[chosen])
                value.backward()
                self.optimizer.step()
                total, self.steps = total + value.item(), self.steps + 1
                self.batches[batch_size] += 1
            self.epoch, self.examples = self.epoch + 1, self.examples + self.task.ends[0]
            self.diverged = not math.isfinite(total)
        return self

    def spent(self) -> Row:
        """Return what it has taken."""
        return {"steps": self.steps, "examples": self.examples, "batches": dict(sorted(self.batches.items()))}

    def ends(self) -> Row:
        """Return the losses that it has come to, None where they are no numbers."""
        if self.diverged:
            return {"validation_loss": None, "test_loss": None}
        return loops.ends(self.task, self.model, self.x, self.y)


def cosine(task: Task, batch_size: int, lr: float) -> Plan:
    """Return the plan of one batch size under a cosine schedule over the whole length."""
    return lambda epoch: (batch_size, lr * falls_to(task, epoch))


def falls_to(task: Task, epoch: int) -> float:
    """Return the factor of the cosine schedule in an epoch."""
    return (1 + math.cos(math.pi * epoch / task.epochs)) / 2


def middle(task: Task) -> float:
    """Return the middle rate of a task's list."""
    return task.rates[len(task.rates) // 2]


def seesaw(task: Task) -> Plan:
    """Return the plan whose batch doubles where the schedule has halved the rate (Meterez et al. 2025)."""

    def plan(epoch: int) -> tuple[int, float]:
        factor = falls_to(task, epoch)
        size = min(task.sizes[-1], SIZE * 2 ** math.floor(-math.log2(factor)))
        return size, middle(task) * factor * math.sqrt(size / SIZE)

    return plan


def late(task: Task) -> Plan:
    """Return the plan that switches to the largest batch after three quarters (Wang et al. 2026)."""
    usual = cosine(task, SIZE, middle(task))
    return lambda epoch: (SIZE if epoch < 0.75 * task.epochs else task.sizes[-1], usual(epoch)[1])


def whole(plan: Callable[[Task], Plan]) -> Callable[[str, Task, Tensor, Tensor, int], Row]:
    """Return what trains by a plan to its end."""

    def train(_: str, task: Task, x: Tensor, y: Tensor, seed: int) -> Row:
        training = Training(task, x, y, seed).go_on(plan(task), task.epochs)
        return {**training.ends(), **training.spent()}

    return train


def prodigy(_: str, task: Task, x: Tensor, y: Tensor, seed: int) -> Row:
    """Train with the optimizer that finds its rate itself (Mishchenko and Defazio 2023)."""
    training = Training(task, x, y, seed)
    decay = training.optimizer.defaults.get("weight_decay", 0.0)
    training.optimizer = Prodigy(training.model.parameters(), lr=1.0, weight_decay=decay)
    training.go_on(cosine(task, SIZE, 1.0), task.epochs)
    return {**training.ends(), **training.spent()}


def pick_after_epochs(_: str, task: Task, x: Tensor, y: Tensor, seed: int) -> Row:
    """Train four configurations for a twentieth each and go on with the best validated (Egele et al. 2024)."""
    until = max(1, round(0.05 * task.epochs))
    found = []
    for configuration in [(size, lr) for size in (SIZE, task.sizes[-1]) for lr in sorted(task.rates)[-2:]]:
        plan = cosine(task, *configuration)
        training = Training(task, x, y, seed).go_on(plan, until)
        found.append((logarithm(training.ends(), "validation_loss"), len(found), training, plan, configuration))
    *_, best, plan, configuration = min(found)
    best.go_on(plan, task.epochs)
    trained = [one[2] for one in found]
    return {
        **best.ends(),
        "steps": sum(one.steps for one in trained),
        "examples": sum(one.examples for one in trained),
        "batches": dict(sorted(sum((one.batches for one in trained), Counter[int]()).items())),
        "start": list(configuration),
    }


def portfolio(name: str, task: Task, x: Tensor, y: Tensor, seed: int) -> Row:
    """Train the configuration with the best mean rank over all other tasks (Brazdil and Soares 2000)."""
    found, cells = loops.recorded(), [(size, place) for size in task.sizes for place in range(PLACES)]
    ranks = []
    for other in LARGE if name in LARGE else SMALL:
        alike = other != name and EVERY[other].sizes == task.sizes
        if alike and (other, loops.best_of(other, found), FRESH[-1]) in found:
            losses = [
                fmean(
                    logarithm(found[other, f"s{size}-lr{at_place(EVERY[other], place):g}", own], "validation_loss")
                    for own in loops.searched(other)
                )
                for size, place in cells
            ]
            ranks.append(stats.rankdata(losses))
    size, place = cells[int(np.mean(ranks, 0).argmin())]
    lr = at_place(task, place)
    row = whole(lambda task: cosine(task, size, lr))(name, task, x, y, seed)
    return {**row, "start": [size, lr], "others": len(ranks)}


def at_place(task: Task, place: int) -> float:
    """Return the rate at a place of a task's list."""
    return sorted(task.rates)[round(place / (PLACES - 1) * (len(task.rates) - 1))]


def halving(_: str, task: Task, x: Tensor, y: Tensor, seed: int) -> Row:
    """Carry out trials of a quarter of the length under Optuna's successive halving, for the examples of a training."""
    short = task._replace(epochs=max(1, round(task.epochs / 4)))
    budget = task.epochs
    study = optuna.create_study(
        direction="minimize",
        sampler=optuna.samplers.RandomSampler(seed=seed),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=4),
    )
    spent, steps, batches, best = 0, 0, Counter[int](), {"validation_loss": None, "test_loss": None, "start": None}
    while spent < budget:
        trial = study.ask()
        size = trial.suggest_categorical("batch_size", task.sizes)
        lr = trial.suggest_categorical("lr", task.rates)
        training, plan = Training(short, x, y, seed), cosine(short, size, lr)
        state, loss = optuna.trial.TrialState.COMPLETE, math.inf
        while training.epoch < short.epochs:
            if spent == budget:
                state = optuna.trial.TrialState.FAIL
                break
            training.go_on(plan, training.epoch + 1)
            spent += 1
            ends = training.ends()
            if ends["validation_loss"] is None:
                state = optuna.trial.TrialState.FAIL
                break
            loss = ends["validation_loss"]
            trial.report(loss, training.epoch)
            if training.epoch < short.epochs and trial.should_prune():
                state = optuna.trial.TrialState.PRUNED
                break
        steps += training.steps
        batches += training.batches
        complete = state == optuna.trial.TrialState.COMPLETE
        study.tell(trial, loss if complete else None, state=state)
        if complete and (best["validation_loss"] is None or loss < best["validation_loss"]):
            best = {**training.ends(), "start": [size, lr]}
    return {**best, "steps": steps, "examples": spent * task.ends[0], "batches": dict(sorted(batches.items()))}


RIVALS = {
    "middle": whole(lambda task: cosine(task, SIZE, middle(task))),
    "seesaw": whole(seesaw),
    "late-switch": whole(late),
    "prodigy": prodigy,
    "pick-after-i-epochs": pick_after_epochs,
    "portfolio": portfolio,
    "optuna-halving": halving,
}


def run_all(tasks: Sequence[str], data_dir: Path | None) -> None:
    """Train what is missing of the tasks, the seeds taking turns."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for seed in FRESH:
        for name, task, x, y in loops.loaded(tasks or list(SMALL), data_dir):
            for rival, train in RIVALS.items():
                if (name, rival, seed) not in loops.recorded():
                    row = {"task": name, "run": rival, "seed": seed, **train(name, task, x, y, seed)}
                    pages.keep(loops.RESULTS, row)
                    print(row, flush=True)


def page() -> None:
    """Write the table over the tasks that have all rivals, by the seeds that all of them have."""
    found = loops.recorded()
    runs = ("steer", *RIVALS)
    names = [name for name in SMALL if all((name, run, FRESH[0]) in found for run in runs)]
    seeds = [seed for seed in FRESH if all((name, run, seed) in found for name in names for run in runs)]

    def beside(run: str, name: str) -> list[float]:
        """Return test loss, examples and steps of a task's runs beside the best of its grid, as logarithms."""
        rows, best = ([found[name, one, seed] for seed in seeds] for one in (run, loops.best_of(name, found)))
        loss = fmean(logarithm(row, "test_loss") for row in rows) - fmean(logarithm(row, "test_loss") for row in best)
        return [loss, *(math.log(fmean(row[what] for row in rows) / best[0][what]) for what in ("examples", "steps"))]

    figures = {run: np.array([beside(run, name) for name in names]) for run in runs}
    titles = "what is done | test loss, mean | median | within 7 % | examples | steps | test loss of `steer` beside it"
    titles += " | lower on | least | on the twenty-two newest | on the ten brought"
    lines = [pages.heading(titles)]
    newer = [[name in group for name in names] for group in ({**NEWEST, **BROUGHT}, BROUGHT)]
    for run, own in figures.items():
        losses, costs = own[:, 0], own[:, 1:].mean(0)
        apart = figures["steer"][:, 0] - losses
        tests = [told_test(apart), f"{100 * np.mean(apart < 0):.0f} %", f"1 / {math.exp(-apart.min()):.0f}"]
        tests += [told_test(apart[group]) for group in newer]
        cells = [
            f"`{run}`",
            relative(float(losses.mean())),
            relative(float(np.median(losses))),
            f"{100 * np.mean(losses <= math.log(loops.NEAR)):.0f} %",
            *(f"{math.exp(cost):.2f}" for cost in costs),
            *([""] * len(tests) if run == "steer" else tests),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"{len(names)} tasks, {len(seeds)} seeds each."]
    pages.put(pages.ROOT / "docs" / "steer.md", "benchmarks/steering/loop_rivals.py page", "\n".join(lines))


if __name__ == "__main__":
    pages.carry_out(__doc__, {"run": (run_all, CHOSEN), "page": (page, {})})

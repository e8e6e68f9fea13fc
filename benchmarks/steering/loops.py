"""Scouts and a steered rate in loops of one's own, on many small tasks, beside a whole grid.

    python benchmarks/steering/loops.py run [--data-dir DIR] [TASK ...]
    python benchmarks/steering/loops.py page

Regression, classes, labels, images, sequences, a text, an autoencoder, factors of a matrix; SGD, momentum, Adam, AdamW,
RMSprop; data that come with scikit-learn or Python, or are made here. On the first eighteen tasks two rules of scouts
were chosen (how many steps they take, and half the batch at the highest rate); eight more came after that, and twelve
(``latest_tasks.py``) after every rule; five of these read MNIST or CIFAR-10 from ``--data-dir``. The twelve after them
(``newest_tasks.py``) and the ten last (``brought_tasks.py``, four of them from ``--data-dir``) were written, and their
grids trained, before any controller ran on them. Those of few epochs (``few_epochs_tasks.py``) and of many examples
(``large_tasks.py``, whose table ``large.py`` writes) have a grid of one seed.

``run`` trains what is missing, one thread, and appends one line a run to ``benchmarks/results/steer_loops.jsonl``: a
grid of the task's batch sizes and rates with a cosine schedule over the whole length, two seeds each; its best
configuration on four fresh seeds; and on the same seeds ``autobatch.scout`` and a controller with ``rates="steered"``
that goes on from there, as they are and where nothing is measured.
``page`` writes the table of ``docs/steer.md``, of tasks that were run to their end.
Differences are of logarithms of losses on examples that neither chose by; steps and examples have the scouts' in them.
"""

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

import autobatch
from autobatch.control import BatchPlan, MeasuringPlan, NeverMeasure
from autobatch.policies import Policy
from autobatch.policies.steer import _search
from benchmarks import pages
from benchmarks.learning.learned_growth import told_test
from benchmarks.pages import Row, relative
from benchmarks.steering.brought_tasks import BROUGHT
from benchmarks.steering.few_epochs_tasks import FEW
from benchmarks.steering.large_tasks import LARGE
from benchmarks.steering.latest_tasks import LATEST
from benchmarks.steering.loop_tasks import LATER, TASKS, Task
from benchmarks.steering.newest_tasks import NEWEST
from benchmarks.steering.whole_tasks import WHOLE

RESULTS = pages.RESULTS / "steer_loops.jsonl"
SMALL = {**TASKS, **LATER, **LATEST, **NEWEST, **BROUGHT}
EVERY = {**SMALL, **FEW, **LARGE, **WHOLE}
SIZE = 32
"""What scouts train at, and who knows nothing would."""
SEARCHED, FRESH = (0, 1), (10, 11, 12, 13)
NEAR, FAR = 1.07, 1.3
"""Test loss over that of the best of the grid up to which a task counts as near, and from which the page names it."""
UNMEASURED = "steer, nothing measured"
"""The run of a controller that measures nothing, and so does not go by the noise scale."""
AT_32 = "steer, scouts at 32"
"""The run as if no training had many steps, on tasks of many."""
LARGER = "steer, larger batches"
"""The run that takes larger batches where examples are many, whatever they take, on whole data sets."""
UNLISTED = "steer, nothing listed"
"""The run of a loop that lists neither sizes nor rates, but gives its optimizer a usual rate."""
USUAL = {True: 0.01, False: 0.001}
"""That rate, for SGD and for others: what Keras gives them by itself (SGD 0.01; RMSprop, Adam, AdamW, Nadam 0.001)."""
FAR_OFF = {f"{UNLISTED}, a tenth of that rate": 0.1, f"{UNLISTED}, ten times that rate": 10.0}
"""The same where the optimizer has a rate that is far off, on the first of the seeds."""
AT_USUAL = "usual"
"""The training at that rate and a batch size of 32."""
BETWEEN = "steer, decisions between epochs"
"""The run of a controller that decides between epochs only, on tasks of few."""
CHOSEN: pages.Options = {
    "tasks": {"nargs": "*", "metavar": "TASK", "choices": [*EVERY, []]},
    "--data-dir": {
        "type": Path,
        "help": "where MNIST, the folder cifar10, diamonds.csv, topics.txt, flights.csv and shuttle.csv lie",
    },
}
"""Options for the tasks; all of them where none is named."""


def loss_of(model: nn.Module, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> float:
    """Return the loss of a model as it is used."""
    model.eval()
    with torch.no_grad():
        value = loss(model(x), y).item()
    model.train()
    return value


def fixed(task: Task, x: Tensor, y: Tensor, batch_size: int, lr: float, seed: int) -> Row:
    """Train at one batch size with a cosine schedule."""
    train = task.ends[0]
    torch.manual_seed(seed)
    model = task.model()
    optimizer = task.optimizer(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, task.epochs)
    generator, steps = torch.Generator().manual_seed(seed), 0
    for _ in range(task.epochs):
        total = 0.0
        for chosen in torch.randperm(train, generator=generator).split(batch_size):
            optimizer.zero_grad()
            value = task.loss(model(x[chosen]), y[chosen])
            value.backward()
            optimizer.step()
            total, steps = total + value.item(), steps + 1
        schedule.step()
        if not math.isfinite(total):
            return {"validation_loss": None, "test_loss": None, "steps": steps, "examples": steps * batch_size}
    return {**ends(task, model, x, y), "steps": steps, "examples": task.epochs * train}


def ends(task: Task, model: nn.Module, x: Tensor, y: Tensor) -> Row:
    """Return the losses that a model comes to, None where they are no numbers."""
    train, validation = task.ends
    found = {
        "validation_loss": loss_of(model, x[train:validation], y[train:validation], task.loss),
        "test_loss": loss_of(model, x[validation:], y[validation:], task.loss),
    }
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def steered(
    task: Task,
    x: Tensor,
    y: Tensor,
    seed: int,
    measuring: MeasuringPlan | None = None,
    plan: BatchPlan | None = None,
    policy: Policy | str = "beacon-follow",
    own: float | None = None,
    after_epoch: Callable[[nn.Module, Optimizer], None] | None = None,
) -> Row:
    """Scout with the loop, and go on with what was best; ``after_epoch`` is called there after each epoch.

    With ``own``, the rate that the loop gives its optimizer, neither sizes nor rates are listed.
    """
    train, validation = task.ends
    data, spent, batches = TensorDataset(x[:train], y[:train]), {"steps": 0, "examples": 0}, Counter[int]()

    def loop(
        controller: autobatch.AutoBatchController, then: Callable[[nn.Module, Optimizer], None] | None = None
    ) -> nn.Module:
        torch.manual_seed(seed)
        model = task.model()
        optimizer = task.optimizer(model.parameters(), own or task.rates[len(task.rates) // 2])
        controller.attach(model, optimizer, dataset_size=train, epochs=task.epochs)
        loader = DataLoader(data, batch_sampler=controller.batch_sampler)
        for _ in controller.each_epoch():
            for inputs, targets in loader:
                with controller.step() as step:
                    step.backward(task.loss(model(inputs), targets))
                optimizer.step()
                optimizer.zero_grad()
                spent["steps"] += 1
                spent["examples"] += len(inputs)
                batches[next((size for size in task.sizes if size >= len(inputs)), task.sizes[-1])] += 1
            controller.end_epoch(val_loss=loss_of(model, x[train:validation], y[train:validation], task.loss))
            if then is not None:
                then(model, optimizer)
        return model

    with tempfile.TemporaryDirectory() as out:
        report = autobatch.scout(
            loop,
            **({} if own else {"learning_rates": task.rates, "batch_sizes": task.sizes}),
            seed=seed,
            measuring=measuring,
            plan=plan,
            rates="steered",
            out=out,
        )
        model = loop(
            autobatch.AutoBatchController(
                policy=policy,
                scouts=report,
                rates="steered",
                seed=seed,
                batch_sizes=None if own else task.sizes,
                measuring=measuring,
                plan=plan,
            ),
            after_epoch,
        )
    scouted = [
        [one.scout.batch_size, one.scout.lr, one.scout.train_losses[-1], one.scout.scores[-1]]
        for one in report.trained
        if one.scout.ended is None
    ]
    started = {
        "start": [report.batch_size, report.lr],
        "scouted": scouted,
        "batches": dict(sorted(batches.items())),
    }
    return {**ends(task, model, x, y), **spent, **started}


def usual_rate(task: Task) -> float:
    """Return the rate that a loop gives its optimizer where nobody has thought about it."""
    optimizer = task.optimizer([nn.Parameter(torch.zeros(1))], 0.1)
    return USUAL[isinstance(optimizer, torch.optim.SGD)]


def recorded() -> dict[tuple[str, str, int], Row]:
    """Return the runs that are there, by task, run and seed."""
    return pages.keyed(RESULTS, "task", "run", "seed")


def logarithm(row: Row, figure: str) -> float:
    """Return the logarithm of a loss; below 0.001 it counts as that, and a training that diverged as 20."""
    return 3.0 if row[figure] is None else math.log(min(max(row[figure], 1e-3), 20.0))


def best_of(name: str, found: dict[tuple[str, str, int], Row]) -> str:
    """Return the configuration of the grid with the lowest validation loss, in the mean over its seeds."""
    grid = [f"s{size}-lr{lr:g}" for size in EVERY[name].sizes for lr in EVERY[name].rates]
    return min(
        grid, key=lambda one: fmean(logarithm(found[name, one, seed], "validation_loss") for seed in searched(name))
    )


def searched(name: str) -> tuple[int, ...]:
    """Return the seeds of a task's grid."""
    return SEARCHED[: 2 if name in SMALL else 1]


def loaded(names: Sequence[str], folder: Path | None) -> Iterator[tuple[str, Task, Tensor, Tensor]]:
    """Yield tasks with their data, all of them for none, to be trained on one thread."""
    torch.set_num_threads(1)
    for name in names or EVERY:
        task = EVERY[name]
        if task.stored and folder is None:
            print(f"{name} left out: its data are read from the folder that --data-dir names", flush=True)
        else:
            yield name, task, *(task.data(folder) if task.stored else task.data())


def run_all(tasks: Sequence[str], data_dir: Path | None) -> None:
    """Train what is missing of the tasks."""
    for name, task, x, y in loaded(tasks, data_dir):
        grid = {f"s{size}-lr{lr:g}": (size, lr) for size in task.sizes for lr in task.rates}

        def keep(run: str, seed: int, train: Callable[[], Row], name: str = name) -> None:
            if (name, run, seed) not in recorded():
                row = {"task": name, "run": run, "seed": seed, **train()}
                pages.keep(RESULTS, row)
                print(row, flush=True)

        for seed in searched(name):
            for run, configuration in grid.items():
                keep(run, seed, lambda: fixed(task, x, y, *configuration, seed))  # noqa: B023 - called at once
        best = best_of(name, recorded())
        for seed in FRESH:
            keep(best, seed, lambda: fixed(task, x, y, *grid[best], seed))  # noqa: B023
            keep("steer", seed, lambda: steered(task, x, y, seed))  # noqa: B023
            usual = usual_rate(task)
            keep(UNLISTED, seed, lambda: steered(task, x, y, seed, own=usual))  # noqa: B023
            keep(AT_USUAL, seed, lambda: fixed(task, x, y, SIZE, usual, seed))  # noqa: B023
            for run, times in FAR_OFF.items() if name in SMALL and seed == FRESH[0] else ():
                keep(run, seed, lambda: steered(task, x, y, seed, own=times * usual))  # noqa: B023
            if name in LARGE or name in WHOLE:
                run, what, value = (AT_32, "EXAMPLES", math.inf) if name in LARGE else (LARGER, "HARDLY_LONGER", 0.0)
                with patch.object(_search, what, value):
                    keep(run, seed, lambda: steered(task, x, y, seed))  # noqa: B023
                continue
            keep(UNMEASURED, seed, lambda: steered(task, x, y, seed, NeverMeasure()))  # noqa: B023
            if name in FEW:
                an_epoch = BatchPlan(decide_every=task.ends[0])
                keep(BETWEEN, seed, lambda: steered(task, x, y, seed, plan=an_epoch))  # noqa: B023


def page() -> None:
    """Write the table of every task into ``pages.TASK_BY_TASK``, that of means and the worst of them into the page."""
    found = recorded()
    titles = (
        "task | best of the grid | test loss | `steer` starts with | validation loss | test loss | examples | "
        "steps | nothing measured: test loss | steps"
    )
    lines, brief = [pages.heading(titles)], [pages.heading(titles)]
    figures: dict[str, list[float]] = {}
    worst: list[str] = []
    groups: tuple[tuple[str, Iterable[str]], ...] = (
        ("the eighteen", TASKS),
        ("the eight", LATER),
        ("the twelve", LATEST),
        ("the twelve newest", NEWEST),
        ("those brought", BROUGHT),
        ("all", SMALL),
        ("where measuring changes a training", [name for name in SMALL if _measuring_changes(name, found)]),
    )
    for told, group in groups:
        names = [name for name in group if {(name, run, FRESH[-1]) for run in ("steer", UNMEASURED)} <= found.keys()]
        for name in names:
            if name in figures:
                continue
            told_of_task, figures[name] = _line(name, found)
            lines.append(told_of_task)
            if figures[name][1] > math.log(FAR):
                worst.append(told_of_task)
        if not names:
            continue
        for kind, fold in (("mean", np.mean), ("median", np.median)):
            validation, test, *costs, without, steps = (
                float(fold(column)) for column in zip(*(figures[name] for name in names), strict=True)
            )
            told_costs = " | ".join(f"{math.exp(cost):.2f}" for cost in costs)
            brief.append(
                f"| {told}, {kind} | | | | {relative(validation)} | {relative(test)} | {told_costs} | "
                f"{relative(without)} | {math.exp(steps):.2f} |"
            )
    near = sum(test <= math.log(NEAR) for _, test, *_ in figures.values())
    changed = sum(_measuring_changes(name, found) for name in figures)
    count = (
        f"{near} of {len(figures)} tasks end at most {100 * (NEAR - 1):.0f} % above the best of the grid; measuring "
        f"changes a training on {changed}."
    )
    pages.replace_between(pages.TASK_BY_TASK, "benchmarks/steering/loops.py page", "\n".join(lines))
    pages.put(
        pages.ROOT / "docs" / "steer.md", "benchmarks/steering/loops.py page", "\n".join([*brief, *worst, "", count])
    )
    page_of_few(found)
    page_of_unlisted(found)


def _measuring_changes(name: str, found: dict[tuple[str, str, int], Row]) -> bool:
    """Return whether any seed's training ends elsewhere where nothing is measured."""
    pairs = [(found.get((name, "steer", seed)), found.get((name, UNMEASURED, seed))) for seed in FRESH]
    return any(with_it and without and with_it["test_loss"] != without["test_loss"] for with_it, without in pairs)


def page_of_unlisted(found: dict[tuple[str, str, int], Row]) -> None:
    """Write what comes of naming neither sizes nor rates on the small tasks, and of the usual rate without scouts."""
    titles = "what is done | seeds | test loss, mean | median | worst | within 7 % | examples | steps"
    lines = [pages.heading(f"{titles} | *nothing listed* beside it, same seeds | lower on")]
    far: list[str] = []
    for run in ("steer", UNLISTED, *FAR_OFF, AT_USUAL):
        seeds = [seed for seed in FRESH if all((name, run, seed) in found for name in SMALL)]
        if not seeds:
            continue
        rows, apart = [], []
        for name in SMALL:
            ours, best = ([found[name, one, seed] for seed in seeds] for one in (run, best_of(name, found)))
            loss = fmean(logarithm(row, "test_loss") for row in ours) - fmean(
                logarithm(row, "test_loss") for row in best
            )
            costs = (math.log(fmean(row[what] for row in ours) / best[0][what]) for what in ("examples", "steps"))
            rows.append((loss, *costs))
            unlisted = fmean(logarithm(found[name, UNLISTED, seed], "test_loss") for seed in seeds)
            apart.append(unlisted - fmean(logarithm(row, "test_loss") for row in ours))
            if run == UNLISTED and loss > math.log(FAR):
                far.append(f"{name} {relative(loss)}")
        losses, *costs = np.array(rows).T
        cells = [
            run,
            str(len(seeds)),
            *(relative(float(told)) for told in (losses.mean(), np.median(losses), losses.max())),
        ]
        cells += [
            f"{100 * np.mean(losses <= math.log(NEAR)):.0f} %",
            *(f"{math.exp(cost.mean()):.2f}" for cost in costs),
        ]
        beside = np.array(apart)
        told = [told_test(beside), f"{100 * np.mean(beside < 0):.0f} %"]
        cells += ["", ""] if run == UNLISTED else told
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"More than {100 * (FAR - 1):.0f} % above with nothing listed: {', '.join(far)}."]
    pages.put(pages.ROOT / "docs" / "steer.md", "benchmarks/steering/loops.py page: nothing listed", "\n".join(lines))


def page_of_few(found: dict[tuple[str, str, int], Row]) -> None:
    """Write the table of tasks of few epochs, with and without decisions within them."""
    titles = "task | best of the grid | test loss | `steer` starts with | test loss | examples | steps"
    lines = [pages.heading(f"{titles} | between epochs: test loss | examples | steps")]
    figures, simple = [], []
    for name in FEW:
        if (name, BETWEEN, FRESH[-1]) not in found:
            continue
        best = best_of(name, found)
        theirs, ours, between = ([found[name, run, seed] for seed in FRESH] for run in (best, "steer", BETWEEN))

        def beside(rows: list[Row], theirs: list[Row] = theirs) -> list[float]:
            loss = fmean(
                logarithm(row, "test_loss") - logarithm(own, "test_loss") for row, own in zip(rows, theirs, strict=True)
            )
            return [
                loss,
                *(math.log(fmean(row[what] for row in rows) / theirs[0][what]) for what in ("examples", "steps")),
            ]

        figures.append([*beside(ours), *beside(between)])
        simple.append(_at_32(name, best, found))
        starts = ", ".join(dict.fromkeys(f"s{size}-lr{lr:g}" for size, lr in (row["start"] for row in ours)))
        end = math.exp(fmean(logarithm(row, "test_loss") for row in theirs))
        lines.append(f"| {name} | `{best}` | {end:.4g} | {starts} | {_told(figures[-1])} |")
    if figures:
        for what, over in (("mean", np.mean), ("median", np.median)):
            lines.append(f"| {what} | | | | {_told(list(over(figures, 0)))} |")
        middle, chosen = np.mean(simple, 0)
        lines += [
            "",
            f"On the grid's own seed, batches of {SIZE} at the middle rate end {relative(middle)} beside the best of "
            f"the grid in the mean, at whichever rate is best {relative(chosen)}.",
        ]
    pages.put(pages.ROOT / "docs" / "steer.md", "benchmarks/steering/loops.py page: few epochs", "\n".join(lines))


def _at_32(name: str, best: str, found: dict[tuple[str, str, int], Row]) -> tuple[float, float]:
    """Return what the grid's batches of 32 come to beside its best: at the middle rate, and at the best rate."""
    rates, (seed,) = EVERY[name].rates, searched(name)
    ends = [logarithm(found[name, f"s{SIZE}-lr{lr:g}", seed], "test_loss") for lr in rates]
    end = logarithm(found[name, best, seed], "test_loss")
    return ends[len(rates) // 2] - end, min(ends) - end


def _told(figures: list[float]) -> str:
    """Return test loss, examples and steps beside the best of the grid, twice, as cells."""
    return " | ".join(
        relative(figure) if place % 3 == 0 else f"{math.exp(figure):.2f}" for place, figure in enumerate(figures)
    )


def _line(name: str, found: dict[tuple[str, str, int], Row]) -> tuple[str, list[float]]:
    """Return a task's line of the table, and its figures beside the best: logarithms of losses and of costs."""
    best = best_of(name, found)
    theirs, ours, unmeasured = ([found[name, run, seed] for seed in FRESH] for run in (best, "steer", UNMEASURED))

    def ends(rows: list[Row], figure: str) -> list[float]:
        return [logarithm(row, figure) for row in rows]

    def apart(rows: list[Row], figure: str) -> float:
        return fmean(ends(rows, figure)) - fmean(ends(theirs, figure))

    def cost(rows: list[Row], what: str) -> float:
        return math.log(fmean(row[what] for row in rows) / theirs[0][what])

    losses = [apart(ours, "validation_loss"), apart(ours, "test_loss")]
    costs = [cost(ours, "examples"), cost(ours, "steps")]
    without = [apart(unmeasured, "test_loss"), cost(unmeasured, "steps")]
    error = math.sqrt(sum(stdev(ends(rows, "test_loss")) ** 2 / len(rows) for rows in (ours, theirs)))
    starts = ", ".join(dict.fromkeys(f"s{size}-lr{lr:g}" for size, lr in (row["start"] for row in ours)))
    told = (
        f"| {name} | `{best}` | {math.exp(fmean(ends(theirs, 'test_loss'))):.4g} | {starts} | {relative(losses[0])} | "
        f"{relative(losses[1])} ± {100 * error:.0f} | {' | '.join(f'{math.exp(cost):.2f}' for cost in costs)} | "
        f"{relative(without[0])} | {math.exp(without[1]):.2f} |"
    )
    return told, [*losses, *costs, *without]


if __name__ == "__main__":
    pages.carry_out(__doc__, {"run": (run_all, CHOSEN), "page": (page, {})})

"""When to go back to better weights where a training overfits: rules that are replayed on the same trainings.

    python benchmarks/steering/overfit_rules.py run [--data-dir DIR] [--seeds 10-12] [TASK ...]
    python benchmarks/steering/overfit_rules.py page

``run`` trains `steer` on the small tasks of ``loops.py`` as it is, but with ``patience: 0``, which never goes back, and
validates and tests after every epoch. Of the weights that a rule may go back to it also trains the one epoch that would
follow, over which the rate falls to nothing. It appends a line a training to
``benchmarks/results/steer_overfit_rules.jsonl`` (seed 13 is that of diabetes, friedman1 and friedman3 alone); what is
there is not trained again. ``page`` replays the rules on these, and writes what they come to beside the rule of before,
by test loss and epochs, into ``docs/steer.md``.
"""

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autobatch.control.run._files import read_lines
from autobatch.policies.steer._overfit import (
    TELLING,
    TELLING_FALLING,
    TELLING_LAST,
    WINDOW,
    Validated,
    best_period,
    lowest_period,
)
from autobatch.policies.steer._plan import grown
from autobatch.policies.steer._policy import SEESAW, SteerParameters, SteerPolicy
from benchmarks import pages
from benchmarks.pages import Row
from benchmarks.steering import loops
from benchmarks.steering.loop_tasks import Task

RESULTS = pages.RESULTS / "steer_overfit_rules.jsonl"
DIGITS = 6
OVERFITS = 0.05
"""Share by which the last mean of validation losses lies above the lowest, from which a training counts as overfit."""
MANY_TIMES = 3.0
"""Ratio of test losses from which the page has it in times, not in per cent."""


def trained(task: Task, x: Tensor, y: Tensor, seed: int) -> Row:
    """Train `steer` without going back, and an epoch from each of the weights that it might go back to."""
    train, validation = task.ends
    policy = SteerPolicy(SteerParameters(patience=0.0))
    periods = policy.periods_of_epoch(task.sizes, train, task.epochs)
    losses: dict[str, list[float]] = {"validation_losses": [], "test_losses": []}
    kept: dict[int, tuple[Any, Any]] = {}
    went_back: dict[int, float] = {}

    def after_epoch(model: nn.Module, optimizer: Optimizer) -> None:
        for told, which in (("validation_losses", slice(train, validation)), ("test_losses", slice(validation, None))):
            losses[told].append(round(loops.loss_of(model, x[which], y[which], task.loss), DIGITS))
        epoch, end = len(losses["validation_losses"]), policy.plan.end // periods
        kept[epoch] = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        lowest = lowest_period(dict(enumerate(losses["validation_losses"], start=1)))
        if lowest is None:
            return
        best = lowest - 1
        for older in [one for one in kept if one < best]:
            del kept[older]
        may_go_back = epoch - lowest >= WINDOW or epoch == end - 1
        if may_go_back and epoch < end and best not in went_back:
            went_back[best] = _after_going_back(task, x, y, seed, policy, kept[best], epoch, best)

    loops.steered(task, x, y, seed, policy=policy, after_epoch=after_epoch)
    return {"epochs": task.epochs, "falls_from": policy.plan.decay_from / periods, **losses, "went_back": went_back}


def _after_going_back(
    task: Task, x: Tensor, y: Tensor, seed: int, policy: SteerPolicy, weights: tuple[Any, Any], epoch: int, best: int
) -> float:
    """Return the test loss after an epoch from weights of before, as `steer` trains it."""
    train, validation = task.ends
    periods = policy.periods_of_epoch(task.sizes, train, task.epochs)
    plan, (batch_size, lr) = policy.plan.hastened(epoch * periods, best * periods, periods), policy.start
    ladder = (batch_size,) if policy.state_dict()["calm"] else task.sizes
    with torch.random.fork_rng(devices=()):
        model = task.model()
        optimizer = task.optimizer(model.parameters(), lr)
        model.load_state_dict(weights[0])
        optimizer.load_state_dict(weights[1])
        torch.manual_seed(seed)
        order = torch.randperm(train, generator=torch.Generator().manual_seed(seed))
        for period, part in enumerate(order.chunk(periods), start=epoch * periods):
            size, factor = grown(batch_size, plan.factor(period), ladder, None, SEESAW)
            for group in optimizer.param_groups:
                group["lr"] = lr * factor
            for chosen in part.split(size):
                optimizer.zero_grad()
                task.loss(model(x[chosen]), y[chosen]).backward()
                optimizer.step()
    return round(loops.loss_of(model, x[validation:], y[validation:], task.loss), DIGITS)


def run_all(tasks: Sequence[str], data_dir: Path | None, seeds: Sequence[int]) -> None:
    """Train what is missing of the tasks; of all but those of few epochs where none is named."""
    there = pages.keyed(RESULTS, "task", "seed")
    for name, task, x, y in loops.loaded(tasks or list(loops.SMALL), data_dir):
        for seed in seeds:
            if (name, seed) not in there:
                pages.keep(RESULTS, {"task": name, "seed": seed, **trained(task, x, y, seed)})
                print(name, seed, flush=True)


class Outcome(NamedTuple):
    """What a training comes to."""

    test_loss: float
    epochs: int


Rule = Callable[[Row], Outcome]


def never(row: Row) -> Outcome:
    """Train to the planned end."""
    return Outcome(row["test_losses"][-1], len(row["test_losses"]))


def stopped(patience: float) -> Rule:
    """Return plain early stopping: the weights of the best epoch, once as many after it were no better."""

    def outcome(row: Row) -> Outcome:
        losses, best = row["validation_losses"], 0
        for place in range(len(losses)):
            best = min(best, place, key=losses.__getitem__)
            if place - best >= patience:
                break
        return Outcome(row["test_losses"][best], place + 1)

    return outcome


def gone_back(constant: float, falling: float, last: float | None) -> Rule:
    """Return the rule of `steer` with standard errors of its own.

    Args:
        constant: those that tell at a constant rate.
        falling: those that tell once the rate has fallen for ``WINDOW`` epochs.
        last: those that tell before the last epoch; None where nothing is looked at then.
    """

    def outcome(row: Row) -> Outcome:
        losses = row["validation_losses"]
        patience = max(WINDOW, round(SteerParameters().patience * row["epochs"]))
        for epoch in range(1, len(losses)):
            ends = epoch == len(losses) - 1
            telling = last if ends else falling if epoch - WINDOW >= row["falls_from"] else constant
            since = None if telling is None else best_period(dict(enumerate(losses[:epoch], start=1)), telling)
            if since is not None and (ends or epoch - since >= patience):
                return Outcome(row["went_back"][str(since - 1)], epoch + 1)
        return never(row)

    return outcome


BEFORE = gone_back(TELLING, TELLING, None)
RULES = {
    "never": never,
    "the weights of the best epoch, at the planned end": stopped(math.inf),
    "plain early stopping after 3 epochs, the weights of the best": stopped(3),
    "plain early stopping after 5 epochs, the weights of the best": stopped(5),
    "three standard errors throughout": gone_back(TELLING_FALLING, TELLING_FALLING, None),
    "three once the rate falls": gone_back(TELLING, TELLING_FALLING, None),
    "one before the last epoch": gone_back(TELLING, TELLING, TELLING_LAST),
    "both, as it is": gone_back(TELLING, TELLING_FALLING, TELLING_LAST),
}


def overfits(row: Row) -> bool:
    """Return whether a training ends clearly above its lowest mean of validation losses."""
    validated = Validated("validation_loss")
    validated.load_state_dict({"validation_loss": list(enumerate(row["validation_losses"], start=1))})
    return validated.risen > OVERFITS


def page() -> None:
    """Write the table of ``docs/steer.md`` between its marks, and print it."""
    rows = read_lines(RESULTS)
    overfit = [overfits(row) for row in rows]
    lines = [pages.heading(f"rule | all | the {sum(overfit)}, worst | the others, worst | epochs")]
    for told, rule in RULES.items():
        pairs = [(rule(row), BEFORE(row)) for row in rows]
        losses = [_logarithm(one) - _logarithm(before) for one, before in pairs]
        epochs = fmean(math.log(one.epochs / before.epochs) for one, before in pairs)
        groups = ([loss for loss, is_so in zip(losses, overfit, strict=True) if is_so == of] for of in (True, False))
        cells = [_percent(fmean(losses)), *(f"{_percent(fmean(group))}, {_worst(max(group))}" for group in groups)]
        lines.append(f"| {told} | {' | '.join(cells)} | {math.exp(epochs):.2f} |")
    pages.put(pages.ROOT / "docs" / "steer.md", "benchmarks/steering/overfit_rules.py page", "\n".join(lines))
    print(f"{len(rows)} trainings")


def _logarithm(outcome: Outcome) -> float:
    return loops.logarithm(outcome._asdict(), "test_loss")


def _percent(change: float) -> str:
    return f"{100 * math.expm1(change):+.1f} %"


def _worst(change: float) -> str:
    return pages.relative(change) if change < math.log(MANY_TIMES) else f"{math.exp(change):.0f} times"


if __name__ == "__main__":
    pages.carry_out(__doc__, {"run": (run_all, {**loops.CHOSEN, **pages.seeds("10-12")}), "page": (page, {})})

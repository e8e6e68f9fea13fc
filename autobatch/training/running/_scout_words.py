"""What a run's scouts will try, what that costs, and what each came to, in a line."""

import math
from itertools import product

from autobatch.policies import Policy, TaskInfo, planned_epochs
from autobatch.policies._wording import configuration, count, duration, figure, percent
from autobatch.policies.steer import Scout, ScoutingPolicy, affordable
from autobatch.training.running._scouting import ScoutRecord

_COURSES = tuple(product((0.9, 0.5), (0.94, 1.06)))
"""Courses of scouts, of which one is the dearest: the first loss by that of guessing, and the second by the first."""

_LOWER = 0.94
"""What each further loss is to the one before: far enough below for a smaller batch to be tried still."""


def told_plan(policy: ScoutingPolicy, task: TaskInfo) -> str:
    """Say in a line what a policy that was reset will try, and what it costs at most."""
    plan = policy.scouts()
    if not plan.configurations:
        return plan.note
    tried = ", ".join(configuration(*one) for one in plan.configurations)
    note = f"; {plan.note}" if plan.note else ""
    line = f"{count(plan.most, 'scout')} of {task.told(plan.epochs)} each: {tried}"
    if plan.more:
        line = (
            f"{count(plan.most, 'scout')} of {task.told(plan.epochs)} each at most: {tried} first, then rates "
            "towards where the loss falls"
        )
    cost = most_cost(policy, task)
    if cost is None or task.costs is None:
        return line + note
    size = plan.configurations[0][0]
    whole = task.costs.whole_epochs(size, task.train_size, task.epochs)
    return (
        f"{line}; those that lose take at most about {duration(cost)}, {percent(cost / whole)} of a whole training at "
        f"s{size}, measuring not counted{note}"
    )


def told_schedule(policy: Policy, task: TaskInfo) -> str:
    """Say in a line who has the say over schedule and length of a run, and what comes of it."""
    if not task.steered:
        return (
            f"the task keeps its own schedule (schedule.keep): the rate follows it, and all "
            f"{task.told(task.epochs)} are trained"
        )
    end = planned_epochs(policy, task)
    if end == task.epochs:
        return ""
    of = f"{end // task.periods} of {task.told(task.epochs)}"
    return f"planned to end after {of}, the rate falling to nothing by then"


def told_scout(record: ScoutRecord) -> str:
    """Say in a line what a scout came to."""
    if not record.epochs:
        return f"scout {configuration(record.batch_size, record.lr)}: {record.ended}"
    figures = {"training loss": record.train_loss, "validation loss": record.validation_loss}
    known = ", ".join(f"{name} {figure(value)}" for name, value in figures.items() if not math.isnan(value))
    ended = f"; ended: {record.ended}" if record.ended else ""
    return (
        f"scout {configuration(record.batch_size, record.lr)}: after {count(record.epochs, 'epoch')} "
        f"{known or 'no loss is known'}{ended}"
    )


def most_cost(policy: ScoutingPolicy, task: TaskInfo) -> float | None:
    """Return seconds of all scouts that may come but the one that goes on, measuring not counted.

    Args:
        policy: the policy, reset.
        task: the task.

    Returns:
        Seconds of the dearest course, s, none being ended before its time; None without a cost table.
    """
    if task.costs is None:
        return None
    begun = policy.scouts()
    if not begun.configurations:
        return 0.0
    usual = begun.configurations[0][0]
    courses, smaller = [], set[int]()
    for first, second in _COURSES:
        loss, done = first * (task.guessing or 1.0), list[Scout]()
        while len(done) < len((plan := policy.scouts(done)).configurations):
            size, lr = plan.configurations[len(done)]
            done.append(Scout(size, lr, (loss,) * plan.epochs, (loss,) * plan.epochs, score=task.score))
            loss *= second if len(done) == 1 else _LOWER
        each = [task.costs.whole_epochs(one.batch_size, task.train_size, len(one.scores)) for one in done]
        courses.append(sum(each) - min(each, default=0.0))
        smaller.update(one.batch_size for one in done if one.batch_size < usual)
    # As many rates and half the batch as may come, which no course has to hold.
    half = [max(smaller)] if smaller else []
    losers = min(begun.most + len(half), affordable(task, begun.epochs)) - 1
    dearest = [*half, *[usual] * losers][:losers]
    return max(*courses, sum(task.costs.whole_epochs(size, task.train_size, begun.epochs) for size in dearest))

"""What a run's scouts will try, what that costs, and what each came to, in a line."""

import math

from autobatch.beacons import CostTable
from autobatch.policies import Policy, TaskInfo, planned_epochs
from autobatch.policies._wording import configuration, count, duration, figure, percent
from autobatch.policies.steer import ScoutPlan
from autobatch.training.running._scouting import ScoutRecord


def told_plan(plan: ScoutPlan, task: TaskInfo) -> str:
    """Say in a line what will be tried, and what it costs at most."""
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
    cost = expected_cost(plan, task.costs, task.train_size)
    if cost is None or task.costs is None:
        return line + note
    size = plan.configurations[0][0]
    whole = task.costs.whole_epochs(size, task.train_size, task.epochs)
    return (
        f"{line}; those that lose take about {duration(cost)}, {percent(cost / whole)} of a whole training at s{size}, "
        f"measuring not counted{note}"
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
    return f"planned to end after {of}, the rate falling to nothing until then"


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


def expected_cost(plan: ScoutPlan, costs: CostTable | None, train_size: int) -> float | None:
    """Return seconds of all scouts but the one that goes on, measuring not counted; None without a cost table."""
    if costs is None:
        return None
    each = [costs.whole_epochs(size, train_size, plan.epochs) for size, _ in plan.configurations]
    return sum(each) + plan.more * each[-1] - min(each) if each else 0.0

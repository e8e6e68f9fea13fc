"""A task as policies see it, before any training of it has begun."""

import math

from autobatch.beacons import BeaconLibrary, CostTable, chance
from autobatch.policies import TaskInfo
from autobatch.training.task._task import TaskSpec


def run_task_info(
    task: TaskSpec,
    *,
    train_size: int,
    costs: CostTable | None,
    seed: int,
    num_classes: int | None = None,
    shares_loss: float | None = None,
    periods: int = 1,
    adaptive: bool | None = None,
) -> TaskInfo:
    """Return a task as policies see it.

    Args:
        task: the task.
        train_size: examples in an epoch.
        costs: seconds by batch size, where they are known.
        seed: the run's seed.
        num_classes: classes, or ``QUANTITY``, where the data are loaded.
        shares_loss: loss of one who guesses by their shares, where the data are loaded.
        periods: decision periods of an epoch.
        adaptive: whether its optimizer scales its steps by the gradients' own size; None for what the name says.

    Returns:
        The task.
    """
    return TaskInfo(
        name=task.name,
        batch_sizes=task.batch_sizes,
        learning_rates=task.learning_rates,
        epochs=task.epochs * periods,
        train_size=math.ceil(train_size / periods),
        score=task.score,
        milestones=task.schedule.milestones,
        seed=seed,
        costs=costs,
        measuring_budget=task.measuring.budget,
        steered=not task.schedule.keep,
        milestone_factor=task.schedule.milestone_factor,
        schedule=task.schedule.schedule_factor,
        dataset=task.dataset.name,
        adaptive=task.optimizer.adaptive if adaptive is None else adaptive,
        guessing=chance("train_loss", num_classes) if num_classes is not None else None,
        shares_loss=shares_loss,
        periods=periods,
        around=task.around,
    )


def task_info(task: TaskSpec, library: BeaconLibrary) -> TaskInfo:
    """Return a task as policies see it, as far as its library knows.

    Args:
        task: the task.
        library: its beacons.

    Returns:
        The task, with the seed 0.
    """
    train_size = round(max(float(own.rows["examples"][-1] / own.rows["progress"][-1]) for own in library.beacons))
    return run_task_info(task, train_size=train_size // task.epochs, costs=library.costs, seed=0)

"""A task as policies see it, before any training of it has begun."""

import math

from autobatch.beacons import BeaconLibrary, CostTable
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
) -> TaskInfo:
    """Return a task as policies see it; figures of the data are None where they are not loaded."""
    return TaskInfo(
        name=task.name,
        batch_sizes=task.batch_sizes,
        learning_rates=task.learning_rates,
        epochs=task.epochs,
        train_size=train_size,
        score=task.score,
        milestones=task.schedule.milestones,
        seed=seed,
        costs=costs,
        measuring_budget=task.measuring.budget,
        steered=not task.schedule.keep,
        milestone_factor=task.schedule.milestone_factor,
        schedule=task.schedule.schedule_factor,
        dataset=task.dataset.name,
        adaptive=task.optimizer.name != "sgd",
        guessing=math.log(num_classes) if num_classes is not None else None,
        shares_loss=shares_loss,
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

"""A task as policies see it, before any training of it has begun."""

from autobatch.beacons import BeaconLibrary
from autobatch.policies import TaskInfo
from autobatch.training.task._task import TaskSpec


def task_info(task: TaskSpec, library: BeaconLibrary) -> TaskInfo:
    """Return a task as policies see it, as far as its library knows.

    Args:
        task: the task.
        library: its beacons.

    Returns:
        The task, with the seed 0.
    """
    train_size = round(max(float(own.rows["examples"][-1] / own.rows["progress"][-1]) for own in library.beacons))
    return TaskInfo(
        name=task.name,
        batch_sizes=task.batch_sizes,
        learning_rates=task.learning_rates,
        epochs=task.epochs,
        train_size=train_size // task.epochs,
        score=task.score,
        milestones=task.schedule.milestones,
        seed=0,
        costs=library.costs,
        measuring_budget=task.measuring.budget,
    )

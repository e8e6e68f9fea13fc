"""How little a surrogate knows of courses of trainings: what recording chooses journeys by."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autobatch.beacons import BeaconLibrary, Branches, holds_branches
from autobatch.envs.surrogate._dynamics import Dynamics
from autobatch.envs.surrogate._load import alike
from autobatch.policies import TaskInfo

Floats = NDArray[np.float64]
Course = Sequence[tuple[int, float]]
"""Batch size and base learning rate of each epoch."""


def doubts_of(
    library: BeaconLibrary, folder: Path, task: TaskInfo, recorded: Path
) -> Callable[[Mapping[int, Course]], list[float]]:
    """Return what tells how little is known of some trainings before they are trained.

    Args:
        library: the task's beacons.
        folder: the task's env folder; of the other tasks that are found by name, all that was recorded counts.
        task: the task as policies see it.
        recorded: the folder that has its branch runs, if there are any.

    Returns:
        A function of courses by seed. It fits the dynamics to what was recorded with other seeds, so that it says the
        same of trainings that were recorded meanwhile, and returns ``doubts`` of each.
    """

    def tell(courses: Mapping[int, Course]) -> list[float]:
        known = None
        if holds_branches(recorded):
            branches = Branches.load(recorded)
            journeys = tuple(own for own in branches.journeys if own.seed not in courses)
            known = Branches(journeys, branches.info) if journeys else None
        dynamics = Dynamics.fit(library, known, task, others=alike(library, folder))
        told: list[float] = doubts(dynamics, list(courses.values())).tolist()
        return told

    return tell


def doubts(dynamics: Dynamics, courses: Sequence[Course]) -> Floats:
    """Return how far the members of an ensemble differ on where trainings end.

    Args:
        dynamics: of the task.
        courses: trainings of the task's length, on its ladders.

    Returns:
        Standard deviation over members of the natural logarithm of the final validation loss, shape (n,).
    """
    count, members = len(courses), dynamics.members
    rungs = np.array([[dynamics.moves.rungs(*now) for now in course] for course in courses]).repeat(members, axis=0)
    member, still = np.tile(np.arange(members), count), np.zeros((count * members, dynamics.noise_size))
    state = dynamics.begin(count * members)
    for batch_rung, rate_rung in rungs.transpose(1, 2, 0):
        state, _ = dynamics.step(state, batch_rung, rate_rung, member, still)
    spread: Floats = state.seen[:, 0].reshape(count, members).std(axis=1)
    return spread

"""Which branch runs are recorded: trunks and what is tried instead, and journeys, drawn from their seeds."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from autobatch._errors import ConfigError
from autobatch.beacons import BeaconKey, BeaconLibrary
from autobatch.beacons.storage import JourneyKind
from autobatch.control.batches import derive_seed
from autobatch.policies import Moves, Observation, PolicySpec, TaskInfo, make_policy
from autobatch.policies._protocol import NOTHING_SEEN
from autobatch.training.task import TaskSpec, task_info

Number = TypeVar("Number", int, float)

Configuration = tuple[int, float]
"""Batch size and base learning rate."""

Doubts = Callable[[Mapping[int, tuple[Configuration, ...]]], Sequence[float]]
"""Takes courses of journeys by seed, and says how little is known of each."""

DRAWN = 10
"""Journeys that are drawn for each that is recorded, where the least known are chosen."""

SEEDS_APART = 1000
"""The first seed is the next multiple of this above the library's, so that branch runs repeat no beacon."""

MOST_SEED = 2**62
"""Seeds are stored as int64, and some are counted on from the first."""

_SPREAD = (0.05, 0.2)
_STAND_INS = (0.5, 0.75)
_SHARES = {1: 0.5, 2: 0.3, 3: 0.2}
_LONGEST_HOLD = 12
_EXPLORATION = 0.2


@dataclass(frozen=True)
class BranchJob:
    """One training to record: a trunk with its branches, or a journey.

    Attributes:
        kind: ``"branch"`` for a trunk, or ``"journey"``.
        seed: the training's seed.
        course: configuration of each epoch that is trained.
        switches: what is tried instead after some of the epochs, by number of finished epochs.
        length: epochs trained of each branch, at most.
        epochs: epochs of the whole training.
        follow: the policy of a journey, which decides from the second epoch on; None keeps to ``course``.
    """

    kind: JourneyKind
    seed: int
    course: tuple[Configuration, ...]
    switches: Mapping[int, tuple[Configuration, ...]] = field(default_factory=dict)
    length: int = 0
    epochs: int = 0
    follow: PolicySpec | None = None

    @property
    def origin(self) -> BeaconKey:
        """First configuration and seed, which tell the trainings apart."""
        return BeaconKey(*self.course[0], self.seed)

    @property
    def name(self) -> str:
        """What people read, such as ``"trunk b32-lr0.1-s1000"``."""
        return f"{'trunk' if self.kind == 'branch' else 'journey'} {self.origin.name}"

    def to_dict(self) -> dict[str, Any]:
        """Return the job as a dictionary of plain values; ``from_dict`` reads it back."""
        state = asdict(self)
        state["switches"] = {str(epoch): targets for epoch, targets in self.switches.items()}
        state["follow"] = self.follow.model_dump(mode="json") if self.follow is not None else None
        return state

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "BranchJob":
        """Return the job that ``to_dict`` wrote down."""

        def configurations(pairs: Sequence[Any]) -> tuple[Configuration, ...]:
            return tuple((int(batch_size), float(lr)) for batch_size, lr in pairs)

        return cls(
            kind=state["kind"],
            seed=state["seed"],
            course=configurations(state["course"]),
            switches={int(epoch): configurations(targets) for epoch, targets in state["switches"].items()},
            length=state["length"],
            epochs=state["epochs"],
            follow=PolicySpec.model_validate(state["follow"]) if state["follow"] is not None else None,
        )

    def lengths(self) -> list[tuple[Configuration, int]]:
        """Return how many epochs are trained of which configuration, in order."""
        trained = [(configuration, 1) for configuration in self.course]
        for epoch, targets in self.switches.items():
            trained += [(target, min(self.length, self.epochs - epoch)) for target in targets]
        return trained


def branch_jobs(
    task: TaskSpec,
    library: BeaconLibrary,
    *,
    batch_sizes: Sequence[int] | None,
    learning_rates: Sequence[float] | None,
    epochs_at: Sequence[int] | None,
    targets: int,
    length: int,
    journeys: int,
    follow: PolicySpec | None,
    doubts: Doubts | None,
    seed: int | None,
) -> list[BranchJob]:
    """Return the trunks and journeys of a recording; the arguments are those of ``record_task_branches``.

    Raises:
        ConfigError: an argument is out of range, or nothing is to be recorded.
    """
    for name, value, least in (("length", length, 1), ("targets", targets, 0), ("journeys", journeys, 0)):
        if value < least:
            raise ConfigError(f"{name}: expected at least {least}, got {value}")
    if doubts is not None and (follow is not None or not journeys):
        raise ConfigError(
            "least sure: it chooses among journeys at random (--journeys N): expected some, and no policy to follow"
        )
    if seed is None:
        first = (max(beacon.seed for beacon in library.beacons) // SEEDS_APART + 1) * SEEDS_APART
    elif 0 <= seed < MOST_SEED:
        first = seed
    else:
        raise ConfigError(f"seed: expected {f'less than {MOST_SEED}' if seed > 0 else 'at least 0'}, got {seed}")
    trunks = _trunks(
        task,
        _of_task(batch_sizes, task.batch_sizes, "batch size") if targets else (),
        _of_task(learning_rates, task.learning_rates, "learning rate") if targets else (),
        switch_epochs=_switch_epochs(epochs_at, task),
        targets=targets,
        length=length,
        first_seed=first,
    )
    wanted = [*trunks, *_journeys(task, library, journeys, first, follow, doubts=doubts)]
    if not wanted:
        raise ConfigError("nothing to record: expected at least one target an epoch, or a journey")
    return wanted


def usual_switch_epochs(task: TaskSpec) -> tuple[int, ...]:
    """Return after which epochs branches leave where nobody says.

    Args:
        task: the task.

    Returns:
        Numbers of finished epochs: early, in the first stage, around the schedule's first milestone and after the
        others; of a schedule without milestones, around half the training and after three quarters.
    """
    first, *others = [round(share * task.epochs) for share in task.schedule.milestones or _STAND_INS]
    epochs = [*(round(share * task.epochs) for share in _SPREAD), first - 1, first + 1, *(one + 1 for one in others)]
    return tuple(sorted({min(max(epoch, 1), task.epochs - 1) for epoch in epochs}))


def branch_targets(moves: Moves, trunk: Configuration, seed: int, epoch: int, count: int) -> tuple[Configuration, ...]:
    """Draw what is tried instead of a trunk's configuration.

    Args:
        moves: the task's ladder and rates.
        trunk: the trunk's configuration, one of the grid.
        seed: the trunk's seed.
        epoch: finished epochs at the change.
        count: how many to draw.

    Returns:
        Different configurations of the grid, none the trunk's; half of them about one rung away, three in ten two, the
        others anywhere. The same trunk and epoch give the same ones, and a smaller ``count`` the first of them.
    """
    here = moves.rungs(*trunk)
    cells = [
        (batch, rate)
        for batch in range(len(moves.batch_sizes))
        for rate in range(len(moves.learning_rates))
        if (batch, rate) != here
    ]
    distances = [min(max(abs(batch - here[0]), abs(rate - here[1])), 3) for batch, rate in cells]
    weights = np.array([_SHARES[distance] / distances.count(distance) for distance in distances])
    generator = np.random.default_rng(derive_seed(seed, f"branches of {trunk!r}", epoch))
    # The order of exponential waiting times is that of drawing one by one without putting back.
    order = np.argsort(generator.exponential(size=len(cells)) / weights)
    return tuple(moves.at(*cells[index]) for index in order[:count])


def journey_course(moves: Moves, seed: int, epochs: int) -> tuple[Configuration, ...]:
    """Draw a training that changes batch size and rate now and then.

    Args:
        moves: the task's ladder and rates.
        seed: the training's seed.
        epochs: its epochs.

    Returns:
        The configuration of each epoch: one held for 1 to 12 epochs, then another, mostly one or two rungs away.
    """
    generator = np.random.default_rng(derive_seed(seed, "journey"))
    now = moves.at(int(generator.integers(len(moves.batch_sizes))), int(generator.integers(len(moves.learning_rates))))
    course: list[Configuration] = []
    while len(course) < epochs:
        course += [now] * int(generator.integers(1, _LONGEST_HOLD + 1))
        (now,) = branch_targets(moves, now, seed, len(course), 1) or (now,)
    return tuple(course[:epochs])


def _chosen(
    chosen: Sequence[Number] | None, usual: tuple[Number, ...], allowed: Container[Number], what: str, expected: str
) -> tuple[Number, ...]:
    """Return what was chosen, ascending, or else the usual; a ConfigError says what was expected in its place."""
    if chosen is None:
        return usual
    if not chosen:
        raise ConfigError(f"{what}: expected at least one")
    for value in chosen:
        if value not in allowed:
            raise ConfigError(f"{what}: expected {expected}, got {value}")
    return tuple(sorted(set(chosen)))


def _of_task(chosen: Sequence[Number] | None, known: tuple[Number, ...], what: str) -> tuple[Number, ...]:
    expected = f"values of the task's, {', '.join(map(str, known))}"
    return _chosen(chosen, known, known, f"{what} of the trunks", expected)


def _switch_epochs(chosen: Sequence[int] | None, task: TaskSpec) -> tuple[int, ...]:
    if task.epochs == 1:
        raise ConfigError(f"task {task.name!r} has one epoch; a training can be changed only between two")
    expected = f"finished epochs from 1 to {task.epochs - 1}, task {task.name!r} having {task.epochs}"
    return _chosen(chosen, usual_switch_epochs(task), range(1, task.epochs), "epochs to change at", expected)


def _trunks(
    task: TaskSpec,
    batch_sizes: Sequence[int],
    learning_rates: Sequence[float],
    *,
    switch_epochs: Sequence[int],
    targets: int,
    length: int,
    first_seed: int,
) -> list[BranchJob]:
    moves = Moves(task.batch_sizes, task.learning_rates)
    jobs = []
    for batch_size in batch_sizes:
        for lr in learning_rates:
            batch_rung, rate_rung = moves.rungs(batch_size, lr)
            seed = first_seed + batch_rung * len(task.learning_rates) + rate_rung
            trunk = (batch_size, lr)
            switches = {epoch: branch_targets(moves, trunk, seed, epoch, targets) for epoch in switch_epochs}
            if not any(switches.values()):  # the task has no other configuration
                continue
            # Nothing leaves a trunk after the last of these epochs, so it need not go on.
            course = (trunk,) * max(switch_epochs)
            jobs.append(BranchJob("branch", seed, course, switches, length, task.epochs))
    return jobs


def _journeys(
    task: TaskSpec,
    library: BeaconLibrary,
    count: int,
    first_seed: int,
    follow: PolicySpec | None,
    *,
    doubts: Doubts | None = None,
) -> list[BranchJob]:
    moves = Moves(task.batch_sizes, task.learning_rates)
    first = first_seed + len(task.batch_sizes) * len(task.learning_rates)
    drawn = range(first, first + count * (1 if doubts is None else DRAWN))
    courses = {seed: journey_course(moves, seed, task.epochs) for seed in drawn}
    if doubts is not None:
        told = dict(zip(courses, doubts(courses), strict=True))
        courses = {seed: courses[seed] for seed in sorted(sorted(courses, key=lambda own: -told[own])[:count])}
    jobs = []
    for seed, course in courses.items():
        if follow is None:
            jobs.append(BranchJob("journey", seed, course))
            continue
        opening = Follower(follow, replace(task_info(task, library), seed=seed), library).configuration(NOTHING_SEEN)
        assert opening is not None
        jobs.append(BranchJob("journey", seed, (opening,) * task.epochs, follow=follow))
    return jobs


class Follower:
    """A policy that now and then does something else; the rate keeps the task's schedule."""

    def __init__(self, policy: PolicySpec, task: TaskInfo, library: BeaconLibrary) -> None:
        self._policy = make_policy(policy)
        self._task = replace(task, steered=False)
        self._policy.reset(self._task, library)
        self._moves = Moves(task.batch_sizes, task.learning_rates)

    def configuration(self, observation: Observation) -> Configuration | None:
        """Return what the next epoch uses; None where the policy has trained enough."""
        decision = self._policy.decide(observation)
        if decision.stop and observation.epoch:
            return None
        lr = decision.lr if decision.lr is not None else self._task.learning_rates[self._moves.start[1]]
        chosen = self._moves.at(*self._moves.rungs(decision.batch_size, lr))
        seed = self._task.seed
        if np.random.default_rng(derive_seed(seed, "exploration", observation.epoch)).random() >= _EXPLORATION:
            return chosen
        return next(iter(branch_targets(self._moves, chosen, seed, observation.epoch, 1)), chosen)

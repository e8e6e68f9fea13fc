"""Recording branch runs: what happens when a training leaves its configuration, in parallel processes, resumable."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from autobatch._errors import ConfigError
from autobatch.beacons import BeaconKey, BeaconLibrary, Branches, LibraryInfo
from autobatch.beacons._info import merged_info
from autobatch.beacons.storage import (
    BRANCH_PARTS,
    Journey,
    JourneyKind,
    compact_branches,
    has_parts,
    holds_branches,
    recorded_origins,
    write_branches,
)
from autobatch.control.batches import derive_seed
from autobatch.policies import Moves, Observation, PolicySpec, TaskInfo, make_policy
from autobatch.training._crew import Report
from autobatch.training._engine import reproducible, resolve_device
from autobatch.training._run import EpochRow
from autobatch.training._trial import FINISHED, Trial
from autobatch.training.data import load_data
from autobatch.training.recording._cells import CellEnd
from autobatch.training.recording._progress import RecordingObserver
from autobatch.training.recording._task import (
    RecordingResult,
    TaskRecorder,
    modelled_epoch_seconds,
    record_cells,
    recording_info,
)
from autobatch.training.task import TaskSpec, check_ladder, task_info

Number = TypeVar("Number", int, float)

Configuration = tuple[int, float]
"""Batch size and base learning rate."""

SEEDS_APART = 1000
"""The first seed is the next multiple of this above the library's, so that branch runs repeat no beacon."""

MOST_SEED = 2**62
"""Seeds are stored as int64, and some are counted on from the first."""

_SPREAD = (0.05, 0.2)
_STAND_INS = (0.5, 0.75)
_SHARES = {1: 0.5, 2: 0.3, 3: 0.2}
_LONGEST_HOLD = 12
_EXPLORATION = 0.2
_START = Observation(0, 0.0, 0, np.nan, np.nan, 0.0, 0, np.nan, np.nan, np.nan)


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

    def lengths(self) -> list[tuple[Configuration, int]]:
        """Return how many epochs are trained of which configuration, in order."""
        trained = [(configuration, 1) for configuration in self.course]
        for epoch, targets in self.switches.items():
            trained += [(target, min(self.length, self.epochs - epoch)) for target in targets]
        return trained


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


def record_task_branches(
    task: TaskSpec,
    env_dir: Path,
    library: BeaconLibrary,
    *,
    batch_sizes: Sequence[int] | None = None,
    learning_rates: Sequence[float] | None = None,
    epochs_at: Sequence[int] | None = None,
    targets: int = 3,
    length: int = 2,
    journeys: int = 0,
    follow: PolicySpec | None = None,
    seed: int | None = None,
    jobs: int = 1,
    device: str = "auto",
    data_dir: Path | None = None,
    trust_code: bool = False,
    command: str = "",
    observer: RecordingObserver | None = None,
) -> RecordingResult:
    """Record what happens when fixed trainings of a task are changed midway, into ``env_dir/branches``.

    Each trunk is trained in memory as a beacon is. After some of its epochs, it is continued under a few other
    configurations, each time from the very same state, and then goes on as it was. A trunk that diverges is kept as a
    journey. What is finished is not trained again; a ``KeyboardInterrupt`` passes through and keeps it. In the end
    everything is gathered into ``env_dir/branches.parquet``.

    Args:
        task: the task.
        env_dir: the folder that gets the branch runs; the task's env folder, usually.
        library: the task's beacons.
        batch_sizes: batch sizes of the trunks, of the task's ladder; all by default.
        learning_rates: base learning rates of the trunks, of the task's; all by default.
        epochs_at: after how many epochs branches leave; by default early, and about the schedule's milestones.
        targets: branches at each of these epochs; 0 trains no trunks.
        length: epochs of a branch, fewer where the training ends.
        journeys: whole trainings that change batch size and rate at random epochs.
        follow: a policy that the journeys follow instead; one epoch in five uses another configuration, mostly a rung
            or two away. What a policy that was learned on a surrogate does in truth is what that surrogate lacks.
        seed: first of the seeds, one for each configuration of the task and then one for each journey; by default a
            thousand, or the next one above the seeds of the library.
        jobs: processes that train side by side.
        device: torch device.
        data_dir: where datasets lie.
        trust_code: allow the task to name a model factory to import.
        command: the command line that asked for this, kept with the branch runs.
        observer: what watches the recording; trunks and journeys are its "beacons".

    Returns:
        How many trunks and journeys were recorded and which failed.

    Raises:
        ConfigError: an argument is out of range, or not on the task's ladder.
        OutputError: ``env_dir`` cannot be written.
        LibraryError: the library, or what ``env_dir`` holds, is of another task or damaged.
        DataError: the data are missing or damaged.
    """
    started = time.perf_counter()
    env_dir = Path(env_dir)
    _check_counts(jobs=(jobs, 1), length=(length, 1), targets=(targets, 0), journeys=(journeys, 0), seed=(seed or 0, 0))
    if seed is not None and seed >= MOST_SEED:
        raise ConfigError(f"seed: expected less than {MOST_SEED}, got {seed}")
    first = seed if seed is not None else _first_seed(library)
    trunks = _trunks(
        task,
        _chosen(batch_sizes, task.batch_sizes, "batch size") if targets else (),
        _chosen(learning_rates, task.learning_rates, "learning rate") if targets else (),
        switch_epochs=_switch_epochs(epochs_at, task),
        targets=targets,
        length=length,
        first_seed=first,
    )
    wanted = [*trunks, *_journeys(task, library, journeys, first, follow)]
    if not wanted:
        raise ConfigError("nothing to record: expected at least one target an epoch, or a journey")
    place = resolve_device(device)
    data = load_data(task, data_dir, place)
    check_ladder(task, len(data.train_labels))
    info = recording_info(task, data, None, command)
    _check_same_task(info, library, env_dir)
    recorded = recorded_origins(env_dir)
    missing = [job for job in wanted if job.origin not in recorded]
    seconds = modelled_epoch_seconds(task, library.costs, len(data.train_labels))
    result = record_cells(
        BranchRecorder(task, env_dir, info, str(place), data_dir, trust_code, library),
        [(job, sum(number * seconds[size] for (size, _), number in job.lengths())) for job in missing],
        found=len(wanted) - len(missing),
        folder=env_dir / BRANCH_PARTS,
        jobs=jobs,
        observer=observer or RecordingObserver(),
        started=started,
    )
    if has_parts(env_dir):
        compact_branches(env_dir)
    return result


def _check_counts(**counts: tuple[int, int]) -> None:
    for name, (value, least) in counts.items():
        if value < least:
            raise ConfigError(f"{name}: expected at least {least}, got {value}")


def _first_seed(library: BeaconLibrary) -> int:
    return (max(beacon.seed for beacon in library.beacons) // SEEDS_APART + 1) * SEEDS_APART


def _chosen(chosen: Sequence[Number] | None, known: tuple[Number, ...], what: str) -> tuple[Number, ...]:
    if chosen is None:
        return known
    if not chosen:
        raise ConfigError(f"{what} of the trunks: expected at least one")
    for value in chosen:
        if value not in known:
            raise ConfigError(
                f"{what} of the trunks: expected values of the task's, {', '.join(map(str, known))}, got {value}"
            )
    return tuple(sorted(set(chosen)))


def _switch_epochs(chosen: Sequence[int] | None, task: TaskSpec) -> tuple[int, ...]:
    if task.epochs == 1:
        raise ConfigError(f"task {task.name!r} has one epoch; a training can be changed only between two")
    if chosen is None:
        return usual_switch_epochs(task)
    if not chosen:
        raise ConfigError("epochs to change at: expected at least one")
    for epoch in chosen:
        if not 1 <= epoch < task.epochs:
            raise ConfigError(
                f"epochs to change at: expected finished epochs from 1 to {task.epochs - 1}, task {task.name!r} having "
                f"{task.epochs}, got {epoch}"
            )
    return tuple(sorted(set(chosen)))


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
    task: TaskSpec, library: BeaconLibrary, count: int, first_seed: int, follow: PolicySpec | None
) -> list[BranchJob]:
    moves = Moves(task.batch_sizes, task.learning_rates)
    first = first_seed + len(task.batch_sizes) * len(task.learning_rates)
    jobs = []
    for seed in range(first, first + count):
        course = journey_course(moves, seed, task.epochs)
        if follow is not None:
            opening = _Follower(follow, replace(task_info(task, library), seed=seed), library).configuration(_START)
            course = (opening,) * task.epochs
        jobs.append(BranchJob("journey", seed, course, follow=follow))
    return jobs


class _Follower:
    """A policy that now and then does something else."""

    def __init__(self, policy: PolicySpec, task: TaskInfo, library: BeaconLibrary) -> None:
        self._policy = make_policy(policy)
        self._policy.reset(task, library)
        self._task = task
        self._moves = Moves(task.batch_sizes, task.learning_rates)

    def configuration(self, observation: Observation) -> Configuration:
        """Return what the next epoch uses."""
        decision = self._policy.decide(observation)
        lr = decision.lr if decision.lr is not None else self._task.learning_rates[self._moves.start[1]]
        chosen = self._moves.at(*self._moves.rungs(decision.batch_size, lr))
        seed = self._task.seed
        if np.random.default_rng(derive_seed(seed, "exploration", observation.epoch)).random() >= _EXPLORATION:
            return chosen
        return next(iter(branch_targets(self._moves, chosen, seed, observation.epoch, 1)), chosen)


def _check_same_task(info: LibraryInfo, library: BeaconLibrary, env_dir: Path) -> None:
    library.check_task(info.task)
    here = [("this recording", info)]
    merged_info([("the task's beacons", library.info), *here])
    if holds_branches(env_dir):
        merged_info([("the branch runs that are there", Branches.load(env_dir).info), *here])


@dataclass
class BranchRecorder(TaskRecorder[BranchJob]):
    """Records trunks and journeys, each trained in memory and so from its beginning.

    Attributes:
        library: the task's beacons.
    """

    library: BeaconLibrary

    def __call__(self, job: BranchJob, report: Report) -> CellEnd:
        """Return how the training ended, once its file is written."""
        device = resolve_device(self.device)
        with reproducible(device, self.task.threads):
            trial = Trial(self.config(*job.origin), data=self.data, device=device)
            task = replace(task_info(self.task, self.library), seed=job.seed)
            follower = None if job.follow is None else _Follower(job.follow, task, self.library)
            journeys = _Recording(trial, job, report, follower).journeys()
        write_branches(self.env_dir, job.origin, journeys, self.info)
        diverged = sum(not journey.finished for journey in journeys)
        if job.kind == "journey" or trial.stopped_because != FINISHED:
            return CellEnd(trial.stopped_because)
        return CellEnd(f"{len(journeys)} branches" + (f", {diverged} of them diverged" if diverged else ""))


class _Recording:
    """One training under way."""

    def __init__(self, trial: Trial, job: BranchJob, report: Report, follower: _Follower | None) -> None:
        self._trial = trial
        self._follower = follower
        self._job = job
        self._report = report
        self._trained, self._epochs = 0, sum(number for _, number in job.lengths())

    def journeys(self) -> list[Journey]:
        """Return the training's branches, or the journey that it is; a trunk that diverges is a journey too."""
        self._report(0.0)
        rows: list[EpochRow] = []
        branches: list[Journey] = []
        last: Configuration | None = None
        for planned in self._job.course:
            configuration = planned
            if self._follower is not None:
                configuration = self._follower.configuration(self._trial.controller.observation)
            if configuration != last:
                self._trial.decide(*configuration, reason="the course of this training")
            last = configuration
            rows.append(self._epoch())
            if self._trial.stopped_because != FINISHED:
                break
            branches += self._branches(rows[-1])
        if self._job.kind == "branch" and self._trial.stopped_because == FINISHED:
            return branches
        records = [row.to_dict() for row in rows]
        whole = Journey.from_records("journey", self._job.seed, records, self._trial.stopped_because)
        return [*branches, whole]

    def _branches(self, before: EpochRow) -> list[Journey]:
        targets = self._job.switches.get(before.epoch, ())
        state = self._trial.state() if targets else None
        branches = []
        for target in targets:
            assert state is not None
            self._trial.decide(*target, reason="a branch tries it")
            rows = [before]
            while len(rows) <= self._job.length and not self._trial.finished:
                rows.append(self._epoch())
            records = [row.to_dict() for row in rows]
            branches.append(Journey.from_records("branch", self._job.seed, records, self._trial.stopped_because))
            self._trial.restore(state)
        return branches

    def _epoch(self) -> EpochRow:
        row = self._trial.epoch()
        self._trained += 1
        self._report(self._trained / self._epochs)
        return row

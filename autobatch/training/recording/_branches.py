"""Recording branch runs: what happens when a training leaves its configuration, in parallel processes, resumable."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autobatch._errors import ConfigError
from autobatch._files import naming_output
from autobatch.beacons import BeaconLibrary, Branches, LibraryInfo
from autobatch.beacons._columns import FINISHED
from autobatch.beacons._info import merged_info
from autobatch.beacons.storage import (
    BRANCHES,
    Journey,
    compact_branches,
    holds_branches,
    recorded_origins,
    write_branches,
)
from autobatch.cells import LOCAL, Cell, CellEnd, Cells, Plan, Report, refuse_ranks
from autobatch.control.run import EpochRow
from autobatch.policies import PolicySpec
from autobatch.training._engine import reproducible, resolve_device
from autobatch.training._recorded import recording_info
from autobatch.training._trial import Trial
from autobatch.training.data import Data, load_data
from autobatch.training.recording._branch_jobs import BranchJob, Configuration, Doubts, Follower, branch_jobs
from autobatch.training.recording._cells import ELSEWHERE
from autobatch.training.recording._progress import RecordingObserver
from autobatch.training.recording._task import (
    RecorderMaker,
    RecordingResult,
    TaskRecorder,
    modelled_epoch_seconds,
    record_cells,
)
from autobatch.training.task import TaskSpec, check_ladder, task_info


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
    doubts: Doubts | None = None,
    seed: int | None = None,
    jobs: int = 1,
    on: str = LOCAL,
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
        doubts: says how little is known of journeys, as ``autobatch.envs.surrogate.doubts_of`` does; of ten times as
            many that are drawn, those are trained of which least is known.
        seed: first of the seeds, one for each configuration of the task and then one for each journey; by default a
            thousand, or the next one above the seeds of the library.
        jobs: workers that train side by side; 1 trains in this process, and 0 puts the trainings in as cells of
            ``env_dir/branches``, for ``autobatch worker``.
        on: what starts the workers, as for ``record_task_beacons``.
        device: torch device.
        data_dir: where datasets lie.
        trust_code: allow the task to name factories to import.
        command: the command line that asked for this, kept with the branch runs.
        observer: what watches the recording; trunks and journeys are its "beacons".

    Returns:
        How many trunks and journeys were recorded and which failed.

    Raises:
        ConfigError: an argument is out of range, or not on the task's ladder, or the engine is not there.
        OutputError: ``env_dir`` cannot be written.
        LibraryError: the library, or what ``env_dir`` holds, is of another task or damaged.
        DataError: the data are missing or damaged.
    """
    started = time.perf_counter()
    env_dir = Path(env_dir)
    if jobs < 0:
        raise ConfigError(f"jobs: expected at least 0, got {jobs}")
    refuse_ranks(on, "branch runs")
    wanted = branch_jobs(
        task,
        library,
        batch_sizes=batch_sizes,
        learning_rates=learning_rates,
        epochs_at=epochs_at,
        targets=targets,
        length=length,
        journeys=journeys,
        follow=follow,
        doubts=doubts,
        seed=seed,
    )
    place = resolve_device(device)
    data = load_data(task, data_dir, place)
    check_ladder(task, len(data.train_labels))
    info = recording_info(task, data, None, command)
    _check_same_task(info, library, env_dir)
    recorded = recorded_origins(env_dir)
    missing = [job for job in wanted if job.origin not in recorded]
    seconds = modelled_epoch_seconds(task, library.costs, len(data.train_labels))
    maker = BranchMaker(env_dir, str(place), data_dir, trust_code)
    result = record_cells(
        maker,
        task,
        info,
        [
            Cell(job.name, sum(number * seconds[size] for (size, _), number in job.lengths()), job.to_dict())
            for job in missing
        ],
        further={"library": maker.keep(library)} if missing else None,
        data=data,
        found=len(wanted) - len(missing),
        folder=env_dir / BRANCHES.name,
        jobs=jobs,
        on=on,
        observer=observer or RecordingObserver(),
        started=started,
    )
    if BRANCHES.files(env_dir):
        compact_branches(env_dir)
    return result


@dataclass(frozen=True)
class BranchMaker(RecorderMaker):
    """Makes what records trunks and journeys; the beacons that they need travel with the cells."""

    kind = "branches"

    def keep(self, library: BeaconLibrary) -> str:
        """Keep a library for the workers; returns the name of its file."""
        name = f"beacons-{len(library.beacons)}.parquet"
        with naming_output(self._kept(name)):
            self._kept(name).parent.mkdir(parents=True, exist_ok=True)
        library.save(self._kept(name))
        return name

    def recorder(self, plan: Plan, task: TaskSpec, info: LibraryInfo, data: Data) -> "BranchRecorder":
        """Return what records one training after another."""
        library = BeaconLibrary.load(self._kept(plan.work["library"]))
        return BranchRecorder(task, info, self, data, library)

    def _kept(self, name: str) -> Path:
        return Cells(self.env_dir / BRANCHES.name).home / name


def _check_same_task(info: LibraryInfo, library: BeaconLibrary, env_dir: Path) -> None:
    library.check_task(info.task)
    here = [("this recording", info)]
    merged_info([("the task's beacons", library.info), *here])
    if holds_branches(env_dir):
        merged_info([("the branch runs that are there", Branches.load(env_dir).info), *here])


@dataclass
class BranchRecorder(TaskRecorder):
    """Records trunks and journeys, each trained in memory and so from its beginning."""

    library: BeaconLibrary

    def __call__(self, cell: Cell, report: Report) -> CellEnd:
        """Return how the training ended, once its file is written."""
        job = BranchJob.from_dict(cell.what)
        if BRANCHES.part(self.maker.env_dir, job.origin).exists():
            return ELSEWHERE
        device = resolve_device(self.maker.device)
        with reproducible(device, self.task.threads):
            trial = Trial(self.config(*job.origin), data=self.data, device=device)
            known = task_info(self.task, self.library)
            task = replace(known, seed=job.seed, adaptive=trial.controller.task.adaptive)
            follower = None if job.follow is None else Follower(job.follow, task, self.library)
            journeys = _Recording(trial, job, report, follower).journeys()
        write_branches(self.maker.env_dir, job.origin, journeys, self.info)
        diverged = sum(not journey.finished for journey in journeys)
        if job.kind == "journey" or trial.stopped_because != FINISHED:
            return CellEnd(trial.stopped_because)
        return CellEnd(f"{len(journeys)} branches" + (f", {diverged} of them diverged" if diverged else ""))


class _Recording:
    """One training under way."""

    def __init__(self, trial: Trial, job: BranchJob, report: Report, follower: Follower | None) -> None:
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
            configuration: Configuration | None = planned
            if self._follower is not None:
                configuration = self._follower.configuration(self._trial.controller.observation)
            if configuration is None:
                break
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
        targets = self._job.switches.get(self._trial.controller.epoch, ())
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
        row = self._trial.period()
        self._trained += 1
        self._report(self._trained / self._epochs)
        return row

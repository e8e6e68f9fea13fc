"""What recording beacons and recording branch runs of a task have in common: data, facts, and how it is done."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic

from autobatch._files import naming_output
from autobatch.beacons import CostTable, LibraryInfo
from autobatch.control import full_steps_per_epoch, steps_per_epoch
from autobatch.control.measuring import at_interval
from autobatch.policies import PolicySpec
from autobatch.training._crew import Report
from autobatch.training._engine import resolve_device
from autobatch.training._run import RunConfig
from autobatch.training._trial import BN
from autobatch.training._versions import software_versions
from autobatch.training.data import Data, load_data
from autobatch.training.recording._cells import ELSEWHERE, AnyCell, CellEnd, Ledger, work_off
from autobatch.training.recording._progress import RecordingObserver
from autobatch.training.task import TaskSpec, cpu_share


@dataclass(frozen=True)
class RecordingResult:
    """How a recording ended.

    Attributes:
        recorded: beacons recorded now.
        found: beacons of the grid that were already there.
        failed: message by name of each beacon that could not be recorded.
        elsewhere: beacons that another process was recording, or finished in the meantime: several may work at a grid.
        seconds: wall time of the recording.
    """

    recorded: int
    found: int
    failed: dict[str, str]
    elsewhere: int
    seconds: float


@dataclass
class TaskRecorder(Generic[AnyCell]):
    """Trains one cell of a task after another, in a process of its own; the data are loaded once a process.

    Attributes:
        task: the task.
        env_dir: the folder that gets the parts.
        info: what the parts have in common.
        device: torch device.
        data_dir: where datasets lie.
        trust_code: whether the task may name a model factory to import.
    """

    task: TaskSpec
    env_dir: Path
    info: LibraryInfo
    device: str
    data_dir: Path | None
    trust_code: bool
    _data: Data | None = field(default=None, init=False)

    @property
    def data(self) -> Data:
        """The task's data, on the device."""
        if self._data is None:
            self._data = load_data(self.task, self.data_dir, resolve_device(self.device))
        return self._data

    def config(self, batch_size: int, lr: float, seed: int) -> RunConfig:
        """Return how a fixed run of the task is trained and measured as a beacon."""
        return RunConfig(
            task=self.task,
            policy=PolicySpec(name="fixed", kind="fixed", parameters={"batch_size": batch_size, "lr": lr}),
            seed=seed,
            device=self.device,
            data_dir=self.data_dir,
            recording=True,
            trust_code=self.trust_code,
        )

    def __call__(self, cell: AnyCell, report: Report) -> CellEnd:
        """Train a cell and write its part."""
        raise NotImplementedError


def record_cells(
    recorder: TaskRecorder[AnyCell],
    missing: Sequence[tuple[AnyCell, float]],
    *,
    found: int,
    folder: Path,
    jobs: int,
    observer: RecordingObserver,
    started: float,
) -> RecordingResult:
    """Record what is missing, in processes side by side.

    Args:
        recorder: records one cell.
        missing: the cells, and what each should take.
        found: cells that are there already.
        folder: made before anything trains.
        jobs: processes, at most.
        observer: what watches.
        started: when the recording began, by ``time.perf_counter``.

    Returns:
        How it ended.

    Raises:
        OutputError: the folder cannot be made.
    """
    failed: dict[str, str] = {}
    elsewhere = 0
    if missing:
        with naming_output(recorder.env_dir):
            folder.mkdir(parents=True, exist_ok=True)
        threads = threads_each(recorder.task.threads, min(jobs, len(missing)))
        ledger = Ledger(missing, found, observer)
        work_off(replace(recorder, task=recorder.task.model_copy(update={"threads": threads})), ledger, jobs)
        failed, elsewhere = ledger.failed, sum(end == ELSEWHERE for end in ledger.ended.values())
    recorded = len(missing) - len(failed) - elsewhere
    return RecordingResult(recorded, found, failed, elsewhere, time.perf_counter() - started)


def threads_each(threads: int, jobs: int) -> int:
    """Return the threads that each of several trainings side by side gets."""
    return max(1, min(threads, cpu_share() // jobs))


def recording_info(task: TaskSpec, data: Data, costs: CostTable | None, command: str) -> LibraryInfo:
    """Return what all that is recorded of a task has in common; ``costs`` where they are to be kept."""
    return LibraryInfo(
        task=task.fingerprint_payload(data.fingerprint, data.num_classes),
        task_name=task.name,
        score=task.score,
        bn=BN,
        sampling_interval=task.measuring.interval,
        versions=software_versions(),
        commands=(command,) if command else (),
        costs=costs,
    )


def modelled_epoch_seconds(task: TaskSpec, costs: CostTable | None, train_size: int) -> dict[int, float]:
    """Return how long an epoch that is measured as beacons are should take.

    Args:
        task: the task.
        costs: seconds by batch size; without those of the ladder, each step and each measurement counts as one.
        train_size: training examples.

    Returns:
        Seconds, or another unit that ratios can be taken of, by batch size of the ladder.
    """
    known = costs is not None and set(task.batch_sizes) <= costs.step_seconds.keys() & costs.measuring_seconds.keys()
    seconds = {}
    for size in task.batch_sizes:
        full = full_steps_per_epoch(train_size, size)
        samples = len(at_interval(full, task.measuring.interval, task.measuring.floor))
        steps = steps_per_epoch(train_size, size)
        if costs is not None and known:
            seconds[size] = costs.training_seconds(size, steps, epochs=1.0) + samples * costs.measuring(size)
        else:
            seconds[size] = float(steps + samples)
    return seconds

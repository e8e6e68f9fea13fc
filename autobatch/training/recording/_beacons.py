"""Recording a beacon library: the grid of fixed runs, in parallel processes, resumable at any point."""

import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from autobatch._errors import BusyError, CheckpointError, ConfigError
from autobatch._files import naming_output
from autobatch.beacons import (
    Beacon,
    BeaconKey,
    BeaconLibrary,
    CostTable,
    LibraryInfo,
    is_recorded,
    recorded_keys,
    write_beacon,
)
from autobatch.beacons._info import merged_info
from autobatch.control import full_steps_per_epoch, steps_per_epoch
from autobatch.control.measuring import at_interval
from autobatch.control.rates import check_rate
from autobatch.policies import PolicySpec
from autobatch.training._calibrate import calibrate, covers
from autobatch.training._crew import Crew, Report
from autobatch.training._engine import resolve_device
from autobatch.training._run import CONFIG, EpochRow, RunConfig, RunObserver, load_epochs
from autobatch.training._session import run
from autobatch.training._trial import BN
from autobatch.training._versions import software_versions
from autobatch.training.data import Data, load_data
from autobatch.training.recording._ledger import Effort, Job, Ledger, RecordingProgress
from autobatch.training.task import TaskSpec, check_ladder

_WORKING = Path("beacons") / ".running"

ELSEWHERE = "left to another process that records it"
"""What the training of a beacon returns where another process has it in hand, or has finished it in the meantime."""


class RecordingObserver:
    """What watches a recording. Every method does nothing by default; override those you need."""

    def started(self, progress: RecordingProgress) -> None:
        """Called once, before the first beacon starts."""

    def note(self, message: str) -> None:
        """Called with one line that the user should know."""

    def progressed(self, progress: RecordingProgress) -> None:
        """Called whenever some beacon finished an epoch; must be cheap."""

    def beacon_finished(self, name: str, stopped_because: str, progress: RecordingProgress) -> None:
        """Called when a beacon's file is on disk."""

    def beacon_failed(self, name: str, message: str) -> None:
        """Called when a beacon's process died or raised; the others go on."""


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


def record_task_beacons(
    task: TaskSpec,
    env_dir: Path,
    *,
    batch_sizes: Sequence[int] | None = None,
    learning_rates: Sequence[float] | None = None,
    seeds: Sequence[int] | None = None,
    jobs: int = 1,
    device: str = "auto",
    data_dir: Path | None = None,
    trust_code: bool = False,
    command: str = "",
    observer: RecordingObserver | None = None,
) -> RecordingResult:
    """Train the grid of fixed runs of a task and write one Parquet file per beacon into ``env_dir/beacons``.

    Beacons that are there already are not trained again, and a beacon that was interrupted continues from its
    checkpoint in ``env_dir/beacons/.running``. A ``KeyboardInterrupt`` passes through and keeps what is finished. The
    longest beacons go first, so that no process is left alone with one at the end.

    Args:
        task: the task.
        env_dir: the env folder that the library belongs to.
        batch_sizes: batch sizes of the grid; the task's ladder by default.
        learning_rates: base learning rates of the grid; the task's by default.
        seeds: seeds of the grid; the task's by default.
        jobs: processes that train side by side.
        device: torch device.
        data_dir: where datasets lie.
        trust_code: allow the task to name a model factory to import.
        command: the command line that asked for this, kept with the library.
        observer: what watches the recording.

    Returns:
        What was recorded and what failed.

    Raises:
        ConfigError: ``jobs`` is not positive, or the grid cannot be trained.
        OutputError: ``env_dir`` cannot be written.
        LibraryError: ``env_dir`` holds beacons of another task, or damaged ones.
        DataError: the data are missing or damaged.
    """
    if jobs < 1:
        raise ConfigError(f"jobs: expected at least 1, got {jobs}")
    started = time.perf_counter()
    observer = observer or RecordingObserver()
    env_dir = Path(env_dir)
    grid = [
        BeaconKey(batch_size, lr, seed)
        for batch_size in sorted(set(batch_sizes or task.batch_sizes))
        for lr in sorted(set(learning_rates or task.learning_rates))
        for seed in sorted(set(seeds if seeds is not None else task.seeds))
    ]
    for key in grid:
        check_rate(key.lr, "learning rate of the grid")
        if key.batch_size < 1:
            raise ConfigError(f"batch size of the grid: expected at least 1, got {key.batch_size}")
    task = _with_ladder(task, grid)
    recorded = recorded_keys(env_dir)
    missing = [key for key in grid if key not in recorded]
    if not missing:
        return RecordingResult(0, len(grid), {}, 0, time.perf_counter() - started)
    place = resolve_device(device)
    data = load_data(task, data_dir, place)
    check_ladder(task, len(data.train_labels))
    library = BeaconLibrary.load(env_dir) if recorded else None
    costs = _grid_costs(task, data, place, library, observer, trust_code=trust_code)
    info = recording_info(task, data, costs, command)
    _check_library(library, info)
    with naming_output(env_dir):
        (env_dir / _WORKING).mkdir(parents=True, exist_ok=True)
    side_by_side = task.model_copy(update={"threads": threads_each(task.threads, min(jobs, len(missing)))})
    recorder = _BeaconRecorder(side_by_side, env_dir, info, device=str(place), data_dir=data_dir, trust_code=trust_code)
    found = len(grid) - len(missing)
    seconds = modelled_epoch_seconds(task, costs, len(data.train_labels))
    ledger = Ledger([(key, Effort(task.epochs, seconds[key.batch_size])) for key in missing], found)
    observer.started(ledger.progress())
    failed, elsewhere = train_all(recorder, ledger, jobs, observer)
    if not any((env_dir / _WORKING).iterdir()):
        (env_dir / _WORKING).rmdir()
    recorded_now = len(missing) - len(failed) - elsewhere
    return RecordingResult(recorded_now, found, failed, elsewhere, time.perf_counter() - started)


def train_all(
    work: Callable[[Job, Report], str], ledger: Ledger[Job], jobs: int, observer: RecordingObserver
) -> tuple[dict[str, str], int]:
    """Work a ledger off in processes side by side.

    Args:
        work: does one job and returns why it stopped, or ``ELSEWHERE``; must be picklable.
        ledger: the jobs.
        jobs: processes, at most.
        observer: what watches.

    Returns:
        Message by name of each job that failed, and how many were left to another process.
    """
    failed: dict[str, str] = {}
    elsewhere = 0
    with Crew(work, list(ledger.waiting), min(jobs, len(ledger.waiting))) as crew:
        for job, event, value in crew.events():
            ledger.take(job, event)
            if event == "progress":
                observer.progressed(ledger.progress())
            elif event == "done":
                elsewhere += value == ELSEWHERE
                observer.beacon_finished(job.name, str(value), ledger.progress())
            elif event == "failed":
                failed[job.name] = str(value)
                observer.beacon_failed(job.name, str(value))
    return failed, elsewhere


class _BeaconRecorder:
    """Trains one beacon after another in a process of its own; the data are loaded once a process."""

    def __init__(
        self,
        task: TaskSpec,
        env_dir: Path,
        info: LibraryInfo,
        *,
        device: str,
        data_dir: Path | None,
        trust_code: bool,
    ) -> None:
        self._task = task
        self._env_dir = env_dir
        self._info = info
        self._device = device
        self._data_dir = data_dir
        self._trust_code = trust_code
        self._data: Data | None = None

    def __call__(self, key: BeaconKey, report: Report) -> str:
        """Return why the beacon stopped, once it is trained and its file is written."""
        if is_recorded(self._env_dir, key):
            return ELSEWHERE
        self._data = self._data or load_data(self._task, self._data_dir, self._device)
        out = self._env_dir / _WORKING / key.name
        watcher = _EpochReporter(report)
        try:
            summary = run(self._config(key), out, watcher, resume=(out / CONFIG).exists(), data=self._data)
        except BusyError:
            return ELSEWHERE
        except CheckpointError:
            # What an older recording of another task, or a broken disk, has left here is of no use.
            shutil.rmtree(out)
            summary = run(self._config(key), out, watcher, data=self._data)
        beacon = Beacon.from_records(
            *key,
            records=[row.to_dict() for row in load_epochs(out)],
            test_error=math.nan if summary.test_error is None else summary.test_error,
            test_loss=math.nan if summary.test_loss is None else summary.test_loss,
            stopped_because=summary.stopped_because,
        )
        write_beacon(self._env_dir, beacon, self._info)
        shutil.rmtree(out)
        return summary.stopped_because

    def _config(self, key: BeaconKey) -> RunConfig:
        policy = PolicySpec(name="fixed", kind="fixed", parameters={"batch_size": key.batch_size, "lr": key.lr})
        return RunConfig(
            task=self._task,
            policy=policy,
            seed=key.seed,
            device=self._device,
            data_dir=self._data_dir,
            recording=True,
            trust_code=self._trust_code,
        )


class _EpochReporter(RunObserver):
    def __init__(self, report: Report) -> None:
        self._report = report

    def epoch_finished(self, row: EpochRow) -> None:
        """Tell how many epochs are done."""
        self._report(row.epoch)


def threads_each(threads: int, jobs: int) -> int:
    """Share the processors among trainings side by side.

    Args:
        threads: threads of a training alone.
        jobs: trainings.

    Returns:
        The threads of each.
    """
    return max(1, min(threads, (os.cpu_count() or 1) // jobs))


def _with_ladder(task: TaskSpec, grid: Sequence[BeaconKey]) -> TaskSpec:
    """Return the task with the grid's batch sizes and rates on its ladder; its fingerprint does not change."""
    return task.model_copy(
        update={
            "batch_sizes": tuple(sorted({*task.batch_sizes, *(key.batch_size for key in grid)})),
            "learning_rates": tuple(sorted({*task.learning_rates, *(key.lr for key in grid)})),
        }
    )


def recording_info(task: TaskSpec, data: Data, costs: CostTable | None, command: str) -> LibraryInfo:
    """Return what everything that is recorded of a task has in common.

    Args:
        task: the task.
        data: its data.
        costs: seconds by batch size, where they are to be kept.
        command: the command line that asked for the recording; empty where there is none.

    Returns:
        The metadata.
    """
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


def _check_library(library: BeaconLibrary | None, info: LibraryInfo) -> None:
    if library is None:
        return
    library.check_task(info.task)
    merged_info([("the beacons that are there", library.info), ("this recording", info)])


def _grid_costs(
    task: TaskSpec,
    data: Data,
    device: torch.device,
    library: BeaconLibrary | None,
    observer: RecordingObserver,
    *,
    trust_code: bool,
) -> CostTable:
    """Return the cost table that is there, or time this machine before the grid keeps it busy."""
    kept = library.costs if library is not None else None
    if kept is not None and covers(kept, task, device):
        return kept
    observer.note("timing this machine, a few seconds")
    return calibrate(task, data, device, task.batch_sizes, trust_code=trust_code)


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
        samples = len(
            at_interval(full_steps_per_epoch(train_size, size), task.measuring.interval, task.measuring.floor)
        )
        steps = steps_per_epoch(train_size, size)
        if costs is not None and known:
            seconds[size] = costs.training_seconds(size, steps, epochs=1.0) + samples * costs.measuring(size)
        else:
            seconds[size] = float(steps + samples)
    return seconds

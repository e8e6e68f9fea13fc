"""Recording a beacon library: the grid of fixed runs, in parallel processes, resumable at any point."""

import math
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from autobatch._errors import CheckpointError, ConfigError
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
from autobatch.beacons.storage import BEACONS
from autobatch.cells import LOCAL, Cell, CellEnd, Plan, Report, engine_settings, ranks_on
from autobatch.control.run import CONFIG, load_epochs
from autobatch.control.steps import check_divisible
from autobatch.training._calibrate import calibrate, covers
from autobatch.training._engine import check_task, check_together, resolve_device
from autobatch.training._recorded import recording_info
from autobatch.training._run import RunConfig, load_run_config
from autobatch.training.data import Data, load_data
from autobatch.training.models import build_task_model
from autobatch.training.recording._cells import ELSEWHERE, grid_of
from autobatch.training.recording._progress import RecordingObserver
from autobatch.training.recording._task import (
    RecorderMaker,
    RecordingResult,
    TaskRecorder,
    modelled_epoch_seconds,
    record_cells,
    train,
)
from autobatch.training.task import TaskSpec, check_ladder

_WORKING = Path("beacons") / ".running"


def record_task_beacons(
    task: TaskSpec,
    env_dir: Path,
    *,
    batch_sizes: Sequence[int] | None = None,
    learning_rates: Sequence[float] | None = None,
    seeds: Sequence[int] | None = None,
    jobs: int = 1,
    on: str = LOCAL,
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
        jobs: workers that train side by side; 1 trains in this process, and 0 puts the beacons in as cells of
            ``env_dir/beacons``, for ``autobatch worker`` to train.
        on: what starts the workers: ``"local"``, ``"slurm"`` or ``"ray"``, with settings of its own after a colon, such
            as ``"slurm:partition=gpu,timeout_min=240"``.
        device: torch device.
        data_dir: where datasets lie.
        trust_code: allow the task to name factories to import.
        command: the command line that asked for this, kept with the library.
        observer: what watches the recording.

    Returns:
        What was recorded and what failed.

    Raises:
        ConfigError: ``jobs`` is negative, the engine is not there, or the grid cannot be trained.
        OutputError: ``env_dir`` cannot be written.
        LibraryError: ``env_dir`` holds beacons of another task, or damaged ones.
        DataError: the data are missing or damaged.
    """
    if jobs < 0:
        raise ConfigError(f"jobs: expected at least 0, got {jobs}")
    engine_settings(on)
    started = time.perf_counter()
    observer = observer or RecordingObserver()
    env_dir = Path(env_dir)
    grid = grid_of(
        batch_sizes or task.batch_sizes,
        learning_rates or task.learning_rates,
        seeds if seeds is not None else task.seeds,
        "learning_rates",
    )
    task = _with_ladder(task, grid)
    recorded = recorded_keys(env_dir)
    missing = [key for key in grid if key not in recorded]
    if not missing:
        return RecordingResult(0, len(grid), {}, 0, time.perf_counter() - started)
    place = resolve_device(device)
    data = load_data(task, data_dir, place)
    check_ladder(task, len(data.train_labels))
    library = BeaconLibrary.load(env_dir) if recorded else None
    check_task(task, data, trust_code=trust_code)
    costs = _grid_costs(task, data, place, library, observer, trust_code=trust_code)
    info = recording_info(task, data, costs, command)
    if library is not None:
        library.check_task(info.task)
        merged_info([("the beacons that are there", library.info), ("this recording", info)])
    seconds = modelled_epoch_seconds(task, costs, len(data.train_labels))
    result = record_cells(
        BeaconMaker(env_dir, str(place), data_dir, trust_code, ranks=ranks_on(on)),
        task,
        info,
        [Cell(key.name, task.epochs * seconds[key.batch_size], key._asdict()) for key in missing],
        data=data,
        found=len(grid) - len(missing),
        folder=env_dir / BEACONS.name,
        jobs=jobs,
        on=on,
        observer=observer,
        started=started,
    )
    with suppress(OSError):  # not empty where a beacon has failed or another process is at work
        (env_dir / _WORKING).rmdir()
    return result


@dataclass(frozen=True)
class BeaconMaker(RecorderMaker):
    """Makes what records beacons."""

    kind = "beacons"

    def recorder(self, plan: Plan, task: TaskSpec, info: LibraryInfo, data: Data) -> "BeaconRecorder":
        """Return what records one beacon after another; refuses what its processes cannot train together."""
        if self.ranks > 1:
            check_divisible(task.batch_sizes, self.ranks, 1)
            check_together(task, build_task_model(task, data, trust_code=self.trust_code))
        return BeaconRecorder(task, info, self, data)


class BeaconRecorder(TaskRecorder):
    """Records beacons, each as a run with a directory of its own that goes once its part is written."""

    def __call__(self, cell: Cell, report: Report) -> CellEnd:
        """Return why the beacon stopped, once it is trained and its file is written."""
        key = BeaconKey(**cell.what)
        out = self.maker.env_dir / _WORKING / key.name
        if is_recorded(self.maker.env_dir, key):
            shutil.rmtree(out, ignore_errors=True)  # whoever wrote the beacon may have been killed before this
            return ELSEWHERE
        config = self._as_begun(self.config(*key), out)
        with naming_output(out.parent):
            out.parent.mkdir(parents=True, exist_ok=True)
        try:
            summary = train(config, out, report, resume=(out / CONFIG).exists(), data=self.data, ranks=self.maker.ranks)
        except CheckpointError:
            # What an older recording of another task, or a broken disk, has left here is of no use.
            shutil.rmtree(out)
            summary = train(config, out, report, data=self.data, ranks=self.maker.ranks)
        beacon = Beacon.from_records(
            *key,
            records=[row.to_dict() for row in load_epochs(out)],
            test_error=math.nan if summary.test_error is None else summary.test_error,
            test_loss=math.nan if summary.test_loss is None else summary.test_loss,
            stopped_because=summary.stopped_because,
        )
        report(1.0)
        write_beacon(self.maker.env_dir, beacon, self.info)
        shutil.rmtree(out, ignore_errors=True)
        return CellEnd(summary.stopped_because, summary.device)

    def _as_begun(self, config: RunConfig, out: Path) -> RunConfig:
        """Return a configuration with the threads that its run was begun with, whose number is part of its result."""
        try:
            threads = load_run_config(out).task.threads
        except CheckpointError:
            return config
        return config.model_copy(update={"task": config.task.model_copy(update={"threads": threads})})


def _with_ladder(task: TaskSpec, grid: Sequence[BeaconKey]) -> TaskSpec:
    """Return the task with the grid's batch sizes and rates on its ladder; its fingerprint does not change."""
    return task.model_copy(
        update={
            "batch_sizes": tuple(sorted({*task.batch_sizes, *(key.batch_size for key in grid)})),
            "learning_rates": tuple(sorted({*task.learning_rates, *(key.lr for key in grid)})),
        }
    )


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

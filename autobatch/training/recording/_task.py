"""What recording beacons and recording branch runs of a task have in common: data, facts, and how it is done."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from autobatch._steps import steps_per_epoch
from autobatch.beacons import CostTable, LibraryInfo
from autobatch.cells import Cell, CellEnd, Cells, Plan, Report, Work, work_at
from autobatch.control import full_steps_per_epoch
from autobatch.control.measuring import at_interval
from autobatch.control.run import Summary
from autobatch.policies import PolicySpec
from autobatch.training._calibrate import device_kind
from autobatch.training._engine import resolve_device
from autobatch.training._recorded import recording_info
from autobatch.training._run import RunConfig
from autobatch.training._versions import DEVICE, code_version
from autobatch.training.data import Data, load_data
from autobatch.training.recording._cells import ELSEWHERE, Ledger
from autobatch.training.recording._progress import EpochReporter, RecordingObserver
from autobatch.training.recording._together import run_together
from autobatch.training.running import run
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
class TaskRecorder:
    """Trains one cell of a task after another, in a process of its own.

    Attributes:
        task: the task.
        info: what the parts have in common.
        maker: says where they go, and how they are trained.
        data: the task's data, on the device.
    """

    task: TaskSpec
    info: LibraryInfo
    maker: "RecorderMaker"
    data: Data

    def config(self, batch_size: int, lr: float, seed: int) -> RunConfig:
        """Return how a fixed run of the task is trained and measured as a beacon."""
        return RunConfig(
            task=self.task,
            policy=PolicySpec.fixed(batch_size, lr),
            seed=seed,
            device=self.maker.device,
            data_dir=self.maker.data_dir,
            recording=True,
            trust_code=self.maker.trust_code,
        )

    def __call__(self, cell: Cell, report: Report) -> CellEnd:
        """Train a cell and write its part."""
        raise NotImplementedError


@dataclass(frozen=True)
class RecorderMaker:
    """Makes what records the cells of a plan, in whatever process it is called.

    Attributes:
        env_dir: the folder that gets the parts.
        device: torch device.
        data_dir: where datasets lie.
        trust_code: whether the task may name factories to import.
        side_by_side: workers on this machine, which share its cores.
        ranks: processes that train each cell together.
        data: the task's data, where they are loaded already.
    """

    env_dir: Path
    device: str = "auto"
    data_dir: Path | None = None
    trust_code: bool = False
    side_by_side: int = 1
    ranks: int = 1
    data: Data | None = None

    kind: ClassVar[str]

    def __call__(self, plan: Plan) -> Work:
        """Return what records a plan's cells, refused where task, data or code are others than here."""
        task = TaskSpec.model_validate_json(json.dumps(plan.work["task"]))
        device = resolve_device(self.device)
        data = self.data or load_data(task, self.data_dir, device)
        costs = CostTable.from_dict(plan.work["costs"]) if plan.work["costs"] is not None else None
        kind = device_kind(device, task.threads)
        info = recording_info(task, data, costs, plan.work["command"])
        if self.ranks > 1:
            kind += f", {self.ranks} processes"
        if kind != plan.work["device"]:  # steps that were timed elsewhere say nothing of this machine
            info = replace(info, costs=None, versions={**info.versions, DEVICE: kind})
        plan.check(self.kind, cell_fingerprint(task, info), self.env_dir)
        task = task.model_copy(update={"threads": threads_each(task.threads, self.side_by_side * self.ranks)})
        return self.recorder(plan, task, info, data)

    def recorder(self, plan: Plan, task: TaskSpec, info: LibraryInfo, data: Data) -> TaskRecorder:
        """Return what records one training after another."""
        raise NotImplementedError


def cell_fingerprint(task: TaskSpec, info: LibraryInfo) -> dict[str, Any]:
    """Return what the cells of one folder must agree on: task, data, measuring, and the code that trains."""
    return {
        "task": info.task,
        "measuring": task.measuring.model_dump(mode="json"),
        "code": code_version(),
        "torch": info.versions["torch"],
    }


def record_cells(
    maker: RecorderMaker,
    task: TaskSpec,
    info: LibraryInfo,
    missing: Sequence[Cell],
    *,
    further: Mapping[str, Any] | None = None,
    data: Data,
    found: int,
    folder: Path,
    jobs: int,
    on: str,
    observer: RecordingObserver,
    started: float,
) -> RecordingResult:
    """Put what is missing in as cells, and work at them.

    Args:
        maker: makes what records one.
        task: the task.
        info: what the parts have in common.
        missing: the cells.
        further: what else a worker needs to know, JSON-able.
        data: the task's data.
        found: cells that are there already.
        folder: gets the cells.
        jobs: workers, at most; none leaves the cells to whoever works in the folder.
        on: what starts them, as ``engine_settings`` reads it; one local worker is this process.
        observer: what watches.
        started: when the recording began, by ``time.perf_counter``.

    Returns:
        How it ended.
    """
    ledger = Ledger(missing, found, observer)
    if missing:
        work = {
            "task": task.model_dump(mode="json"),
            "device": device_kind(resolve_device(maker.device), task.threads),
            "costs": info.costs.to_dict() if info.costs is not None else None,
            "command": "; ".join(info.commands),
            **(further or {}),
        }
        cells = Cells(folder)
        plan, jobs = Plan(maker.kind, cell_fingerprint(task, info), work, tuple(missing)), min(jobs, len(missing))
        make = replace(maker, side_by_side=jobs, data=data if jobs == 1 else None)
        arguments = worker_arguments(maker.device, maker.data_dir, trust_code=maker.trust_code)
        work_at(cells, plan, make, jobs, ledger.take, on=on, arguments=arguments, cpus=task.threads)
        cells.clear()
    elsewhere = sum(end == ELSEWHERE for end in ledger.ended.values()) + len(ledger.waiting)
    recorded = len(missing) - len(ledger.failed) - elsewhere
    return RecordingResult(recorded, found, ledger.failed, elsewhere, time.perf_counter() - started)


def worker_arguments(device: str, data_dir: Path | None, *, trust_code: bool) -> list[str]:
    """Return the options of ``autobatch worker`` for a device, where data lie, and whether a task may import code."""
    data = [] if data_dir is None else ["--data-dir", str(data_dir.absolute())]
    return ["--device", device, *data, *(["--trust-code"] if trust_code else [])]


def train(
    config: RunConfig, out: Path, report: Report, *, resume: bool = False, data: Data | None = None, ranks: int = 1
) -> Summary:
    """Carry out the run of a cell, in this process or, of several ranks, in processes that train it together.

    Args:
        config: the configuration.
        out: the run directory.
        report: told which share is done.
        resume: continue the run that ``out`` holds.
        data: the task's data, for this process.
        ranks: processes.

    Returns:
        The summary.
    """
    if ranks > 1:
        return run_together(config, out, report, processes=ranks, resume=resume)
    return run(config, out, EpochReporter(report), resume=resume, data=data)


def threads_each(threads: int, jobs: int) -> int:
    """Return the threads that each of several trainings side by side gets."""
    return max(1, min(threads, cpu_share() // jobs))


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
        if costs is not None and known:
            seconds[size] = costs.whole_epochs(size, train_size) + samples * costs.measuring(size)
        else:
            seconds[size] = float(steps_per_epoch(train_size, size) + samples)
    return seconds

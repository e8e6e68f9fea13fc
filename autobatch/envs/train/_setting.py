"""What episodes of real training share: the task, its data, its beacons, and the one clock of their decisions."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from autobatch._artefacts import find_artefact
from autobatch._errors import ConfigError, LibraryError
from autobatch._files import seen_in
from autobatch.beacons import BeaconLibrary, CostTable
from autobatch.envs.train._workshop import carry_out
from autobatch.policies import TaskInfo
from autobatch.training import Data, TaskSpec, load_data, load_task
from autobatch.training._calibrate import cached_calibration
from autobatch.training._engine import check_task, resolve_device, scales_its_steps
from autobatch.training._trial import BN
from autobatch.training.task import cpu_share, fitting, run_task_info

KEPT = 4
"""Datasets, libraries and cost tables that a process keeps."""


@dataclass(frozen=True, eq=False)
class Setting:
    """Where episodes take place.

    Attributes:
        task: the task, with the number of epochs and threads that was asked for.
        task_path: its env folder.
        data: its data, on the device.
        device: where to train.
        library: its beacons; None where there are none of this very task.
        library_missing: why there are none; None where there are.
        costs: seconds by batch size; None where nothing needs them.
        trust_code: whether the task may name factories to import.
    """

    task: TaskSpec
    task_path: Path
    data: Data
    device: torch.device
    library: BeaconLibrary | None
    library_missing: str | None
    costs: CostTable | None
    trust_code: bool

    def info(self, *, measure: bool) -> TaskInfo:
        """Return what a policy knows of the task, as the controller will say it.

        Args:
            measure: whether C̄ and L are measured.

        Returns:
            The task; its seed is 0.
        """
        info = run_task_info(
            self.task,
            train_size=len(self.data.train_labels),
            costs=self.costs,
            seed=0,
            adaptive=scales_its_steps(self.task, self.data, trust_code=self.trust_code),
        )
        return info if measure else replace(info, measuring_budget=0.0)


def load_setting(
    env: str | Path,
    *,
    epochs: int | None,
    threads: int | None,
    device: str,
    data_dir: str | Path | None,
    needs_costs: bool,
    trust_code: bool,
) -> Setting:
    """Load what episodes share; a process loads each dataset and each library once.

    Args:
        env: name or path of a task.
        epochs: length of a training; None for the task's.
        threads: CPU threads; None for the task's, as far as this process has the CPUs.
        device: a torch device, or ``"auto"``.
        data_dir: where datasets lie or are downloaded to.
        needs_costs: whether seconds by batch size are needed; they are those recorded with the beacons, or else those
            of this machine, timed once.
        trust_code: allow the task to name factories to import.

    Returns:
        The setting. Its beacons fit the task, data and length included; otherwise they are left out.

    Raises:
        ConfigError: an argument or the task's file holds something that autobatch cannot use.
        UnknownNameError: no such task.
        DataError: the data are missing or damaged.
    """
    if not isinstance(env, str | Path) or not str(env):
        raise ConfigError(f"env: expected the name or path of a task, got {env!r}")
    if not (data_dir is None or isinstance(data_dir, str | Path)):
        raise ConfigError(f"data_dir: expected a folder, got {data_dir!r}")
    recorded = load_task(env)
    task = recorded.model_copy(
        update={
            "epochs": _count("epochs", epochs, recorded.epochs),
            "threads": _count("threads", threads, min(recorded.threads, cpu_share())),
        }
    )
    task_path = find_artefact("envs", env).parent.absolute()
    place = resolve_device(device)
    folder = None if data_dir is None else Path(data_dir)
    recorded_json = recorded.model_dump_json()
    data = _data(recorded_json, folder, place)
    task = fitting(task, len(data.train_labels))
    check_task(task, data, trust_code=trust_code)
    library, missing = _library(recorded, task_path, data)
    costs = None
    if needs_costs:
        costs = library.costs if library is not None else None
        if costs is None or not set(task.batch_sizes) <= costs.step_seconds.keys():
            costs = _timed(task.model_dump_json(), recorded_json, folder, place, trust_code=trust_code)
    if library is not None and task.epochs != recorded.epochs:
        library = None
        missing = f"the beacons are of {recorded.epochs} epochs, and these trainings have {task.epochs}"
    return Setting(task, task_path, data, place, library, missing, costs, trust_code)


def _count(name: str, value: int | None, default: int) -> int:
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name}: expected a whole number of at least 1, or None for the task's, got {value!r}")
    return value


def _library(task: TaskSpec, folder: Path, data: Data) -> tuple[BeaconLibrary | None, str | None]:
    """Return the beacons of a task, or why there are none that can be used."""
    try:
        library = _read_library(folder, _stamp(folder))
        library.check_task(task.fingerprint_payload(data.fingerprint, data.num_classes))
        if library.bn != BN:
            return None, f"the beacons of '{library.task_name}' have 'bn' {library.bn!r}, here it is {BN!r}"
        library.best_fixed()
    except LibraryError as error:
        return None, str(error)
    return library, None


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return what changes when beacons are added or recorded anew."""
    files = [folder / "beacons.parquet", *seen_in(folder / "beacons", "*.parquet")]
    found = [(file.name, file.stat()) for file in files if file.exists()]
    return tuple((name, facts.st_mtime_ns, facts.st_size) for name, facts in found)


@lru_cache(maxsize=KEPT)
def _data(task_json: str, data_dir: Path | None, device: torch.device) -> Data:
    task = TaskSpec.model_validate_json(task_json)
    return carry_out(device, task.threads, lambda: load_data(task, data_dir, device))


@lru_cache(maxsize=KEPT)
def _read_library(folder: Path, stamp: tuple[tuple[str, int, int], ...]) -> BeaconLibrary:
    return BeaconLibrary.load(folder)


@lru_cache(maxsize=KEPT)
def _timed(
    task_json: str, recorded_json: str, data_dir: Path | None, device: torch.device, *, trust_code: bool
) -> CostTable:
    task = TaskSpec.model_validate_json(task_json)
    data = _data(recorded_json, data_dir, device)
    payload = task.fingerprint_payload(data.fingerprint, data.num_classes)
    return carry_out(
        device,
        task.threads,
        lambda: cached_calibration(task, data, device, payload, fresh=False, trust_code=trust_code)[0],
    )

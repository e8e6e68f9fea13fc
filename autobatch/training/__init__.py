"""Tasks, data, models, and the loop that trains them.

Names resolve on first use (PEP 562), so that reading a task does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autobatch.training._augment import augment
    from autobatch.training._calibrate import calibrate, device_kind
    from autobatch.training._data import Data, load_data, normalise
    from autobatch.training._experiment import ExperimentSpec, load_experiment, override, resolve
    from autobatch.training._ledger import RecordingProgress
    from autobatch.training._own_beacons import record_beacons
    from autobatch.training._record_beacons import RecordingObserver, RecordingResult, record_task_beacons
    from autobatch.training._record_branches import record_task_branches
    from autobatch.training._run import (
        EpochRow,
        RunConfig,
        RunInfo,
        RunObserver,
        Summary,
        load_decisions,
        load_epochs,
        load_run_config,
        load_summary,
    )
    from autobatch.training._session import run
    from autobatch.training._task import TaskSpec, check_ladder, load_task
    from autobatch.training._task_info import task_info
    from autobatch.training.models import build_model, build_task_model

_HOMES = {
    "Data": "_data",
    "EpochRow": "_run",
    "ExperimentSpec": "_experiment",
    "RecordingObserver": "_record_beacons",
    "RecordingProgress": "_ledger",
    "RecordingResult": "_record_beacons",
    "RunConfig": "_run",
    "RunInfo": "_run",
    "RunObserver": "_run",
    "Summary": "_run",
    "TaskSpec": "_task",
    "augment": "_augment",
    "build_model": "models",
    "build_task_model": "models",
    "calibrate": "_calibrate",
    "check_ladder": "_task",
    "device_kind": "_calibrate",
    "load_data": "_data",
    "load_decisions": "_run",
    "load_epochs": "_run",
    "load_experiment": "_experiment",
    "load_run_config": "_run",
    "load_summary": "_run",
    "load_task": "_task",
    "normalise": "_data",
    "override": "_experiment",
    "record_beacons": "_own_beacons",
    "record_task_beacons": "_record_beacons",
    "record_task_branches": "_record_branches",
    "resolve": "_experiment",
    "run": "_session",
    "task_info": "_task_info",
}

__all__ = [
    "Data",
    "EpochRow",
    "ExperimentSpec",
    "RecordingObserver",
    "RecordingProgress",
    "RecordingResult",
    "RunConfig",
    "RunInfo",
    "RunObserver",
    "Summary",
    "TaskSpec",
    "augment",
    "build_model",
    "build_task_model",
    "calibrate",
    "check_ladder",
    "device_kind",
    "load_data",
    "load_decisions",
    "load_epochs",
    "load_experiment",
    "load_run_config",
    "load_summary",
    "load_task",
    "normalise",
    "override",
    "record_beacons",
    "record_task_beacons",
    "record_task_branches",
    "resolve",
    "run",
    "task_info",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

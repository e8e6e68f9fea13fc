"""Tasks, data, models, and the loop that trains them.

In come a task and a policy by name or file; out go run directories, and libraries of beacons. Open ``_session.py``
first. Names resolve on first use (PEP 562), so that reading a task does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autobatch.training._calibrate import calibrate, device_kind
    from autobatch.training._experiment import ExperimentSpec, load_experiment, override, resolve
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
    from autobatch.training._scouting import Scouting, ScoutRecord, load_scouting
    from autobatch.training._session import run
    from autobatch.training.data import Data, augment, load_data, normalise
    from autobatch.training.models import build_model, build_task_model
    from autobatch.training.own import record_beacons, scout
    from autobatch.training.recording import (
        RecordingObserver,
        RecordingProgress,
        RecordingResult,
        record_task_beacons,
        record_task_branches,
    )
    from autobatch.training.task import TaskSpec, check_ladder, load_task, task_info

_HOMES = {
    "Data": "data",
    "EpochRow": "_run",
    "ExperimentSpec": "_experiment",
    "RecordingObserver": "recording",
    "RecordingProgress": "recording",
    "RecordingResult": "recording",
    "RunConfig": "_run",
    "RunInfo": "_run",
    "RunObserver": "_run",
    "ScoutRecord": "_scouting",
    "Scouting": "_scouting",
    "Summary": "_run",
    "TaskSpec": "task",
    "augment": "data",
    "build_model": "models",
    "build_task_model": "models",
    "calibrate": "_calibrate",
    "check_ladder": "task",
    "device_kind": "_calibrate",
    "load_data": "data",
    "load_decisions": "_run",
    "load_epochs": "_run",
    "load_experiment": "_experiment",
    "load_run_config": "_run",
    "load_scouting": "_scouting",
    "load_summary": "_run",
    "load_task": "task",
    "normalise": "data",
    "override": "_experiment",
    "record_beacons": "own",
    "record_task_beacons": "recording",
    "record_task_branches": "recording",
    "resolve": "_experiment",
    "run": "_session",
    "scout": "own",
    "task_info": "task",
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
    "ScoutRecord",
    "Scouting",
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
    "load_scouting",
    "load_summary",
    "load_task",
    "normalise",
    "override",
    "record_beacons",
    "record_task_beacons",
    "record_task_branches",
    "resolve",
    "run",
    "scout",
    "task_info",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

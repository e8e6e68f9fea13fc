"""Tasks, data, models, and the loop that trains them.

In come a task and a policy by name or file; out go run directories, and libraries of beacons. Open
``running/_carry_out.py`` first. Names resolve on first use (PEP 562), so that reading a task does not import torch.
"""

from typing import TYPE_CHECKING

from autobatch._lazy import on_first_use

if TYPE_CHECKING:
    from autobatch.control.run import EpochRow, Summary, load_decisions, load_epochs, load_summary
    from autobatch.training._calibrate import calibrate, device_kind
    from autobatch.training._experiment import ExperimentSpec, load_experiment, override, resolve
    from autobatch.training._run import RunConfig, RunInfo, RunObserver, load_run_config
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
    from autobatch.training.running import Scouting, ScoutRecord, load_scouting, run
    from autobatch.training.task import TaskSpec, check_ladder, load_task, task_info

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

__getattr__, __dir__ = on_first_use(__name__)

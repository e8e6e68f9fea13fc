"""Recording beacons and branch runs of a task.

In come a task and the configurations to train; out goes its library, written part by part so that a recording can
be cut and resumed. Open ``_task.py`` first.
"""

from autobatch.training.recording._beacons import BeaconMaker, record_task_beacons
from autobatch.training.recording._branches import BranchMaker, record_task_branches
from autobatch.training.recording._cells import Ledger, grid_of, work_off
from autobatch.training.recording._progress import RecordingObserver, RecordingProgress
from autobatch.training.recording._task import RecordingResult, threads_each, train, worker_arguments

__all__ = [
    "BeaconMaker",
    "BranchMaker",
    "Ledger",
    "RecordingObserver",
    "RecordingProgress",
    "RecordingResult",
    "grid_of",
    "record_task_beacons",
    "record_task_branches",
    "threads_each",
    "train",
    "work_off",
    "worker_arguments",
]

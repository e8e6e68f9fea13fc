"""Recording beacons and branch runs of a task.

In come a task and the configurations to train; out goes its library, written beacon by beacon so that a recording can
be cut and resumed. Open ``_beacons.py`` first.
"""

from autobatch.training.recording._beacons import (
    RecordingObserver,
    RecordingResult,
    record_task_beacons,
    threads_each,
)
from autobatch.training.recording._branches import record_task_branches
from autobatch.training.recording._ledger import RecordingProgress

__all__ = [
    "RecordingObserver",
    "RecordingProgress",
    "RecordingResult",
    "record_task_beacons",
    "record_task_branches",
    "threads_each",
]

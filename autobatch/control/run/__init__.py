"""The run directory: what lies in it, how it is read back, and how a loop of one's own writes one.

In come a training's decisions and figures; out go its files, and records of them. Open ``_writing.py`` first.
"""

from autobatch.control.run._best import best_beacon
from autobatch.control.run._log import RunLog
from autobatch.control.run._loop import LoopConfig, LoopTask, from_run, is_loop, load_loop_config
from autobatch.control.run._records import (
    BEST_CHECKPOINT,
    BRANCH_RUNS,
    CHECKPOINT,
    CONFIG,
    DECISIONS,
    EPOCHS,
    FORKS,
    MEASUREMENTS,
    SCOUTING,
    SCOUTS,
    SUMMARY,
    EpochRow,
    Summary,
    load_decisions,
    load_epochs,
    load_measurements,
    load_summary,
    no_run,
    refuse_occupied,
    summed,
)
from autobatch.control.run._writing import RunFiles

__all__ = [
    "BEST_CHECKPOINT",
    "BRANCH_RUNS",
    "CHECKPOINT",
    "CONFIG",
    "DECISIONS",
    "EPOCHS",
    "FORKS",
    "MEASUREMENTS",
    "SCOUTING",
    "SCOUTS",
    "SUMMARY",
    "EpochRow",
    "LoopConfig",
    "LoopTask",
    "RunFiles",
    "RunLog",
    "Summary",
    "best_beacon",
    "from_run",
    "is_loop",
    "load_decisions",
    "load_epochs",
    "load_loop_config",
    "load_measurements",
    "load_summary",
    "no_run",
    "refuse_occupied",
    "summed",
]

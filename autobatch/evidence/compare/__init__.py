"""Policies beside the best fixed beacon of one task, trained for real.

In come policies, a task with beacons and seeds; out go runs, their tables and picture, and a report with tests. Open
``_compare.py`` first.
"""

from autobatch.evidence.compare._compare import compare_policies
from autobatch.evidence.compare._report import (
    PolicyComparison,
    json_text,
)
from autobatch.evidence.compare._tables import (
    EPOCHS,
    RUNS,
    ComparedRun,
    load_epochs_table,
    load_runs,
    table_facts,
)

__all__ = [
    "EPOCHS",
    "RUNS",
    "ComparedRun",
    "PolicyComparison",
    "compare_policies",
    "json_text",
    "load_epochs_table",
    "load_runs",
    "table_facts",
]

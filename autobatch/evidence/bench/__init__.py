"""One bench: policies beside baselines on any number of tasks, trained for real.

In come policies, tasks, baselines and seeds; out go run directories, tables, pictures and a report with tests. Open
``_bench.py`` first: ``_plan`` says who meets whom, ``_runs`` trains, ``_courses`` reads back and charges, ``_figures``,
``_tests``, ``_noninferior`` and ``_overall`` say what it comes to.
"""

from autobatch.evidence.bench._bench import compare_policies
from autobatch.evidence.bench._cells import KIND, ComparisonMaker
from autobatch.evidence.bench._compared import ComparedRun
from autobatch.evidence.bench._comparison import PolicyComparison, TaskComparison
from autobatch.evidence.bench._runs import BenchObserver, BenchProgress
from autobatch.evidence.bench._tables import (
    EPOCHS,
    RUNS,
    load_epochs_table,
    load_runs,
    table_facts,
    tables_by_task,
)
from autobatch.evidence.bench.telling import comparison_json, comparison_markdown, load_comparison

__all__ = [
    "EPOCHS",
    "KIND",
    "RUNS",
    "BenchObserver",
    "BenchProgress",
    "ComparedRun",
    "ComparisonMaker",
    "PolicyComparison",
    "TaskComparison",
    "compare_policies",
    "comparison_json",
    "comparison_markdown",
    "load_comparison",
    "load_epochs_table",
    "load_runs",
    "table_facts",
    "tables_by_task",
]

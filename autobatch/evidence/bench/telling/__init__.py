"""A comparison told: as Markdown, JSON, tables with commas, and pictures.

In comes a comparison; out go texts and files. Open ``_report.py`` first.
"""

from autobatch.evidence.bench.telling._files import comparison_json, load_comparison, policies_csv, runs_csv
from autobatch.evidence.bench.telling._picture import TaskLine, save_overall, save_task
from autobatch.evidence.bench.telling._report import comparison_markdown

__all__ = [
    "TaskLine",
    "comparison_json",
    "comparison_markdown",
    "load_comparison",
    "policies_csv",
    "runs_csv",
    "save_overall",
    "save_task",
]

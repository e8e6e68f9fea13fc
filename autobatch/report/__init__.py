"""Tell and show: the end summary, the decision log as a story, the plane as a picture, and listings.

In come run directories, libraries and tables; out go words, tables, pictures and pages. Open ``_summary.py`` first.
"""

from autobatch.report._cells import cells_lines
from autobatch.report._comparison import Comparison, compare, modelled_seconds, verdict
from autobatch.report._listings import env_table, libraries_table, library_table, policy_table, shorthand_line
from autobatch.report._record import RunRecord, comparable_library, read_run
from autobatch.report._runs import RunFacts, chosen_runs, facts_dicts, find_runs, load_run_facts, runs_table
from autobatch.report._story import chapters, story
from autobatch.report._summary import summary_view
from autobatch.report._words import count_words, loss_words, percent_words, position_words, seconds_words
from autobatch.report.page import check_page, html_page, save_html
from autobatch.report.paper import PaperFigure, draw_paper_figures, paper_figures
from autobatch.report.plane import check_format, draw_plane, plane_figure, save_plane

__all__ = [
    "Comparison",
    "PaperFigure",
    "RunFacts",
    "RunRecord",
    "cells_lines",
    "chapters",
    "check_format",
    "check_page",
    "chosen_runs",
    "comparable_library",
    "compare",
    "count_words",
    "draw_paper_figures",
    "draw_plane",
    "env_table",
    "facts_dicts",
    "find_runs",
    "html_page",
    "libraries_table",
    "library_table",
    "load_run_facts",
    "loss_words",
    "modelled_seconds",
    "paper_figures",
    "percent_words",
    "plane_figure",
    "policy_table",
    "position_words",
    "read_run",
    "runs_table",
    "save_html",
    "save_plane",
    "seconds_words",
    "shorthand_line",
    "story",
    "summary_view",
    "verdict",
]

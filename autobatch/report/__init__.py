"""Tell and show: the end summary, the decision log as a story, the plane as a picture, and listings."""

from autobatch.report._compare_tables import ComparedRun, load_epochs_table, load_runs, table_facts
from autobatch.report._comparison import Comparison, compare, modelled_seconds, verdict
from autobatch.report._html import check_page, html_page, save_html
from autobatch.report._listings import env_table, libraries_table, library_table, policy_table, shorthand_line
from autobatch.report._paper_claim import Claim, claims_json, claims_markdown
from autobatch.report._paper_claims import paper_claims
from autobatch.report._paper_figures import PaperFigure, draw_paper_figures, paper_figures
from autobatch.report._plane import check_format, draw_plane, plane_figure, save_plane
from autobatch.report._record import RunRecord, comparable_library, read_run
from autobatch.report._story import Chapter, chapters, story
from autobatch.report._summary import summary_view
from autobatch.report._words import count_words, loss_words, percent_words, position_words, seconds_words

__all__ = [
    "Chapter",
    "Claim",
    "ComparedRun",
    "Comparison",
    "PaperFigure",
    "RunRecord",
    "chapters",
    "check_format",
    "check_page",
    "claims_json",
    "claims_markdown",
    "comparable_library",
    "compare",
    "count_words",
    "draw_paper_figures",
    "draw_plane",
    "env_table",
    "html_page",
    "libraries_table",
    "library_table",
    "load_epochs_table",
    "load_runs",
    "loss_words",
    "modelled_seconds",
    "paper_claims",
    "paper_figures",
    "percent_words",
    "plane_figure",
    "policy_table",
    "position_words",
    "read_run",
    "save_html",
    "save_plane",
    "seconds_words",
    "shorthand_line",
    "story",
    "summary_view",
    "table_facts",
    "verdict",
]

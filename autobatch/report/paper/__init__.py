"""The paper's figures.

In come a library and the tables of a comparison; out go pictures that are drawn as the paper has them. Open
``_figures.py`` first.
"""

from autobatch.report.paper._data import (
    Curves,
    Finals,
    beacon_curves,
    finals,
    fixed_name,
    measured,
    measured_curves,
    named_stages,
    policy_curves,
)
from autobatch.report.paper._figure_3 import is_perceptron
from autobatch.report.paper._figure_4 import inner_sizes
from autobatch.report.paper._figures import PaperFigure, draw_paper_figures, paper_figures, save_paper_figure

__all__ = [
    "Curves",
    "Finals",
    "PaperFigure",
    "beacon_curves",
    "draw_paper_figures",
    "finals",
    "fixed_name",
    "inner_sizes",
    "is_perceptron",
    "measured",
    "measured_curves",
    "named_stages",
    "paper_figures",
    "policy_curves",
    "save_paper_figure",
]

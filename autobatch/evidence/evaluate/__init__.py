"""Policies beside baselines over several tasks, trained for real.

In come policies, tasks and seeds; out go runs, a table of results and a report with intervals. Open ``_evaluate.py``
first.
"""

from autobatch.evidence.evaluate._evaluate import evaluate_policies
from autobatch.evidence.evaluate._picture import (
    Interval,
    ratio_axis,
)
from autobatch.evidence.evaluate._plan import (
    Plan,
    fixed_spec,
    load_beacons,
    make_plan,
)
from autobatch.evidence.evaluate._report import (
    Evaluation,
    json_text,
)
from autobatch.evidence.evaluate._runs import (
    EvaluationObserver,
    EvaluationProgress,
    Job,
    side_by_side,
)
from autobatch.evidence.evaluate._train import (
    Trained,
    train_all,
)
from autobatch.evidence.evaluate._words import (
    UNKNOWN,
    cell,
    p_words,
    plain,
    score_words,
    table,
)

__all__ = [
    "UNKNOWN",
    "Evaluation",
    "EvaluationObserver",
    "EvaluationProgress",
    "Interval",
    "Job",
    "Plan",
    "Trained",
    "cell",
    "evaluate_policies",
    "fixed_spec",
    "json_text",
    "load_beacons",
    "make_plan",
    "p_words",
    "plain",
    "ratio_axis",
    "score_words",
    "side_by_side",
    "table",
    "train_all",
]

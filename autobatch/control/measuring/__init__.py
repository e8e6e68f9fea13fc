"""Which steps are measured, and what was measured.

In come a measuring plan, the time that steps take and gradients of single examples; out go C̄, L and the moments of a
decision period. Open ``_period.py`` first.
"""

from autobatch.control.measuring._budget import BUDGET, FLOOR, MeasureWithinBudget
from autobatch.control.measuring._leaps import FEW, leap_words
from autobatch.control.measuring._measuring import (
    INTERVAL,
    MeasureAsked,
    MeasureAtInterval,
    MeasuringPlan,
    NeverMeasure,
    at_interval,
    check_interval,
    stretches,
)
from autobatch.control.measuring._memory import allocated, capacity, is_out_of_memory, saved_tensors
from autobatch.control.measuring._period import Period
from autobatch.control.measuring._samples import MeasuredStep, gradient_moments

__all__ = [
    "BUDGET",
    "FEW",
    "FLOOR",
    "INTERVAL",
    "MeasureAsked",
    "MeasureAtInterval",
    "MeasureWithinBudget",
    "MeasuredStep",
    "MeasuringPlan",
    "NeverMeasure",
    "Period",
    "allocated",
    "at_interval",
    "capacity",
    "check_interval",
    "gradient_moments",
    "is_out_of_memory",
    "leap_words",
    "saved_tensors",
    "stretches",
]

"""Policies for any task: a training as its own epochs show it comes in, deviations from the rule of ``steer`` go out.

``_course.py`` says what can be done to a training and what the rule would do, ``_forked.py`` what is tried on it first,
``_view.py`` what is seen of it. Open
``_policy.py`` first.
"""

from autobatch.policies.general._course import AS_IT_IS, FALL, HEADS, RATE, SIZE, STOP, TRY, Course, Limits, rule_plan
from autobatch.policies.general._forked import FORK_ENTRIES, Forked, forking
from autobatch.policies.general._policy import GeneralParameters, GeneralPolicy
from autobatch.policies.general._view import ENTRIES, FAR, SCHEMA, CourseView, Seen, beyond, lead

__all__ = [
    "AS_IT_IS",
    "ENTRIES",
    "FALL",
    "FAR",
    "FORK_ENTRIES",
    "HEADS",
    "RATE",
    "SCHEMA",
    "SIZE",
    "STOP",
    "TRY",
    "Course",
    "CourseView",
    "Forked",
    "GeneralParameters",
    "GeneralPolicy",
    "Limits",
    "Seen",
    "beyond",
    "forking",
    "lead",
    "rule_plan",
]

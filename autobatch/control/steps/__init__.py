"""One step of the optimizer on a global batch, whatever fits in memory.

In come the loop's batches and its backward passes; out goes one gradient of the whole batch, on every rank. Open
``_step.py`` first.
"""

from autobatch.control.steps._course import Course, Cut
from autobatch.control.steps._passage import Passage, least_examples
from autobatch.control.steps._plan import BatchPlan, check_divisible
from autobatch.control.steps._step import Passing, Step

__all__ = [
    "BatchPlan",
    "Course",
    "Cut",
    "Passage",
    "Passing",
    "Step",
    "check_divisible",
    "least_examples",
]

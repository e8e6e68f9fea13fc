"""A task as its ``env.yaml`` describes it.

In comes the name or the path of a task; out goes a checked ``TaskSpec``, and what a policy may know of it. Open
``_task.py`` first.
"""

from autobatch.training.task._info import run_task_info, task_info
from autobatch.training.task._names import (
    IMAGEFOLDER_PREFIX,
    article,
    depth_problem,
    is_factory,
    model_problem,
    own_prefix,
)
from autobatch.training.task._task import (
    DIGITS_TEST_SHARE,
    TEST_SHARE,
    DatasetSpec,
    OptimizerSpec,
    TaskSpec,
    below,
    check_ladder,
    fitting,
    load_task,
)
from autobatch.training.task._threads import cpu_share

__all__ = [
    "DIGITS_TEST_SHARE",
    "IMAGEFOLDER_PREFIX",
    "TEST_SHARE",
    "DatasetSpec",
    "OptimizerSpec",
    "TaskSpec",
    "article",
    "below",
    "check_ladder",
    "cpu_share",
    "depth_problem",
    "fitting",
    "is_factory",
    "load_task",
    "model_problem",
    "own_prefix",
    "run_task_info",
    "task_info",
]

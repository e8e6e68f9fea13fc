"""Steer where nothing was recorded: a task and what its scouts have seen come in, decisions go out.

``_search.py`` says which short trainings to make and ``_scouts.py`` which of them goes on, ``_plan.py`` when the rate
falls and when training ends, ``_noise.py`` when smaller batches help, ``_forks.py`` when a larger one is tried on the
run itself, ``_overfit.py`` when a training only learns its own examples; ``_policy.py`` puts them together, and
``_by_task.py`` adds what was learned of how far batches may grow. ``_report.py`` is what scouts of somebody's own loop
have come to. Open ``_policy.py`` first.
"""

from autobatch.policies.steer._by_task import ByTaskParameters, ByTaskPolicy
from autobatch.policies.steer._forks import Fork, ForkChoice, Forking, ForkingPolicy, ForkOutcome, ForkRule, no_worse
from autobatch.policies.steer._noise import MeasuringPolicy
from autobatch.policies.steer._overfit import RewindingPolicy
from autobatch.policies.steer._policy import SteerParameters, SteerPolicy
from autobatch.policies.steer._report import ScoutReport, TimedSizes, TrainedScout
from autobatch.policies.steer._scouts import (
    AT_ONCE,
    DID_NOT_FIT,
    LEARNT_NOTHING,
    Scout,
    ScoutChoice,
    ScoutingPolicy,
    ScoutPlan,
    hopeless,
)
from autobatch.policies.steer._search import (
    LEAST,
    MOST,
    PacingPolicy,
    affordable,
    clearly_worse,
    sizes_to_time,
    usual_rates,
    usual_sizes,
    within_memory,
)

__all__ = [
    "AT_ONCE",
    "DID_NOT_FIT",
    "LEARNT_NOTHING",
    "LEAST",
    "MOST",
    "ByTaskParameters",
    "ByTaskPolicy",
    "Fork",
    "ForkChoice",
    "ForkOutcome",
    "ForkRule",
    "Forking",
    "ForkingPolicy",
    "MeasuringPolicy",
    "PacingPolicy",
    "RewindingPolicy",
    "Scout",
    "ScoutChoice",
    "ScoutPlan",
    "ScoutReport",
    "ScoutingPolicy",
    "SteerParameters",
    "SteerPolicy",
    "TimedSizes",
    "TrainedScout",
    "affordable",
    "clearly_worse",
    "hopeless",
    "no_worse",
    "sizes_to_time",
    "usual_rates",
    "usual_sizes",
    "within_memory",
]

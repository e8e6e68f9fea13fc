"""Policies that are learned: by an evolution strategy here, or by the algorithms of Stable-Baselines3.

In comes a ``LearningPlan`` (which environments, which algorithm, how long); out goes a learned policy in two files, its
card and its weights. Open ``_train_policy.py`` first. Names resolve on first use (PEP 562), so that one of them does
not import what only another needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autobatch.learn._cem import CemSettings, CrossEntropy
    from autobatch.learn._plan import ALGORITHMS, STEPS, LearningPlan
    from autobatch.learn._stable_baselines import as_vec_env, network_of, train_with_sb3
    from autobatch.learn._train_policy import LearnedResult, LearningObserver, LearningProgress, train_policy

_HOMES = {
    "ALGORITHMS": "_plan",
    "CemSettings": "_cem",
    "CrossEntropy": "_cem",
    "LearnedResult": "_train_policy",
    "LearningObserver": "_train_policy",
    "LearningPlan": "_plan",
    "LearningProgress": "_train_policy",
    "STEPS": "_plan",
    "as_vec_env": "_stable_baselines",
    "network_of": "_stable_baselines",
    "train_policy": "_train_policy",
    "train_with_sb3": "_stable_baselines",
}

__all__ = [
    "ALGORITHMS",
    "STEPS",
    "CemSettings",
    "CrossEntropy",
    "LearnedResult",
    "LearningObserver",
    "LearningPlan",
    "LearningProgress",
    "as_vec_env",
    "network_of",
    "train_policy",
    "train_with_sb3",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

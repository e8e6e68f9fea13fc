"""Policies that are learned: by an evolution strategy here, or by the algorithms of Stable-Baselines3.

In comes a ``LearningPlan`` (which environments, which algorithm, how long); out goes a learned policy in two files, its
card and its weights. Open ``_train_policy.py`` first. Names resolve on first use (PEP 562), so that one of them does
not import what only another needs.
"""

from typing import TYPE_CHECKING

from autobatch._lazy import on_first_use

if TYPE_CHECKING:
    from autobatch.learn._beginning import begun_with
    from autobatch.learn._cem import CemSettings, CrossEntropy
    from autobatch.learn._general import GeneralResult, learn_general, save_general
    from autobatch.learn._plan import STEPS, LearningPlan
    from autobatch.learn._stable_baselines import as_vec_env, network_of
    from autobatch.learn._train_policy import (
        LearnedResult,
        LearningObserver,
        LearningProgress,
        train_policy,
    )

__all__ = [
    "STEPS",
    "CemSettings",
    "CrossEntropy",
    "GeneralResult",
    "LearnedResult",
    "LearningObserver",
    "LearningPlan",
    "LearningProgress",
    "as_vec_env",
    "begun_with",
    "learn_general",
    "network_of",
    "save_general",
    "train_policy",
]

__getattr__, __dir__ = on_first_use(__name__)

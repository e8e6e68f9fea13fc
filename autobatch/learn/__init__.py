"""Policies that are learned, and policies that are put to the test: training and evaluating them.

Names resolve on first use (PEP 562), so that one of them does not import what only another needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autobatch.learn._cem import CemSettings, CrossEntropy
    from autobatch.learn._compare import PolicyComparison, compare_policies
    from autobatch.learn._evaluate import Evaluation, evaluate_policies
    from autobatch.learn._evaluate_runs import EvaluationObserver, EvaluationProgress
    from autobatch.learn._fidelity import Fidelity, PolicyAgreement, measure_fidelity, policy_agreement
    from autobatch.learn._on_surrogate import SurrogateRuns, play_policy
    from autobatch.learn._plan import ALGORITHMS, STEPS, LearningPlan
    from autobatch.learn._reproduce import (
        ExperimentPlan,
        PaperExperiment,
        PaperTask,
        Reproduction,
        ReproductionObserver,
        experiment_names,
        load_paper_experiment,
        plan_experiment,
        reproduce,
    )
    from autobatch.learn._stable_baselines import as_vec_env, network_of, train_with_sb3
    from autobatch.learn._train_policy import LearnedResult, LearningObserver, LearningProgress, train_policy

_HOMES = {
    "ALGORITHMS": "_plan",
    "CemSettings": "_cem",
    "CrossEntropy": "_cem",
    "Evaluation": "_evaluate",
    "EvaluationObserver": "_evaluate_runs",
    "EvaluationProgress": "_evaluate_runs",
    "ExperimentPlan": "_reproduce",
    "Fidelity": "_fidelity",
    "LearnedResult": "_train_policy",
    "LearningObserver": "_train_policy",
    "LearningPlan": "_plan",
    "LearningProgress": "_train_policy",
    "PaperExperiment": "_reproduce",
    "PaperTask": "_reproduce",
    "PolicyAgreement": "_fidelity",
    "PolicyComparison": "_compare",
    "Reproduction": "_reproduce",
    "ReproductionObserver": "_reproduce",
    "STEPS": "_plan",
    "SurrogateRuns": "_on_surrogate",
    "as_vec_env": "_stable_baselines",
    "compare_policies": "_compare",
    "evaluate_policies": "_evaluate",
    "experiment_names": "_reproduce",
    "load_paper_experiment": "_reproduce",
    "measure_fidelity": "_fidelity",
    "network_of": "_stable_baselines",
    "plan_experiment": "_reproduce",
    "play_policy": "_on_surrogate",
    "policy_agreement": "_fidelity",
    "reproduce": "_reproduce",
    "train_policy": "_train_policy",
    "train_with_sb3": "_stable_baselines",
}

__all__ = [
    "ALGORITHMS",
    "STEPS",
    "CemSettings",
    "CrossEntropy",
    "Evaluation",
    "EvaluationObserver",
    "EvaluationProgress",
    "ExperimentPlan",
    "Fidelity",
    "LearnedResult",
    "LearningObserver",
    "LearningPlan",
    "LearningProgress",
    "PaperExperiment",
    "PaperTask",
    "PolicyAgreement",
    "PolicyComparison",
    "Reproduction",
    "ReproductionObserver",
    "SurrogateRuns",
    "as_vec_env",
    "compare_policies",
    "evaluate_policies",
    "experiment_names",
    "load_paper_experiment",
    "measure_fidelity",
    "network_of",
    "plan_experiment",
    "play_policy",
    "policy_agreement",
    "reproduce",
    "train_policy",
    "train_with_sb3",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

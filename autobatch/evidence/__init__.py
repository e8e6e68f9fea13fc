"""Policies put to the test: comparisons, evaluations, the paper's experiments and claims, and how good surrogates are.

In come policies, tasks with their beacons, and seeds; out go run directories, tables, pictures and reports that say
what came of them. Open ``compare/_compare.py`` first. Names resolve on first use (PEP 562), so that one of them does
not import what only another needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autobatch.evidence._reproduce import (
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
    from autobatch.evidence.compare import (
        ComparedRun,
        PolicyComparison,
        compare_policies,
        load_epochs_table,
        load_runs,
        table_facts,
    )
    from autobatch.evidence.evaluate import Evaluation, EvaluationObserver, EvaluationProgress, evaluate_policies
    from autobatch.evidence.paper import Claim, claims_json, claims_markdown, paper_claims
    from autobatch.evidence.surrogate import (
        Fidelity,
        PolicyAgreement,
        SurrogateRuns,
        measure_fidelity,
        play_policy,
        policy_agreement,
    )

_HOMES = {
    "Claim": "paper",
    "ComparedRun": "compare",
    "Evaluation": "evaluate",
    "EvaluationObserver": "evaluate",
    "EvaluationProgress": "evaluate",
    "ExperimentPlan": "_reproduce",
    "Fidelity": "surrogate",
    "PaperExperiment": "_reproduce",
    "PaperTask": "_reproduce",
    "PolicyAgreement": "surrogate",
    "PolicyComparison": "compare",
    "Reproduction": "_reproduce",
    "ReproductionObserver": "_reproduce",
    "SurrogateRuns": "surrogate",
    "claims_json": "paper",
    "claims_markdown": "paper",
    "compare_policies": "compare",
    "evaluate_policies": "evaluate",
    "experiment_names": "_reproduce",
    "load_epochs_table": "compare",
    "load_paper_experiment": "_reproduce",
    "load_runs": "compare",
    "measure_fidelity": "surrogate",
    "paper_claims": "paper",
    "plan_experiment": "_reproduce",
    "play_policy": "surrogate",
    "policy_agreement": "surrogate",
    "reproduce": "_reproduce",
    "table_facts": "compare",
}

__all__ = [
    "Claim",
    "ComparedRun",
    "Evaluation",
    "EvaluationObserver",
    "EvaluationProgress",
    "ExperimentPlan",
    "Fidelity",
    "PaperExperiment",
    "PaperTask",
    "PolicyAgreement",
    "PolicyComparison",
    "Reproduction",
    "ReproductionObserver",
    "SurrogateRuns",
    "claims_json",
    "claims_markdown",
    "compare_policies",
    "evaluate_policies",
    "experiment_names",
    "load_epochs_table",
    "load_paper_experiment",
    "load_runs",
    "measure_fidelity",
    "paper_claims",
    "plan_experiment",
    "play_policy",
    "policy_agreement",
    "reproduce",
    "table_facts",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

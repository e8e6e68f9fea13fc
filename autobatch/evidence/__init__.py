"""Policies put to the test: one bench, the paper's experiments and claims, and how good surrogates are.

In come policies, tasks with their beacons, and seeds; out go run directories, tables, pictures and reports that say
what came of them. Open ``bench/_bench.py`` first. Names resolve on first use (PEP 562), so that one of them does
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
    from autobatch.evidence.bench import (
        BenchObserver,
        BenchProgress,
        ComparedRun,
        PolicyComparison,
        TaskComparison,
        compare_policies,
        comparison_json,
        comparison_markdown,
        load_comparison,
        load_epochs_table,
        load_runs,
        table_facts,
        tables_by_task,
    )
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
    "BenchObserver": "bench",
    "BenchProgress": "bench",
    "Claim": "paper",
    "ComparedRun": "bench",
    "ExperimentPlan": "_reproduce",
    "Fidelity": "surrogate",
    "PaperExperiment": "_reproduce",
    "PaperTask": "_reproduce",
    "PolicyAgreement": "surrogate",
    "PolicyComparison": "bench",
    "Reproduction": "_reproduce",
    "ReproductionObserver": "_reproduce",
    "SurrogateRuns": "surrogate",
    "TaskComparison": "bench",
    "claims_json": "paper",
    "claims_markdown": "paper",
    "compare_policies": "bench",
    "comparison_json": "bench",
    "comparison_markdown": "bench",
    "experiment_names": "_reproduce",
    "load_comparison": "bench",
    "load_epochs_table": "bench",
    "load_paper_experiment": "_reproduce",
    "load_runs": "bench",
    "measure_fidelity": "surrogate",
    "paper_claims": "paper",
    "plan_experiment": "_reproduce",
    "play_policy": "surrogate",
    "policy_agreement": "surrogate",
    "reproduce": "_reproduce",
    "table_facts": "bench",
    "tables_by_task": "bench",
}

__all__ = [
    "BenchObserver",
    "BenchProgress",
    "Claim",
    "ComparedRun",
    "ExperimentPlan",
    "Fidelity",
    "PaperExperiment",
    "PaperTask",
    "PolicyAgreement",
    "PolicyComparison",
    "Reproduction",
    "ReproductionObserver",
    "SurrogateRuns",
    "TaskComparison",
    "claims_json",
    "claims_markdown",
    "compare_policies",
    "comparison_json",
    "comparison_markdown",
    "experiment_names",
    "load_comparison",
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
    "tables_by_task",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

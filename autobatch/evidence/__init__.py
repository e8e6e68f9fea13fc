"""Policies put to the test: one bench, the paper's experiments and claims, and how good surrogates are.

In come policies, tasks with their beacons, and seeds; out go run directories, tables, pictures and reports that say
what came of them. Open ``bench/_bench.py`` first. Names resolve on first use (PEP 562), so that one of them does
not import what only another needs.
"""

from typing import TYPE_CHECKING

from autobatch._lazy import on_first_use

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

__getattr__, __dir__ = on_first_use(__name__)

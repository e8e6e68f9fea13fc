"""What came of learned policies, written on their cards."""

import math
from typing import Any

from autobatch.evidence._statistics import Estimate, rounded
from autobatch.evidence.bench._comparison import PolicyComparison, TaskComparison
from autobatch.evidence.bench._overall import ALL, AgainstBaseline, against_baselines, aggregate
from autobatch.evidence.bench._plan import Contestant, Plan
from autobatch.policies.learned import KINDS, card_path, load_card, save_card

_EQUAL = 0.02
"""Difference of quality (8 % of the loss) and of time ratio up to which two policies count as equal."""

_RULE = "beacon-follow"
"""The rule that a learned policy is to beat."""


def note_on_cards(comparison: PolicyComparison, plan: Plan) -> None:
    """Write what came of every learned policy on its card, under ``evaluation``, ``real_training`` and the task."""
    tasks = {task.env: task for task in comparison.tasks}
    for arena in plan.arenas:
        for one in arena.contestants:
            learned = one.judged and one.spec.kind in KINDS.values()
            if learned and arena.name in tasks and any(run.policy == one.name for run in tasks[arena.name].runs):
                _note(one, tasks[arena.name])


def _note(one: Contestant, task: TaskComparison) -> None:
    path = card_path(one.spec.parameters["weights"])
    card = load_card(path)
    trained: dict[str, Any] = dict(card.evaluation or {})
    trained["real_training"] = {**trained.get("real_training", {}), task.env: _figures(one, task)}
    save_card(path, card.model_copy(update={"evaluation": trained}))


def _figures(one: Contestant, task: TaskComparison) -> dict[str, Any]:
    own = next(each for each in aggregate(task.runs) if one.name in each.label.split(", ") and each.scope == ALL)
    against = {each.baseline: each for each in against_baselines(task.runs) if each.policy == one.name}
    figures: dict[str, Any] = {
        "split": one.split,
        "seeds": list(task.seeds),
        "quality": _interval(own.quality),
        "time_ratio": _interval(own.modelled_ratio),
        "difference_to": {
            baseline: {
                "quality": rounded(each.quality, 4),
                "p_holm": rounded(each.p_quality_holm, 4),
                "time_ratio": rounded(each.time, 4),
                "probability_of_improvement": rounded(each.improvement.value, 4),
            }
            for baseline, each in against.items()
        },
        "non_inferior": {
            each.figure: {
                "relative_difference": _interval(each.difference),
                "margin": each.margin,
                "verdict": each.verdict,
            }
            for each in task.non_inferiority
            if each.policy == one.name
        },
    }
    if _RULE in against:
        figures["verdict"] = _verdict(against[_RULE])
    return figures


def _verdict(against: AgainstBaseline) -> str:
    """Say in a sentence how a policy did against the rule."""
    time = 0.0 if math.isnan(against.time) else against.time
    better, worse = against.quality > _EQUAL, against.quality < -_EQUAL
    words = "better than" if better else "worse than" if worse else "as good as"
    gain = "gain" if not worse and (better or time < -_EQUAL) else "no gain"
    p = round(against.p_quality_holm, 3)
    return f"{gain}: {words} {_RULE} (quality {against.quality:+.3f}, p = {p}), time ratio {time:+.2f}"


def _interval(estimate: Estimate) -> list[float | None]:
    return [rounded(value, 4) for value in (estimate.value, estimate.low, estimate.high)]

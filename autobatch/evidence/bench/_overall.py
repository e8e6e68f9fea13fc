"""What a comparison says over all tasks: aggregates with intervals, and each policy against each baseline."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from autobatch.evidence._statistics import Estimate, finite, holm, improvement, iqm, signed_rank
from autobatch.evidence.bench._compared import ComparedRun
from autobatch.evidence.bench._plan import BEST_FIXED, TRAIN, UNSEEN

ALL = "all"
"""The scope that no split narrows."""


@dataclass(frozen=True)
class Aggregate:
    """One policy over all of its tasks.

    Attributes:
        label: the policy, or what a fixed configuration stands for.
        judged: whether it is one of the policies that are asked about.
        scope: ``"all"``, or the split that it is narrowed to.
        envs: tasks that it was trained on.
        runs: runs.
        diverged: how many of them did not finish.
        quality: interquartile mean of the quality, diverged runs included.
        modelled_ratio: interquartile mean of the modelled time over the best fixed beacon's; diverged runs left out.
        measured_ratio: the same by the clock.
    """

    label: str
    judged: bool
    scope: str
    envs: int
    runs: int
    diverged: int
    quality: Estimate
    modelled_ratio: Estimate
    measured_ratio: Estimate


@dataclass(frozen=True)
class AgainstBaseline:
    """One policy against one baseline, paired by task and seed.

    Attributes:
        policy: the policy.
        baseline: the baseline.
        scope: ``"all"``, or the split of the policy that it is narrowed to.
        pairs: runs of either.
        improvement: probability that a run of the policy has the higher quality.
        quality: mean difference of quality; above 0 the policy is better.
        p_quality: p-value of the signed-rank test of the quality.
        p_quality_holm: the same, corrected for all comparisons of this scope.
        time: mean difference of the modelled time ratio; below 0 the policy is faster. NaN where no pair has both.
        p_time: p-value of the signed-rank test of the modelled time ratio.
        p_time_holm: the same, corrected.
    """

    policy: str
    baseline: str
    scope: str
    pairs: int
    improvement: Estimate
    quality: float
    p_quality: float
    p_quality_holm: float
    time: float
    p_time: float
    p_time_holm: float


def aggregate(runs: Sequence[ComparedRun]) -> tuple[Aggregate, ...]:
    """Sum every policy and baseline up over its tasks."""
    return tuple(
        _aggregate(label, judged, scope, _within(own, scope))
        for label, judged, own in _groups(runs)
        for scope in _scopes(own, judged=judged)
    )


def against_baselines(runs: Sequence[ComparedRun]) -> tuple[AgainstBaseline, ...]:
    """Set every judged policy beside every baseline."""
    groups = _groups(runs)
    found: dict[str, list[AgainstBaseline]] = {ALL: [], TRAIN: [], UNSEEN: []}
    for policy, _, own in [group for group in groups if group[1]]:
        for scope in _scopes(own, judged=True):
            ours = {(one.env, one.seed): one for one in _within(own, scope)}
            for baseline, _, others in [group for group in groups if not group[1]]:
                pairs = [(ours[key], one) for one in others if (key := (one.env, one.seed)) in ours]
                if any(one.run != other.run for one, other in pairs):
                    found[scope].append(_compared(policy, baseline, scope, pairs))
    return tuple(one for some in found.values() for one in _corrected(some))


def _groups(runs: Sequence[ComparedRun]) -> list[tuple[str, bool, list[ComparedRun]]]:
    """Return name, whether it is judged, and runs: of the policies, the best beacon, then the others as they come.

    Names of the same runs share a group, so that nothing is counted and tested twice.
    """
    judged = list(dict.fromkeys(one.policy for one in runs if one.judged))
    others = {label for one in runs for label in one.labels if label not in judged}
    ordered = sorted(
        others, key=lambda label: (label != BEST_FIXED, not label.startswith("fixed "), _size(label), label)
    )
    found: dict[frozenset[str], tuple[str, bool, list[ComparedRun]]] = {}
    for label in [*judged, *ordered]:
        own = [one for one in runs if label in one.labels]
        same = frozenset(one.run for one in own)
        if same not in found:
            found[same] = (label, label in judged, own)
        elif not found[same][1]:
            found[same] = (f"{found[same][0]}, {label}", False, own)
    return list(found.values())


def _size(label: str) -> int:
    return int(label.removeprefix("fixed s")) if label.startswith("fixed s") else 0


def _scopes(runs: Sequence[ComparedRun], *, judged: bool) -> list[str]:
    splits = {one.split for one in runs}
    return [ALL, TRAIN, UNSEEN] if judged and {TRAIN, UNSEEN} <= splits else [ALL]


def _within(runs: Sequence[ComparedRun], scope: str) -> list[ComparedRun]:
    return [one for one in runs if scope in (ALL, one.split)]


def _aggregate(label: str, judged: bool, scope: str, own: Sequence[ComparedRun]) -> Aggregate:
    envs = list(dict.fromkeys(one.env for one in own))
    return Aggregate(
        label=label,
        judged=judged,
        scope=scope,
        envs=len(envs),
        runs=len(own),
        diverged=sum(not one.finished for one in own),
        quality=iqm([[one.quality for one in own if one.env == env] for env in envs]),
        modelled_ratio=iqm([finite([one.modelled_ratio for one in own if one.env == env]) for env in envs]),
        measured_ratio=iqm([finite([one.measured_ratio for one in own if one.env == env]) for env in envs]),
    )


def _compared(
    policy: str, baseline: str, scope: str, pairs: Sequence[tuple[ComparedRun, ComparedRun]]
) -> AgainstBaseline:
    envs = list(dict.fromkeys(one.env for one, _ in pairs))
    quality = [one.quality - other.quality for one, other in pairs]
    # Rounded, so that two sums of the same steps in another order are a tie.
    time = [round(value, 12) for value in finite([one.modelled_ratio - other.modelled_ratio for one, other in pairs])]
    return AgainstBaseline(
        policy=policy,
        baseline=baseline,
        scope=scope,
        pairs=len(pairs),
        improvement=improvement(
            [[one.quality for one, _ in pairs if one.env == env] for env in envs],
            [[other.quality for _, other in pairs if other.env == env] for env in envs],
        ),
        quality=fmean(quality),
        p_quality=signed_rank(quality),
        p_quality_holm=math.nan,
        time=fmean(time) if time else math.nan,
        p_time=signed_rank(time) if time else 1.0,
        p_time_holm=math.nan,
    )


def _corrected(comparisons: Sequence[AgainstBaseline]) -> list[AgainstBaseline]:
    quality = holm([one.p_quality for one in comparisons])
    time = holm([one.p_time for one in comparisons])
    return [
        replace(one, p_quality_holm=corrected, p_time_holm=faster)
        for one, corrected, faster in zip(comparisons, quality, time, strict=True)
    ]

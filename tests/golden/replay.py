"""A recorded run, put before a policy again: what it saw in each epoch, and what it said.

Nothing is trained here, so that a replay is exact on any machine but for the last digits of a few figures.
"""

import math
from collections.abc import Iterable
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from autobatch.beacons import BeaconLibrary
from autobatch.fisher import GradientMoments
from autobatch.policies import Candidate, Decision, Observation, Policy, TaskInfo, load_policy_spec, make_policy
from autobatch.training import load_task, task_info

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).resolve().parent / "policies"

SEEN = tuple(field.name for field in fields(Observation) if field.name != "fits")  # of memory nothing is recorded
"""The columns of a recorded observation; the last, ``gradients``, holds those of ``MOMENTS`` or null."""

MOMENTS = tuple(field.name for field in fields(GradientMoments))
STEERS = ("factor", "stop")
SAID = tuple(field.name for field in fields(Decision) if field.name not in STEERS)
"""The columns of a recorded decision; the last, ``alternatives``, holds their digest or null. ``STEERS`` follow in the
runs of policies that have the schedule in hand."""

FIGURES = ("c_bar", "l_cum", "score", "uncertainty", "seconds")
"""What a digest sums up of a policy's candidates."""


@lru_cache
def library_of(task: str) -> BeaconLibrary:
    """Return the recorded beacons of a shipped task."""
    return BeaconLibrary.load(ROOT / "envs" / task)


@lru_cache
def info_of(task: str) -> TaskInfo:
    """Return a shipped task as policies see it; draws are those of seed 0."""
    return task_info(load_task(ROOT / "envs" / task), library_of(task))


def shipped() -> list[str]:
    """Return the names of all shipped policies."""
    return sorted(path.stem for path in (ROOT / "policies").glob("*.yaml"))


def started(policy: str, task: str) -> Policy:
    """Return a shipped policy, reset for a run of a task."""
    made = make_policy(load_policy_spec(ROOT / "policies" / f"{policy}.yaml"))
    made.reset(info_of(task), library_of(task))
    return made


def seen(row: list[Any]) -> Observation:
    """Return a recorded observation; null, which stands for a figure that is not known, becomes NaN."""
    *figures, moments = row
    values = dict(zip(SEEN, (math.nan if value is None else value for value in figures), strict=False))
    gradients = None if moments is None else GradientMoments.from_dict(dict(zip(MOMENTS, moments, strict=True)))
    return Observation(**values, gradients=gradients)


def said(decision: Decision) -> list[Any]:
    """Return a decision as it is recorded."""
    target = None if decision.target is None else list(decision.target)
    steers = [] if decision.factor is None and not decision.stop else [decision.factor, decision.stop]
    return [decision.batch_size, decision.lr, decision.reason, target, digest(decision.alternatives), *steers]


def digest(candidates: Iterable[Candidate]) -> list[Any] | None:
    """Sum up the candidates that a policy weighed.

    Args:
        candidates: in the policy's order.

    Returns:
        How many there are, the places of those that the landscape does not know, and of each of ``FIGURES`` the mean
        over the candidates, each weighted by its place so that none can change places unnoticed. None without any.
    """
    weighed = list(candidates)
    if not weighed:
        return None
    total = len(weighed) * (len(weighed) + 1) / 2
    means = [
        math.fsum(place * getattr(one, name) for place, one in enumerate(weighed, start=1)) / total for name in FIGURES
    ]
    return [len(weighed), [place for place, one in enumerate(weighed, start=1) if not one.known], *means]

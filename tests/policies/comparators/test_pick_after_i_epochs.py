"""Pick after i epochs: which scouts go, which of them goes on, and a run that begins with them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from autobatch._errors import ConfigError
from autobatch.policies import PolicySpec, Scout, ScoutingPolicy, load_policy_spec, make_policy
from autobatch.policies.comparators import PickAfterIEpochsPolicy
from autobatch.policies.steer._plan import Plan
from autobatch.training import load_epochs, run
from tests.policies.cases import make_observation, make_task, through_json
from tests.training.tiny import tiny_config, tiny_task

KIND = "pick-after-i-epochs"
FOUR = ((32, 0.025), (32, 0.1), (128, 0.1), (128, 0.4))


def made(task: Any = None, **parameters: Any) -> PickAfterIEpochsPolicy:
    policy = make_policy(PolicySpec(name=KIND, kind=KIND, parameters=parameters))
    policy.reset(task or make_task(epochs=40), None)
    assert isinstance(policy, PickAfterIEpochsPolicy)
    return policy


def scout(size: int, lr: float, *scores: float, ended: str | None = None) -> Scout:
    return Scout(size, lr, tuple(0.5 for _ in scores), scores, ended)


def scouts(*scores: float) -> list[Scout]:
    return [scout(*one, 1.0, score) for one, score in zip(FOUR, scores, strict=True)]


def test_it_scouts_the_fixed_set_to_the_end() -> None:
    policy = made()
    assert isinstance(policy, ScoutingPolicy)
    plan = policy.scouts()
    assert (plan.configurations, plan.epochs, plan.whole) == (FOUR, 2, True)


def test_scouts_move_to_what_the_task_has_and_go_once() -> None:
    task = make_task(epochs=10, batch_sizes=(16, 50, 300), learning_rates=(0.03, 0.3))
    # By ratio, 0.1 is nearer to 0.3 than to 0.03, and 128 to 300 than to 50.
    assert made(task).scouts().configurations == ((50, 0.03), (50, 0.3), (300, 0.3))
    assert made(task).scouts().epochs == 1


@pytest.mark.parametrize("changes", [{"epochs": 1}, {"batch_sizes": (64,), "learning_rates": (0.1,)}])
def test_no_scout_goes_where_there_is_nothing_to_choose(changes: dict[str, Any]) -> None:
    task = make_task(**changes)
    policy = made(task)
    assert policy.scouts().configurations == ()
    assert policy.decide(make_observation(0)).batch_size in task.batch_sizes


def test_the_best_validation_score_goes_on_whatever_the_training_loss() -> None:
    policy = made()
    some = scouts(0.4, 0.3, 0.2, 0.9)
    some[0] = Scout(*FOUR[0], (0.01, 0.01), (0.5, 0.4))
    choice = policy.take(some)
    assert choice.scout == 2
    decision = policy.decide(make_observation(2))
    assert (decision.batch_size, decision.lr, decision.factor, decision.stop) == (128, 0.1, None, False)
    assert decision.reason == choice.reason == "s128 at lr 0.1: validation 0.2, the best of 4 scouts after 2 epochs"


def test_what_ended_or_has_no_score_cannot_win() -> None:
    policy = made()
    some = [scout(32, 0.025, 0.5, 0.4), scout(32, 0.1, 0.1, ended="diverged"), scout(128, 0.1, 0.3, math.nan)]
    assert policy.take(some).scout == 0
    assert "no scout came to a sound end" in policy.take(some[1:]).reason


def test_it_ends_where_it_was_told_to() -> None:
    policy = made(stop_at=0.75)
    policy.take(scouts(0.4, 0.3, 0.2, 0.9))
    assert [policy.decide(make_observation(epoch, 40)).stop for epoch in (29, 30, 39)] == [False, True, True]
    assert not made().decide(make_observation(40, 40)).stop


def test_under_steers_plan_the_rate_falls_and_the_training_ends() -> None:
    policy = made(make_task(epochs=40, steered=True), schedule="steer")
    policy.take(scouts(0.4, 0.3, 0.2, 0.9))
    plan = Plan.of(40, 0.7, 0.75)
    first, last, end = (policy.decide(make_observation(epoch, 40)) for epoch in (2, plan.end - 1, plan.end))
    assert (first.batch_size, first.lr, first.factor) == (128, 0.1, 1.0)
    assert "validation 0.2" in first.reason
    assert last.factor is not None
    assert last.factor == pytest.approx(0.5 / (plan.end - plan.decay_from) * math.sqrt(last.batch_size / 128))
    assert end.stop
    fresh = made(make_task(epochs=40, steered=True), schedule="steer")
    fresh.load_state_dict(through_json(policy.state_dict()))
    assert fresh.decide(make_observation(2, 40)) == first


def test_the_shipped_files_differ_in_what_they_say_only() -> None:
    default = make_policy(load_policy_spec(KIND)).parameters
    assert default == made().parameters
    for name, change in {"stopped": {"stop_at": 0.75}, "steered": {"schedule": "steer"}}.items():
        assert make_policy(load_policy_spec(f"{KIND}-{name}")).parameters == default.model_copy(update=change)


def test_steers_plan_has_no_second_end() -> None:
    with pytest.raises(ConfigError, match="an end of its own"):
        made(schedule="steer", stop_at=0.75)


@pytest.mark.parametrize("schedule", ["task", "steer"])
def test_a_run_begins_with_its_best_scout(tmp_path: Path, schedule: str) -> None:
    task = tiny_task(epochs=8, learning_rates=[0.001, 0.1])
    spec = PolicySpec(
        name=KIND, kind=KIND, parameters={"configurations": [[8, 0.001], [16, 0.001], [8, 0.1]], "schedule": schedule}
    )
    summary = run(tiny_config(spec, task), tmp_path / "run")
    assert [(one["batch_size"], one["lr"], one["epochs"]) for one in summary.scouts] == [
        (8, 0.001, 1),
        (16, 0.001, 1),
        (8, 0.1, 1),
    ]
    best = min(summary.scouts, key=lambda one: one["validation_loss"])
    assert best["won"]
    assert (best["batch_size"], best["lr"]) == (8, 0.1)
    rows = load_epochs(tmp_path / "run")
    assert rows[0].validation_loss == best["validation_loss"]
    assert len(rows) == (8 if schedule == "task" else Plan.of(8, 0.7, 0.75).end)
    assert summary.examples == 84 * (len(rows) + 2)
    if schedule == "task":
        assert [row.lr_effective for row in rows] == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)
    decisions = [json.loads(line) for line in (tmp_path / "run" / "decisions.jsonl").read_text().splitlines()]
    told = {
        "task": "the best of 3 scouts after 1 epoch",
        "steer": "the rate falls from epoch 3 on",
    }
    assert told[schedule] in decisions[1]["reason"]

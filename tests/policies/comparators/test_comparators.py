"""Seesaw, the late switch, the portfolio and the stopped beacon on observations made by hand."""

import math
from typing import Any

import pytest
import torch

from autobatch._errors import ConfigError
from autobatch.control import AutoBatchController, Rates, TaskFacts
from autobatch.policies import Policy, PolicySpec, load_policy_spec, make_policy, policy_kind
from autobatch.policies.comparators import _portfolio as portfolio
from autobatch.policies.comparators._seesaw import halvings
from autobatch.training import load_task
from autobatch.training.task import run_task_info
from tests.beacons.synthetic import make_library
from tests.policies.cases import make_observation, make_task, through_json

LADDER = (8, 16, 32, 64, 128, 256, 512)
KINDS = ("seesaw", "late-switch", "portfolio", "best-beacon-stopped")


def made(kind: str, *, task: Any = None, library: Any = None, **parameters: Any) -> Policy:
    policy = make_policy(PolicySpec(name=kind, kind=kind, parameters=parameters))
    policy.reset(task or make_task(batch_sizes=LADDER), library)
    return policy


@pytest.mark.parametrize("kind", KINDS)
def test_the_shipped_file_states_the_defaults(kind: str) -> None:
    assert load_policy_spec(kind).parameters == policy_kind(kind).parameters().model_dump()


def at(policy: Policy, progress: float, **changes: Any) -> Any:
    epoch = round(100 * progress)
    return policy.decide(make_observation(epoch, 100, **changes))


def test_seesaw_shares_each_decay_between_size_and_rate() -> None:
    policy = made("seesaw", task=make_task(batch_sizes=(32, 320, 3200)))
    assert policy.decide(make_observation(0)).batch_size == 32
    assert at(policy, 0.49).lr == 0.1
    sizes = {progress: at(policy, progress) for progress in (0.5, 0.74, 0.75, 0.99)}
    assert [decision.batch_size for decision in sizes.values()] == [320, 320, 3200, 3200]
    # Times the schedule's 0.1 and 0.01, the rate in use is the root of each.
    assert sizes[0.5].lr * 0.1 == pytest.approx(0.1 * math.sqrt(0.1))
    assert sizes[0.75].lr * 0.01 == pytest.approx(0.1 * math.sqrt(0.01))


def test_seesaw_leaves_to_the_rate_what_the_ladder_cannot_take() -> None:
    policy = made("seesaw", lr=0.2)
    policy.decide(make_observation(0))
    decision = at(policy, 0.5)
    assert decision.batch_size == 256  # of 320
    assert decision.lr == pytest.approx(0.2 * math.sqrt(8))
    assert "the rate falls to 0.283 of the first in place of 0.1" in decision.reason


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"milestones": ()}, "where it decays"), ({"milestone_factor": None}, "what its milestones multiply the rate by")],
)
def test_seesaw_refuses_a_schedule_that_it_does_not_know(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        made("seesaw", task=make_task(**changes))


def test_seesaw_cuts_a_cosine_where_it_has_halved() -> None:
    cosine = run_task_info(load_task("topics-gpt"), train_size=32, costs=None, seed=0).schedule
    assert cosine is not None
    places = halvings(cosine)
    # (1 + cos(pi p)) / 2 = 2**-k at p = acos(2**(1 - k) - 1) / pi.
    assert places[:4] == pytest.approx([math.acos(2.0 ** (1 - k) - 1) / math.pi for k in (1, 2, 3, 4)], abs=1e-3)
    policy = made("seesaw", task=make_task(batch_sizes=LADDER, milestones=(), schedule=cosine), lr=0.2)
    policy.decide(make_observation(0))
    decisions = {progress: at(policy, progress) for progress in (0.49, 0.5, 0.66, 0.67, 0.99)}
    assert [decision.batch_size for decision in decisions.values()] == [32, 64, 64, 128, 512]
    assert decisions[0.67].lr == pytest.approx(0.2 * 2.0)
    assert (
        "the rate has halved 2 times, which asks for 128; it is 2 times that of the schedule" in decisions[0.67].reason
    )


@pytest.mark.parametrize(
    "schedule",
    [
        lambda p: 1.0,
        lambda p: 0.6 + 0.4 * p,
        lambda p: max(0.51, 1.0 - p),
        lambda p: 0.0,
        lambda p: 1.0 - 2.0 * (p % 0.5),
    ],
)
def test_a_schedule_that_does_not_halve_has_no_halvings(schedule: Any) -> None:
    assert halvings(schedule) == ()


def test_a_warm_up_is_no_decay() -> None:
    assert halvings(lambda p: min(10 * p, 1.0, 2 * (1 - p))) == pytest.approx(
        (0.75, 0.875, 0.938, 0.969, 0.985, 0.993, 0.997, 0.999), abs=2e-3
    )


def test_seesaw_in_a_loop_of_ones_own() -> None:
    model = torch.nn.Linear(3, 2)
    arguments = {"policy": "seesaw", "batch_sizes": (32, 64, 128), "dataset_size": 640, "epochs": 4}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ConfigError, match="milestone_factor"):
        AutoBatchController(model, optimizer, rates=Rates(milestones=(0.5,)), **arguments)
    with pytest.raises(ConfigError, match=r"in \(0, 1\]"):
        AutoBatchController(model, optimizer, rates=Rates(milestones=(0.5,), milestone_factor=2.0), **arguments)
    controller = AutoBatchController(
        model,
        optimizer,
        rates=Rates(milestones=(0.5,), milestone_factor=0.25),
        task=TaskFacts(dataset="own"),
        **arguments,
    )
    assert (controller.task.milestone_factor, controller.task.dataset) == (0.25, "own")
    falling = AutoBatchController(model, optimizer, rates=Rates(schedule=lambda progress: 1.0 - progress), **arguments)
    assert falling.task.schedule is not None
    assert halvings(falling.task.schedule)[:2] == (0.5, 0.75)


def test_a_schedule_is_asked_in_advance_by_seesaw_alone() -> None:
    model, by_epochs = torch.nn.Linear(3, 2), {0.0: 1.0, 0.25: 1.0, 0.5: 0.5, 0.75: 0.5}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    arguments = {
        "batch_sizes": (32, 64),
        "dataset_size": 640,
        "epochs": 4,
        "rates": Rates(schedule=by_epochs.__getitem__),
    }
    AutoBatchController(model, optimizer, policy="s32", **arguments)
    with pytest.raises(KeyError):
        AutoBatchController(model, optimizer, policy="seesaw", **arguments)


def test_a_task_says_what_its_milestones_do_and_which_data_it_has() -> None:
    task = load_task("cifar5k-resnet8")
    info = run_task_info(task, train_size=4000, costs=None, seed=0)
    assert (info.milestone_factor, info.dataset) == (0.1, "imagefolder:cifar10")
    constant = task.model_copy(update={"schedule": type(task.schedule)(name="constant")})
    assert run_task_info(constant, train_size=4000, costs=None, seed=0).milestone_factor is None


def test_the_late_switch_keeps_the_rate() -> None:
    policy = made("late-switch", lr=0.2)
    decisions = [policy.decide(make_observation(0)), at(policy, 0.74), at(policy, 0.75), at(policy, 0.99)]
    assert [decision.batch_size for decision in decisions] == [32, 32, 128, 128]
    assert {decision.lr for decision in decisions} == {0.2}
    assert at(made("late-switch"), 0.8).lr is None


def test_mean_ranks_by_hand() -> None:
    fine = {(32, 0.1): 1.0, (64, 0.1): 2.0, (64, 0.2): 3.0, (512, 0.1): 0.1}
    coarse = {(32, 0.1): 5.0, (64, 0.4): 4.0}
    # (512, 0.1) has no neighbour in the coarse grid. (64, 0.1) is a rung from (32, 0.1), (64, 0.2) from (64, 0.4), and
    # (64, 0.4) from (64, 0.2) in the fine one.
    assert portfolio.mean_ranks([fine, coarse]) == {
        (32, 0.1): (1 + 3.5) / 2,
        (64, 0.1): (2 + 3.5) / 2,
        (64, 0.2): (3.5 + 1.5) / 2,
        (64, 0.4): (3.5 + 1.5) / 2,
    }


def test_what_diverged_comes_last() -> None:
    ranks = portfolio.mean_ranks([{(32, 0.1): math.inf, (32, 0.4): 2.0, (32, 1.6): math.inf}])
    assert ranks == {(32, 0.1): 2.5, (32, 0.4): 1.0, (32, 1.6): 2.5}


@pytest.mark.parametrize(
    ("dataset", "left"),
    [
        ("digits", {"mnist", "cifar10"}),
        ("mnist", {"digits", "cifar10"}),
        ("cifar10", {"digits", "mnist"}),
        ("imagefolder:/data/cifar10", {"digits", "mnist"}),
        ("imagefolder:/data/leaves", {"digits", "mnist", "cifar10"}),
        ("", {"digits", "mnist", "cifar10"}),
    ],
)
def test_the_portfolio_leaves_the_tasks_own_data_out(dataset: str, left: set[str]) -> None:
    reason = made("portfolio", task=make_task(dataset=dataset)).decide(make_observation(0)).reason
    datasets = {own.name: own.dataset for own in portfolio.shipped() if not own.adaptive}
    named = {name for name in datasets if name in reason}
    assert named == {name for name, own in datasets.items() if own in left}
    assert ("not known" in reason) == (not dataset)


def test_the_portfolio_takes_the_nearest_of_the_task() -> None:
    decision = made("portfolio", task=make_task(batch_sizes=(100, 400), learning_rates=(0.001, 1.0))).decide(
        make_observation(0)
    )
    assert decision.batch_size == 100
    assert decision.lr in (0.001, 1.0)
    assert "where it is s" in decision.reason


def test_rates_of_another_family_of_optimizers_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = (
        portfolio.Recorded("a", "digits", False, {(32, 0.1): 1.0}),
        portfolio.Recorded("b", "digits", True, {(64, 0.2): 1.0}),
    )
    monkeypatch.setattr(portfolio, "shipped", lambda: recorded)
    policy = make_policy(load_policy_spec("portfolio"))
    for adaptive, chosen in ((False, (32, 0.1)), (True, (64, 0.2))):
        policy.reset(make_task(dataset="mnist", adaptive=adaptive), None)
        decision = policy.decide(make_observation())
        assert (decision.batch_size, decision.lr) == chosen


def test_without_other_libraries_there_is_no_portfolio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        portfolio, "shipped", lambda: (portfolio.Recorded("digits-mlp", "digits", False, {(32, 0.1): 1.0}),)
    )
    with pytest.raises(ConfigError, match="no libraries of other data sets"):
        made("portfolio", task=make_task(dataset="digits"))


def stopping(losses: list[float], **changes: Any) -> list[bool]:
    library = make_library(seeds=(0,))
    policy = made("best-beacon-stopped", task=make_task(epochs=10, **changes), library=library)
    stops = []
    for epoch, loss in enumerate([math.nan, *losses]):
        observation = make_observation(epoch, 10, validation_loss=loss)
        decision = policy.decide(observation)
        assert decision == policy.decide(observation)
        assert (decision.batch_size, decision.lr) == (library.best_fixed().batch_size, library.best_fixed().lr)
        stops.append(decision.stop)
        state = through_json(policy.state_dict())
        policy = made("best-beacon-stopped", task=make_task(epochs=10, **changes), library=library)
        policy.load_state_dict(state)
    return stops


def test_the_best_beacon_ends_after_the_last_milestone_without_improvement() -> None:
    # The last milestone is passed with epoch 8: epochs before it wait for nothing.
    flat = stopping([0.5] * 9, milestones=(0.3, 0.5))
    assert flat == [False] * 8 + [True, True]
    better = stopping([0.5] * 6 + [0.49, 0.4899, 0.4899], milestones=(0.3, 0.5))
    assert better == [False] * 10


def test_an_epoch_without_a_score_is_no_improvement() -> None:
    assert stopping([0.5, math.nan, math.nan, math.nan], milestones=()) == [False] * 4 + [True]


def test_after_the_last_epoch_nothing_is_stopped() -> None:
    assert not stopping([0.5] * 10, milestones=())[-1]


def test_the_best_beacon_under_the_plan_of_steer_ends_with_it() -> None:
    library = make_library(seeds=(0,))
    best = library.best_fixed()
    task = make_task(epochs=10, steered=True)
    policy, plan = make_policy(load_policy_spec("best-beacon-steered")), make_policy(load_policy_spec("steer"))
    policy.reset(task, library)
    plan.reset(task, None)
    plan.load_state_dict({"start": [best.batch_size, best.lr], "reason": "the same"})
    for epoch in range(10):
        ours, theirs = (one.decide(make_observation(epoch, 10)) for one in (policy, plan))
        assert (ours.batch_size, ours.lr, ours.factor, ours.stop) == (
            theirs.batch_size,
            theirs.lr,
            theirs.factor,
            theirs.stop,
        )
    assert ours.stop

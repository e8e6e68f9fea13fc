"""When a larger batch is tried on the run itself, and which of the two goes on."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from autobatch.beacons import CostTable
from autobatch.policies import Decision, Observation, TaskInfo
from autobatch.policies.steer import Fork, ForkingPolicy, ForkOutcome, SteerParameters, SteerPolicy
from autobatch.policies.steer._forks import LONG_ODDS, TOLERANCE, ForkRule, Tried
from autobatch.policies.steer._plan import Plan, plan_seconds
from tests.policies.cases import make_observation, make_task

LADDER = (16, 32, 64, 128, 256)
PLAN = Plan(decay_from=20, end=40)


def costs(step: dict[int, float]) -> CostTable:
    return CostTable(device="test", step_seconds=step, measuring_seconds=step, epoch_seconds=0.0)


FLAT = costs(dict.fromkeys(LADDER, 1.0))
"""A step takes as long at every size, as on a large accelerator."""

LINEAR = costs({size: float(size) for size in LADDER})
"""An example takes as long at every size."""


def task(table: CostTable | None = FLAT, **changes: object) -> TaskInfo:
    made = make_task(epochs=57, batch_sizes=LADDER, learning_rates=(0.1,), costs=table, train_size=3200)
    return replace(made, steered=True, **changes)  # type: ignore[arg-type]


def rule(table: CostTable | None = FLAT, most: int = 2, share: float = 0.1, **changes: object) -> ForkRule:
    return ForkRule(task(table, **changes), PLAN, most, share)


@pytest.mark.parametrize(("adaptive", "lr"), [(False, 0.2), (True, 0.141)])
def test_the_next_rung_is_tried_at_the_rate_that_keeps_the_noise(adaptive: bool, lr: float) -> None:
    assert rule(adaptive=adaptive).proposed(2, 32, 0.1, []) == Fork(64, lr)


def test_a_ladder_with_gaps_is_climbed_in_proportion() -> None:
    table = costs({32: 1.0, 48: 1.0, 128: 1.0})
    forked = ForkRule(replace(task(table), batch_sizes=(32, 48, 128)), PLAN, 2, 0.1).proposed(2, 32, 0.1, [])
    assert forked == Fork(128, pytest.approx(0.4))


def test_nothing_is_tried_where_it_is_not_worth_it() -> None:
    assert rule().proposed(0, 32, 0.1, []) is None, "before there is a state to fork"
    assert rule().proposed(20, 32, 0.1, []) is None, "once the rate falls"
    assert rule().proposed(2, 256, 0.1, []) is None, "on top of the ladder"
    assert rule(most=0).proposed(2, 32, 0.1, []) is None
    assert rule(None).proposed(2, 32, 0.1, []) is None, "without a cost table its cost has no bound"
    assert rule(LINEAR).proposed(2, 32, 0.1, []) is None, "where a larger batch is not faster"
    assert rule(share=1e-3).proposed(2, 32, 0.1, []) is None, "where one fork is dearer than all may be"


def test_what_is_spared_is_at_least_the_odds_times_the_cost() -> None:
    # By hand: 3,200 examples are 100 steps at 32; of the 40 epochs the plan grows the last 20.
    ours = rule()
    assert ours.cost(32, 64) == 100.0

    def spared(epoch: int) -> float:
        stays, forked = (plan_seconds(ours.task, ours.plan, size, ours.growth, epoch) for size in (32, 64))
        return stays - forked

    assert spared(2) > LONG_ODDS * 100.0
    late = next(epoch for epoch in range(2, 20) if ours.proposed(epoch, 32, 0.1, []) is None)
    assert spared(late) < LONG_ODDS * 100.0


def test_after_a_fork_comes_a_while_without() -> None:
    tried = [Tried(epoch=2, seconds=100.0)]
    assert rule().proposed(3, 32, 0.1, tried) is None
    assert rule().proposed(4, 32, 0.1, tried) is not None
    assert rule(most=1).proposed(4, 32, 0.1, tried) is None
    assert rule(share=0.05).proposed(4, 32, 0.1, tried) is None, "the second would be beyond the share"


def test_the_choice_is_a_one_sided_paired_test() -> None:
    generator = np.random.default_rng(0)
    for shift in np.linspace(-0.1, 0.1, 21):
        stay = generator.normal(1.0, 0.5, size=4000)
        other = stay + generator.normal(shift, 0.3, size=4000)
        difference = other - stay
        outcome = ForkOutcome(
            float(stay.mean()), float(difference.mean()), float(difference.std(ddof=1)) / math.sqrt(4000)
        )
        test = stats.ttest_1samp(difference, TOLERANCE * stay.mean(), alternative="less")
        assert rule().choice(32, 0.1, Fork(64, 0.2), outcome).taken == (test.pvalue < 0.05)


@pytest.mark.parametrize(
    "outcome",
    [
        ForkOutcome(0.5, math.nan, math.nan),
        ForkOutcome(math.nan, math.nan, math.nan),
        ForkOutcome(0.5, -0.4, math.nan),
        ForkOutcome(0.5, math.inf, math.nan),
        ForkOutcome(0.5, -0.4, 0.001, failed="diverged: the training loss became nan"),
    ],
)
def test_what_is_not_known_changes_nothing(outcome: ForkOutcome) -> None:
    choice = rule().choice(32, 0.1, Fork(64, 0.2), outcome)
    assert not choice.taken
    assert choice.reason.endswith("s32 at lr 0.1 stays")


def test_the_reasons_have_the_figures() -> None:
    choice = rule().choice(32, 0.1, Fork(64, 0.2), ForkOutcome(0.5, -0.01, 0.002))
    assert choice.taken
    assert choice.reason == (
        "s64 at lr 0.2 was tried for an epoch beside s32 at lr 0.1: validation loss 0.49 against 0.5 "
        "(averaged weights, difference -0.01 ± 0.0033), no more than 2 % above and faster: it goes on"
    )


# The policy ----------------------------------------------------------------------------------------------------------


def at(epoch: int) -> Observation:
    return make_observation(epoch=epoch, progress=epoch / 57, batch_size=32, lr=0.1)


def steering(**changes: object) -> SteerPolicy:
    policy = SteerPolicy(SteerParameters(length=0.7, decay=0.5, fork_share=0.1))
    policy.reset(task(**changes), None)
    return policy


def test_a_policy_goes_on_with_what_it_has_taken_and_remembers_it() -> None:
    policy = steering()
    assert isinstance(policy, ForkingPolicy)
    fork = policy.fork(at(2))
    assert fork == Fork(64, pytest.approx(0.2))
    choice = policy.judge(fork, ForkOutcome(0.5, -0.1, 0.001), at(2))
    assert choice.taken
    again = steering()
    again.load_state_dict(policy.state_dict())
    for one in (policy, again):
        decision: Decision = one.decide(at(3))
        assert (decision.batch_size, decision.lr) == (64, pytest.approx(0.2))
        assert decision.reason.startswith(choice.reason)
        assert one.fork(at(3)) is None
        assert one.fork(at(4)) == Fork(128, pytest.approx(0.4))


def test_a_policy_stays_where_it_was_after_a_fork_that_is_not_taken() -> None:
    policy = steering()
    before = policy.decide(at(2))
    fork = policy.fork(at(2))
    assert fork is not None
    policy.turn(fork)
    assert policy.decide(at(2)).batch_size == 64
    policy = steering()
    policy.judge(fork, ForkOutcome(0.5, 0.1, 0.001), at(2))
    after = policy.decide(at(3))
    assert (after.batch_size, after.lr, after.factor) == (before.batch_size, before.lr, before.factor)


def test_a_schedule_that_is_kept_is_not_forked() -> None:
    policy = SteerPolicy(SteerParameters())
    policy.reset(replace(task(), steered=False), None)
    assert policy.fork(at(2)) is None


def test_a_state_of_before_there_were_forks_loads() -> None:
    policy = steering()
    policy.load_state_dict({"start": [32, 0.1], "reason": "as it was"})
    assert policy.decide(at(2)).reason.startswith("as it was")

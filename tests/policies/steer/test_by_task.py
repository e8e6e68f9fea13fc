"""Steer with what was learned of how far batches may grow."""

import math
from dataclasses import replace

import pytest
from pydantic import ValidationError

from autobatch.policies import load_policy_spec, make_policy
from autobatch.policies.steer import ByTaskParameters, ByTaskPolicy
from autobatch.policies.steer._by_task import CHOICES, FEATURES, RULE, best_plan, choice_seconds, described, expected
from tests.beacons.synthetic import make_costs
from tests.policies.cases import make_observation, make_task, through_json

LADDER = (16, 32, 64, 128)
NONE = ((0.0,) * FEATURES,) * FEATURES
TASK = make_task(
    epochs=20, batch_sizes=LADDER, learning_rates=(0.1, 0.2), train_size=4096, steered=True, costs=make_costs(LADDER)
)


def test_the_rule_is_where_all_features_are_nothing() -> None:
    assert described(TASK, RULE) == [0.0] * FEATURES
    # 4,096 examples are 128 steps of 32; at four times as many the last pair counts in full.
    larger = replace(TASK, train_size=4 * 4096, epochs=8)
    choice = CHOICES[-1]
    both = 2.0
    assert described(TASK, choice) == pytest.approx([math.log(0.9 / 0.7), 2.0, 1.0, both, 0.0, 0.0])
    assert described(larger, choice) == pytest.approx([math.log(0.9 / 0.7), 2.0, 1.0, both, 2.0, both])


def test_what_is_expected_and_how_surely() -> None:
    covariance = [[0.04 if row == column == 1 else 0.0 for column in range(FEATURES)] for row in range(FEATURES)]
    assert expected([1.0, 2.0, 0.0, 0.0, 0.0, 0.0], [0.1, 0.2, 9.0, 9.0, 9.0, 9.0], covariance) == pytest.approx([
        0.5,
        0.4,
    ])


def test_harmless_growth_is_taken_as_far_as_it_spares_time_and_harm_never() -> None:
    harmless, told = best_plan(TASK, [0.0] * FEATURES, NONE, 0.2, 0.75)
    assert (harmless.growth, harmless.length) == (4.0, 0.7)
    spared = choice_seconds(TASK, harmless, 0.75) / choice_seconds(TASK, RULE, 0.75)
    assert spared < 1.0
    assert f"in {100 * spared:.3g} % of the time" in told
    assert best_plan(TASK, [0.0, 0.001, 0.0, 0.0, 0.0, 0.0], NONE, 9.0, 0.75)[0] == RULE, "whatever time is worth"
    unsure = [[0.04 if row == column else 0.0 for column in range(FEATURES)] for row in range(FEATURES)]
    assert best_plan(TASK, [0.0] * FEATURES, unsure, 0.2, 0.75) == (RULE, "")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"costs": None}, "without a cost table"),
        ({"train_size": 320}, "10 steps, 3.0 times less"),
        ({"train_size": 33280, "epochs": 5}, "1040 steps, 2.0 times more"),
        ({"train_size": 33280}, "so many steps"),
    ],
)
def test_where_nothing_was_learned_it_is_the_rule_and_says_why(changed: dict, told: str) -> None:
    choice, reason = best_plan(replace(TASK, **changed), [-1.0] * FEATURES, NONE, 0.2, 0.75)
    assert choice is None
    assert told in reason


def test_the_policy_grows_as_chosen_and_says_so() -> None:
    policy = ByTaskPolicy(ByTaskParameters(effects=(0.0,) * FEATURES, covariance=NONE, price=0.2, decay=0.75))
    policy.reset(TASK, None)
    decisions = [policy.decide(make_observation(epoch, batch_size=32)) for epoch in range(15)]
    first = next(one for one in decisions if one.batch_size > 32)
    assert first.batch_size == 128
    assert "grow up to 4 times as far" in first.reason
    assert decisions[14].stop
    other = ByTaskPolicy(policy.parameters)
    other.reset(TASK, None)
    other.load_state_dict(through_json(policy.state_dict()))
    assert other.decide(make_observation(9, batch_size=128)) == decisions[9]
    policy.reset(replace(TASK, costs=None), None)
    assert policy.parameters.growth == "auto", "chosen anew for each task"


def test_numbers_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValidationError, match="6 rows of 6"):
        ByTaskParameters(effects=(0.0,) * FEATURES, covariance=((0.0,),), price=0.2)


def test_what_is_shipped_stays_with_the_rule_on_small_tasks() -> None:
    policy = make_policy(load_policy_spec("steer-by-task"))
    policy.reset(replace(TASK, train_size=980), None)
    assert isinstance(policy, ByTaskPolicy)
    assert policy.parameters.growth == 1.0

"""What every policy must do, whatever its kind: run over each shipped YAML and each notation."""

import dataclasses
import json

import pytest

from autobatch.policies import Policy, load_policy_spec, make_policy, policy_kind, policy_names
from tests.beacons.synthetic import make_library
from tests.policies.cases import LAW, make_observation, make_task, simulate, through_json

NAMES = sorted({*policy_names(), "s64", "s64-lr0.05", "s8-to-512", "s8-to-512-ms"})


@pytest.fixture(scope="module")
def library():
    return make_library(seeds=(0,))


@pytest.fixture(params=NAMES)
def make(request, library):
    def build(seed: int = 0) -> Policy:
        policy = make_policy(load_policy_spec(request.param))
        policy.reset(make_task(seed=seed), library if policy.needs_library else None)
        return policy

    return build


def test_satisfies_the_protocol(make):
    assert isinstance(make(), Policy)


def test_decisions_stay_on_the_ladder_with_a_reason(make):
    task = make_task()
    policy = make()
    for decision in simulate(policy).decisions:
        assert decision.batch_size in task.batch_sizes
        if getattr(policy, "sets_rate", False):  # a published rule that multiplies the rate leaves the grid of rates
            assert 0 < decision.lr < 10 * task.learning_rates[-1]
        else:
            assert decision.lr in task.learning_rates
        assert decision.reason
        assert "nan" not in decision.reason
        json.dumps(dataclasses.asdict(decision), allow_nan=False)


def test_one_seed_makes_the_same_decisions(make):
    assert simulate(make(), noise=0.2).decisions == simulate(make(), noise=0.2).decisions


@pytest.mark.parametrize(
    "make", [name for name in NAMES if policy_kind(load_policy_spec(name).kind).blind], indirect=True
)
def test_who_says_it_is_blind_does_not_look_at_what_is_measured(make):
    assert simulate(make(), noise=0.9).decisions == simulate(make()).decisions


def test_reset_starts_anew(make, library):
    policy = make()
    first = simulate(policy).decisions
    policy.reset(make_task(), library if policy.needs_library else None)
    assert simulate(policy).decisions == first


def test_a_restart_in_mid_run_changes_nothing(make):
    policy = make()

    def restarted(epoch: int) -> Policy | None:
        if epoch != LAW.epochs // 2:
            return None
        fresh = make()
        fresh.load_state_dict(through_json(policy.state_dict()))
        return fresh

    assert simulate(policy, noise=0.2, before_epoch=restarted).decisions == simulate(make(), noise=0.2).decisions


def test_is_not_asked_in_vain_after_the_last_epoch(make):
    policy = make()
    simulate(policy)
    assert policy.decide(make_observation(LAW.epochs)).batch_size in make_task().batch_sizes

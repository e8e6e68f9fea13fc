"""Forks of a learned policy: what its network wants tried, and how it goes on with what the test says."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autobatch import ConfigError
from autobatch.policies import (
    Decision,
    PolicyCard,
    PolicyTraining,
    SteerParameters,
    SteerPolicy,
    load_policy_spec,
    make_policy,
    save_learned,
)
from autobatch.policies.general import ENTRIES, FORK_ENTRIES, GeneralPolicy
from autobatch.policies.learned._network import HEADS, Network
from autobatch.policies.steer import Fork, ForkingPolicy, ForkOutcome
from tests.policies.cases import make_observation, make_task

NAMES = [name for name, _ in ENTRIES + FORK_ENTRIES]
SIZE_UP, SIZE_DOWN, FALL, STOP, TRY = 3, 1, 9, 11, 13
BETTER, WORSE = ForkOutcome(0.5, -0.1, 0.001), ForkOutcome(0.5, 0.1, 0.001)


def saved(folder: Path, bias: dict[int, float], by: tuple = (), seen: tuple | None = None) -> str:
    """Write a policy whose logits are a bias and, if asked for, an entry of the view times a weight."""
    weight, base = np.zeros((sum(HEADS["forked"]), len(NAMES))), np.zeros(sum(HEADS["forked"]))
    for place, value in bias.items():
        base[place] = value
    for name, place, value in by:
        weight[place, NAMES.index(name)] = value
    network = Network.of([(weight, base)], activation="tanh", actions="forked")
    training = PolicyTraining(algorithm="cem", tasks=("one",), steps=1, seeds=(0,), seconds=1.0)
    return str(save_learned(folder / "any.yaml", network, PolicyCard.of(network, training, margin=1.0, seen=seen)))


def policy_of(path: str, **task: object) -> GeneralPolicy:
    policy = make_policy(load_policy_spec(path))
    assert isinstance(policy, GeneralPolicy)
    policy.reset(make_task(**{"steered": True, "epochs": 40, "guessing": math.log(10)} | task), None)
    return policy


def at(epoch: int, last: Decision | None = None) -> object:
    loss = 2.0 * math.exp(-0.1 * epoch)
    seen = make_observation(epoch, 40, train_loss=loss, validation_loss=loss) if epoch else make_observation(0, 40)
    return seen if last is None else replace(seen, batch_size=last.batch_size, lr=last.lr)


def put_back(policy: GeneralPolicy, path: str) -> GeneralPolicy:
    """Return another policy in the state of this one, by way of JSON."""
    other = policy_of(path)
    other.load_state_dict(json.loads(json.dumps(policy.state_dict(), allow_nan=False)))
    return other


def test_a_silent_network_does_and_tries_as_steer_word_for_word(tmp_path: Path) -> None:
    policy, rule = policy_of(saved(tmp_path, {})), SteerPolicy(SteerParameters())
    rule.reset(make_task(steered=True, epochs=40, guessing=math.log(10)), None)
    assert isinstance(policy, ForkingPolicy)
    last = None
    for epoch in range(40):
        seen = at(epoch, last)
        last = rule.decide(seen)
        assert policy.decide(seen) == last
        assert policy.fork(seen) == rule.fork(seen)
        if last.stop:
            break


@pytest.mark.parametrize("outcome", [BETTER, WORSE, ForkOutcome(0.5, math.nan, math.nan, failed="diverged")])
def test_a_change_is_tried_and_goes_on_where_the_test_says_so(tmp_path: Path, outcome: ForkOutcome) -> None:
    path = saved(tmp_path, {SIZE_UP: 3.0, TRY: 3.0})
    policy = policy_of(path)
    held = policy.decide(at(2))
    assert (held.batch_size, held.factor) == (32, 1.0)
    assert "s64 at lr 0.1 is to be tried beside it" in held.reason
    policy = put_back(policy, path)
    fork = policy.fork(at(2))
    assert fork == Fork(64, held.lr)

    tried = put_back(policy, path)
    tried.turn(fork)
    decision = tried.decide(at(2))
    assert (decision.batch_size, decision.lr) == (64, held.lr)
    assert "batches of 64 after 32" in decision.reason

    choice = policy.judge(fork, outcome, at(2))
    assert choice.taken == (outcome is BETTER)
    policy = put_back(policy, path)
    assert choice.reason.startswith("s64 at lr 0.1 was tried for an epoch ")
    following = policy.decide(at(3, decision if choice.taken else held))
    assert following.batch_size == (64 if choice.taken else 32)
    assert policy.fork(at(3)) == Fork(128 if choice.taken else 64, held.lr)


def test_a_smaller_batch_that_goes_on_is_not_called_faster(tmp_path: Path) -> None:
    policy = policy_of(saved(tmp_path, {SIZE_DOWN: 3.0, TRY: 3.0}))
    policy.decide(at(2))
    fork = policy.fork(at(2))
    assert fork is not None
    assert fork.batch_size < 32
    choice = policy.judge(fork, BETTER, at(2))
    assert choice.taken
    assert choice.reason.endswith("no more than 2 % above: it goes on")


@pytest.mark.parametrize("outcome", [BETTER, WORSE])
def test_the_fall_of_the_rule_is_tried_too(tmp_path: Path, outcome: ForkOutcome) -> None:
    path = saved(tmp_path, {TRY: 3.0})
    policy, begins = policy_of(path), 0
    last = None
    for epoch in range(40):
        last = policy.decide(at(epoch, last))
        if "to be tried" in last.reason:
            begins = epoch
            break
    assert last.factor == 1.0
    assert "with the rate falling is to be tried beside it" in last.reason
    fork = policy.fork(at(begins))
    assert fork == Fork(last.batch_size, last.lr)
    tried = put_back(policy, path)
    tried.turn(fork)
    assert tried.decide(at(begins, last)).factor < 1.0
    choice = policy.judge(fork, outcome, at(begins, last))
    assert choice.reason.startswith("with the rate falling, ")
    following = policy.decide(at(begins + 1, last))
    assert (following.factor < 1.0) == choice.taken == (outcome is BETTER)


def test_what_is_trained_is_what_was_said_to_be_tried(tmp_path: Path) -> None:
    """By epoch 31 the rule alone would have batches of 512, four rungs up; what is tried is two rungs up at most."""
    path, last = saved(tmp_path, {TRY: 3.0}), None
    task = {"batch_sizes": (8, 16, 32, 64, 128, 256, 512), "costs": None}
    policy, tried = policy_of(path, **task), {}
    for epoch in range(32):
        last = policy.decide(at(epoch, last))
        fork = policy.fork(at(epoch, last))
        if fork is None or "to be tried" not in last.reason:
            continue
        other = policy_of(path, **task)
        other.load_state_dict(json.loads(json.dumps(policy.state_dict(), allow_nan=False)))
        other.turn(fork)
        tried[epoch] = (fork.batch_size, other.decide(at(epoch, last)).batch_size)
        policy.judge(fork, BETTER if epoch == 8 else WORSE, at(epoch, last))
    assert max(tried) == 31
    assert all(said == done for said, done in tried.values()), tried


def test_what_a_fork_came_to_is_seen_and_paid_for(tmp_path: Path) -> None:
    path = saved(tmp_path, {SIZE_UP: 3.0, TRY: 3.0}, [("fork taken", STOP, 9.0)])
    policy, other = policy_of(path), policy_of(path)
    for one, outcome in ((policy, BETTER), (other, WORSE)):
        one.decide(at(2))
        one.judge(one.fork(at(2)), outcome, at(2))
    assert policy.decide(at(3)).stop
    assert not other.decide(at(3)).stop
    silent = policy_of(saved(tmp_path, {}))
    silent.decide(at(2))
    spent = [float(one.state_dict()["seen"]["spent"][0]) for one in (silent, other)]
    assert spent[1] > 1.4 * spent[0]


def test_of_a_fork_of_the_rule_that_is_taken_moves_count_from_there(tmp_path: Path) -> None:
    policy = policy_of(saved(tmp_path, {}))
    policy.decide(at(2))
    policy.judge(Fork(64, 0.2), BETTER, at(2))
    assert policy.state_dict()["course"]["rate"] == [math.log2(0.2)]
    assert policy.decide(at(3)).batch_size == 64


def test_within_epochs_and_far_off_nothing_is_tried(tmp_path: Path) -> None:
    seen = tuple((0.9, 1.0) for _ in NAMES)
    policy = policy_of(saved(tmp_path, {SIZE_UP: 3.0, TRY: 3.0}, seen=seen))
    assert "by the rule alone, as " in policy.decide(at(2)).reason
    rule = SteerPolicy(SteerParameters())
    rule.reset(make_task(steered=True, epochs=40, guessing=math.log(10)), None)
    assert policy.fork(at(2)) == rule.fork(at(2))
    parts = policy_of(saved(tmp_path, {SIZE_UP: 3.0, TRY: 3.0}), periods=2)
    assert "decisions lie within epochs" in parts.decide(at(2)).reason


def test_the_card_says_that_forks_were_learned(tmp_path: Path) -> None:
    path = Path(saved(tmp_path, {})).with_suffix(".json")
    card = json.loads(path.read_text())
    assert (card["actions"], card["observation_schema"], card["observation_size"]) == ("forked", 2, len(NAMES))
    path.write_text(json.dumps(card | {"actions": "steered"}))
    with pytest.raises(ConfigError, match="12 logits for steered actions"):
        policy_of(str(path.with_suffix(".yaml")))

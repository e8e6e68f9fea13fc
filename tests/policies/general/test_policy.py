"""The learned policy for any task: the rule where the network is silent, departures where it is sure."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autobatch import CheckpointError, ConfigError
from autobatch.policies import (
    Decision,
    Scout,
    SteerParameters,
    SteerPolicy,
    load_learned,
    load_policy_spec,
    make_policy,
)
from autobatch.policies.general import ENTRIES, HEADS, GeneralParameters, GeneralPolicy, lead
from autobatch.policies.learned import PolicyCard, PolicyTraining, save_learned
from autobatch.policies.learned._network import Network
from tests.policies.cases import make_observation, make_task

SIZE = len(ENTRIES)
NAMES = [name for name, _ in ENTRIES]
SIZE_UP, RATE_DOWN, FALL, STOP = 3, 5, 9, 11


def saved(folder: Path, *, bias: dict[int, float] | None = None, by: tuple | None = None, **card) -> str:
    """Write a policy whose logits are a bias and, if asked for, an entry of the view times a weight."""
    weight, base = np.zeros((sum(HEADS), SIZE)), np.zeros(sum(HEADS))
    for place, value in (bias or {}).items():
        base[place] = value
    if by is not None:
        name, place, value = by
        weight[place, NAMES.index(name)] = value
    network = Network.of([(weight, base)], activation="tanh", actions="steered")
    training = PolicyTraining(algorithm="cem", tasks=("one",), steps=1, seeds=(0,), seconds=1.0)
    return str(save_learned(folder / "any.yaml", network, PolicyCard.of(network, training, margin=1.0, **card)))


def policy_of(path: str, **task) -> GeneralPolicy:
    policy = make_policy(load_policy_spec(path))
    assert isinstance(policy, GeneralPolicy)
    policy.reset(make_task(**{"steered": True, "epochs": 40, "guessing": math.log(10)} | task), None)
    return policy


def observation(epoch: int):
    loss = 2.0 * math.exp(-0.1 * epoch)
    return make_observation(epoch, 40, train_loss=loss, validation_loss=loss) if epoch else make_observation(0, 40)


def course(policy, epochs: int = 40, first: int = 0) -> list[Decision]:
    """Return what a policy decides, each decision being carried out."""
    made: list[Decision] = []
    for epoch in range(first, epochs):
        seen = observation(epoch)
        if made:
            seen = replace(seen, batch_size=made[-1].batch_size, lr=made[-1].lr)
        made.append(policy.decide(seen))
        if made[-1].stop:
            break
    return made


def plain(decisions: list[Decision]) -> list[tuple]:
    return [(one.batch_size, one.lr, one.factor, one.stop) for one in decisions]


def test_a_silent_network_does_as_steer_word_for_word(tmp_path: Path) -> None:
    policy = policy_of(saved(tmp_path))
    rule = SteerPolicy(SteerParameters())
    rule.reset(make_task(steered=True, epochs=40, guessing=math.log(10)), None)
    assert course(policy) == course(rule)


def test_where_steps_are_many_it_leaves_all_to_the_rule(tmp_path: Path) -> None:
    facts = {"steered": True, "epochs": 40, "guessing": math.log(10), "train_size": 6000}
    policy, rule = policy_of(saved(tmp_path, bias={STOP: 9.0}), train_size=6000), SteerPolicy(SteerParameters())
    rule.reset(make_task(**facts), None)
    made = course(policy)
    assert plain(made) == plain(course(rule))
    assert len(made) == 40, "it would have ended after one"
    assert "has so many steps" in made[1].reason


def test_what_scouts_have_come_to_is_kept(tmp_path: Path) -> None:
    policy = policy_of(saved(tmp_path, by=("scouts' margin", FALL, 20.0)))
    scouts = [Scout(32, 0.1, (2.0, 1.5), (2.0, 1.5)), Scout(32, 0.2, (2.0, 1.0), (2.0, 1.1))]
    policy.scouts(scouts)
    assert policy.take(scouts).scout == 1
    decision = policy.decide(observation(2))
    assert decision.lr == 0.2
    assert decision.reason.startswith("learned: the rate begins to fall")
    assert "scouts' margin 0.33" in decision.reason


def test_the_rate_falls_sooner_where_the_network_is_sure(tmp_path: Path) -> None:
    policy = policy_of(saved(tmp_path, by=("progress", FALL, 4.0), bias={FALL: 4.0}))  # from an eighth of the way on
    made = course(policy)
    assert [one.factor for one in made[:5]] == [1.0] * 5
    assert made[6].factor < 1.0
    assert made[-1].stop
    assert len(made) - 1 < 28
    begins = next(one for one in made if one.reason.startswith("learned"))
    assert "the rate begins to fall" in begins.reason
    assert "progress" in begins.reason


def test_the_rate_holds_where_the_network_is_sure(tmp_path: Path) -> None:
    made = course(policy_of(saved(tmp_path, bias={FALL - 1: 3.0, FALL: 0.0})))
    assert all(one.factor == 1.0 for one in made)
    assert len(made) == 40
    assert "does not fall yet" in made[10].reason


def test_sizes_and_rates_move_and_the_training_ends(tmp_path: Path) -> None:
    moved = course(policy_of(saved(tmp_path, bias={SIZE_UP: 3.0})), epochs=3)
    assert [one.batch_size for one in moved] == [64, 128, 256]
    assert "batches of 64 after 32" in moved[0].reason
    slower = course(policy_of(saved(tmp_path, bias={RATE_DOWN: 3.0})), epochs=2)
    assert slower[0].lr > slower[1].lr or slower[0].lr == min(make_task().learning_rates)
    ended = course(policy_of(saved(tmp_path, bias={STOP: 3.0})))
    assert [one.stop for one in ended] == [False, True]
    assert "training ends here" in ended[1].reason


def test_batches_that_grow_during_the_fall_do_part_of_it(tmp_path: Path) -> None:
    made = course(policy_of(saved(tmp_path, by=("falls", SIZE_UP, 3.0))), epochs=12)
    assert [one.batch_size for one in made[7:]] == [32, 64, 128, 256, 512]
    assert all(0.0 < one.factor <= 1.0 for one in made)
    assert made[8].factor > made[7].factor


def test_batches_stay_small_where_the_network_is_sure(tmp_path: Path) -> None:
    grown = course(policy_of(saved(tmp_path)))
    made = course(policy_of(saved(tmp_path, bias={SIZE_UP - 1: 3.0})))
    assert max(one.batch_size for one in grown) > 32
    assert {one.batch_size for one in made} == {32}
    assert any("batches stay at 32" in one.reason for one in made)


def test_far_from_all_that_was_seen_the_rule_decides_and_says_so(tmp_path: Path) -> None:
    seen = [(-1.0, 1.0)] * SIZE
    seen[NAMES.index("training set")] = (0.1, 0.2)
    policy = policy_of(saved(tmp_path, bias={STOP: 9.0}, seen=tuple(seen)))
    made = course(policy)
    rule = SteerPolicy(SteerParameters())
    rule.reset(make_task(steered=True, epochs=40, guessing=math.log(10)), None)
    assert plain(made) == plain(course(rule))
    assert "by the rule alone, as 'training set' is 0." in made[0].reason
    assert "0.10 to 0.20 in its training" in made[0].reason
    assert "of that range" in made[0].reason


def test_without_the_scouts_that_it_always_had_the_rule_decides(tmp_path: Path) -> None:
    seen = [(-1.0, 1.0)] * SIZE
    seen[NAMES.index("scouted")] = (1.0, 1.0)
    made = course(policy_of(saved(tmp_path, bias={STOP: 9.0}, seen=tuple(seen))))
    assert "'scouted' is 0.00 and was 1.00 throughout its training" in made[0].reason


def test_a_schedule_that_the_task_keeps_is_left_alone(tmp_path: Path) -> None:
    policy = policy_of(saved(tmp_path, bias={STOP: 9.0}), steered=False)
    assert not any(one.stop for one in course(policy))


@pytest.mark.parametrize("cut", [1, 5, 9, 20])
def test_put_back_it_goes_on_alike(tmp_path: Path, cut: int) -> None:
    path = saved(tmp_path, by=("progress", FALL, 4.0), bias={FALL: 4.0, SIZE_UP: 1.1})
    whole = course(policy_of(path))
    first, other = policy_of(path), policy_of(path)
    begun = course(first, epochs=cut)
    other.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
    rest = []
    for epoch in range(cut, 40 if not begun[-1].stop else cut):
        last = (begun + rest)[-1]
        rest.append(other.decide(replace(observation(epoch), batch_size=last.batch_size, lr=last.lr)))
        if rest[-1].stop:
            break
    assert plain(begun + rest) == plain(whole)


def test_other_weights_do_not_take_over(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = policy_of(saved(tmp_path / "a"))
    other = policy_of(saved(tmp_path / "b", bias={STOP: 1.0}))
    with pytest.raises(CheckpointError, match="put the old ones back"):
        other.load_state_dict(one.state_dict())


def test_weights_of_the_other_kind_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    text = Path(path).read_text()
    assert "kind: learned-general" in text
    Path(path).write_text(text.replace("kind: learned-general", "kind: learned"))
    with pytest.raises(ConfigError, match="say 'kind: learned-general'"):
        make_policy(load_policy_spec(path))
    with pytest.raises(ConfigError, match="say 'kind: learned'"):
        GeneralPolicy(GeneralParameters(weights="learned-digits"))


def test_a_network_acts_as_its_policy_with_the_lead_of_the_rule(tmp_path: Path) -> None:
    """Logits below the margin change nothing; without the lead the network would stop at once."""
    network, card = load_learned(saved(tmp_path, bias={STOP: 0.5}).removesuffix(".yaml"))
    view = np.zeros(SIZE, dtype=np.float32)
    assert network.act(view)[-1] == 1
    assert network.act(view, lead(view, card.margin))[-1] == 0


def test_a_card_that_names_its_ladder_runs_on_no_other(tmp_path: Path) -> None:
    path = saved(tmp_path, batch_sizes=(8, 16))
    assert policy_of(path, batch_sizes=(8, 16)).network is not None
    with pytest.raises(ConfigError, match=r"runs on batch_sizes 8, 16 only, and task 'synthetic' has 8, 16, 32"):
        policy_of(path, batch_sizes=(8, 16, 32))


def test_a_card_whose_ranges_do_not_fit_is_refused(tmp_path: Path) -> None:
    path = Path(saved(tmp_path, seen=((-1.0, 1.0),) * SIZE)).with_suffix(".json")
    card = json.loads(path.read_text())
    path.write_text(json.dumps(card | {"seen": card["seen"][:3]}))
    with pytest.raises(ConfigError, match="key 'seen': expected"):
        load_learned(str(path.with_suffix("")))

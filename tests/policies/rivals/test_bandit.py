import math
from collections import Counter

import pytest

from autobatch import CheckpointError, ConfigError
from autobatch.policies.rivals import RmgdParameters, RmgdPolicy
from tests.policies.cases import make_observation, make_task, through_json

NAN = float("nan")
LOSSES = (NAN, 0.9, 0.95, 0.8, 0.8, NAN, 0.7)
"""Before each epoch: the first is a success for want of a loss before it; the second, fourth and fifth are none; the
sixth is one, since nothing finite came before it."""


def made(task, **parameters) -> RmgdPolicy:
    policy = RmgdPolicy(RmgdParameters(**parameters))
    policy.reset(task, None)
    return policy


def play(policy, losses=LOSSES):
    return [policy.decide(make_observation(epoch, validation_loss=loss)) for epoch, loss in enumerate(losses)]


def test_the_weights_follow_the_published_update():
    task = make_task(batch_sizes=(8, 16, 32), epochs=6, seed=3)
    policy = made(task)
    sizes = [decision.batch_size for decision in play(policy)]
    beta = math.sqrt(2 * math.log(3) / (3 * 6))
    weights = {8: 1 / 3, 16: 1 / 3, 32: 1 / 3}
    for size, cost in zip(sizes, (0, 1, 0, 1, 1, 0), strict=False):
        weights[size] *= math.exp(-beta * cost / weights[size])
        total = sum(weights.values())
        weights = {one: weight / total for one, weight in weights.items()}
    assert policy.state_dict()["weights"] == pytest.approx(list(weights.values()), rel=1e-12)
    assert policy.state_dict()["loss"] == 0.7


def test_one_punished_epoch_by_hand():
    policy = made(make_task(batch_sizes=(8, 16), epochs=4), beta=math.log(2) / 2)
    first = play(policy, (0.5, 0.6))[0].batch_size
    # exp(-(ln 2 / 2) * 1 / (1/2)) = 1/2: from 1/2 and 1/2 to 1/4 and 1/2, that is 1/3 and 2/3.
    assert policy.state_dict()["weights"] == pytest.approx([1 / 3, 2 / 3] if first == 8 else [2 / 3, 1 / 3])


def test_the_floor_is_kept_and_enters_the_update():
    policy = made(make_task(batch_sizes=(8, 16), epochs=4), beta=1.0, floor=0.2)
    first = play(policy, (0.5, 0.6))[0].batch_size
    punished = math.exp(-1.0 / 0.5)
    weights = [punished / (1 + punished), 1 / (1 + punished)]
    assert policy.state_dict()["weights"] == pytest.approx(weights if first == 8 else weights[::-1])
    always_worse = [float(epoch) for epoch in range(400)]
    counts = Counter(decision.batch_size for decision in play(made(make_task(), beta=50.0, floor=0.1), always_worse))
    assert min(counts[size] for size in make_task().batch_sizes) >= 20
    with pytest.raises(ConfigError, match=r"'floor'.*less than 1/7"):
        made(make_task(), floor=0.2)


def test_a_size_that_always_fails_is_left():
    policy = made(make_task(batch_sizes=(8, 16), epochs=100))
    loss, sizes = 1.0, []
    for epoch in range(100):
        sizes.append(policy.decide(make_observation(epoch, validation_loss=loss)).batch_size)
        loss *= 0.9 if sizes[-1] == 16 else 1.1
    assert Counter(sizes[50:])[16] >= 45
    assert Counter(sizes[:50])[8] >= 1


def test_draws_are_uniform_before_anything_was_learned():
    sizes = [made(make_task(seed=seed)).decide(make_observation(0)).batch_size for seed in range(700)]
    chi_square = sum((count - 100) ** 2 / 100 for count in Counter(sizes).values())
    assert len(set(sizes)) == 7
    assert chi_square < 22.5  # 99.9 % of uniform draws stay below, with 6 degrees of freedom


def test_a_question_asked_again_has_the_same_answer_and_costs_nothing():
    losses = [1.0, 0.9, 1.1, 1.2, 0.8, 0.9, 1.0, 1.1]
    once, twice = made(make_task()), made(make_task())
    for epoch, loss in enumerate(losses):
        observation = make_observation(epoch, validation_loss=loss)
        assert once.decide(observation) == twice.decide(observation) == twice.decide(observation)
    assert once.state_dict() == twice.state_dict()


def test_the_state_passes_through_json_and_fits_its_ladder_only():
    policy = made(make_task())
    play(policy, (NAN, NAN, 0.5))
    fresh = made(make_task())
    fresh.load_state_dict(through_json(policy.state_dict()))
    assert fresh.state_dict() == policy.state_dict()
    with pytest.raises(CheckpointError, match="weights of 2 batch sizes, got 7"):
        made(make_task(batch_sizes=(8, 16))).load_state_dict(policy.state_dict())


def test_the_rate_is_left_to_the_training_or_given():
    assert made(make_task()).decide(make_observation(0)).lr is None
    assert made(make_task(), lr=0.2).decide(make_observation(0)).lr == 0.2

"""What can be done to a training: the rule's own course is one of them, and each action does what it says."""

import math

import numpy as np
import pytest

from autobatch.policies import SteerParameters, SteerPolicy
from autobatch.policies.general import AS_IT_IS, FALL, RATE, SIZE, STOP, Course, Limits, rule_plan
from tests.beacons.synthetic import make_costs
from tests.policies.cases import make_observation, make_task


def limits(task, plan) -> Limits:
    costs = [1.0] * len(task.batch_sizes)
    if task.costs is not None:
        costs = [task.costs.training_seconds(size, task.train_size / size, 1) for size in task.batch_sizes]
    return Limits(
        np.log2(task.batch_sizes),
        np.array([0]),
        np.array([len(task.batch_sizes) - 1]),
        np.log2([task.learning_rates[0]]),
        np.log2([task.learning_rates[-1]]),
        np.array([task.epochs]),
        np.array([float(plan.decay_from)]),
        np.array([plan.end]),
        np.array([costs]),
    )


def begun(task, batch_size: int = 32, lr: float = 0.1) -> tuple[Course, Limits]:
    own = limits(task, rule_plan(task.epochs))
    size = np.array([task.batch_sizes.index(batch_size)])
    return Course.begun(size, np.log2([lr]), np.array([task.epochs])), own


def action(**parts: int) -> np.ndarray:
    places = {"size": SIZE, "rate": RATE, "fall": FALL, "stop": STOP}
    chosen = np.array([AS_IT_IS])
    for name, value in parts.items():
        chosen[0, places[name]] = value
    return chosen


def after(epochs: int) -> tuple[Course, Limits]:
    course, own = begun(make_task(epochs=40))
    course.epoch += epochs
    return course, own


@pytest.mark.parametrize("epochs", [5, 6, 20, 40])
@pytest.mark.parametrize("costs", [make_costs(), None])
def test_the_rule_is_followed_to_its_end(epochs: int, costs) -> None:
    task = make_task(epochs=epochs, steered=True, costs=costs)
    policy = SteerPolicy(SteerParameters(patience=0.0))
    policy.reset(task, None)
    course, own = begun(task, *policy.start)
    for epoch in range(epochs):
        decision = policy.decide(make_observation(epoch, epochs))
        if decision.stop:
            assert course.epoch >= course.end
            break
        assert not course.advance(course.suggested(own), own)
        assert task.batch_sizes[int(course.size[0])] == decision.batch_size
        assert float(course.factor(own.sizes)[0]) == pytest.approx(decision.factor)
        assert course.epoch < course.end
        course.epoch += 1
    assert course.epoch >= course.end


def test_a_fall_told_later_ends_later_and_told_sooner_ends_sooner() -> None:
    ends = {}
    for epoch in (2, 7, 9, 30):
        course, own = after(epoch)
        course.advance(action(fall=1), own)
        ends[epoch] = int(course.end[0])
    assert ends == {2: 8, 7: 28, 9: 36, 30: 40}


def test_told_again_the_rate_falls_within_the_coming_epoch() -> None:
    course, own = after(7)
    course.advance(action(fall=1), own)
    course.epoch += 5
    before = float(course.line[0])
    course.advance(action(fall=1), own)
    assert int(course.end[0]) == 13
    assert 0.0 < float(course.line[0]) < before


def test_moves_stop_at_the_ends() -> None:
    course, own = after(3)
    course.advance(action(size=4, rate=2), own)
    course.advance(action(size=4, rate=2), own)
    assert course.size == own.highest
    assert course.rate == own.fastest
    assert float(course.factor(own.sizes)[0]) == 1.0


def test_a_larger_batch_does_part_of_the_fall() -> None:
    course, own = after(7)
    course.advance(action(fall=1), own)
    course.epoch += 10
    narrow = float(course.factor(own.sizes)[0])
    course.advance(action(size=3), own)
    assert float(course.factor(own.sizes)[0]) == pytest.approx(narrow * math.sqrt(2.0))


def test_stop_stops_but_for_a_training_that_has_not_begun() -> None:
    course, own = after(0)
    assert not course.advance(action(stop=1), own)
    course.epoch += 1
    assert course.advance(action(stop=1, size=4, fall=1), own)
    assert not course.falling
    assert course.size == course.start_size

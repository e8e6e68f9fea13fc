"""Smaller batches where gradients agree: the noise scale, and what steer makes of it before the rate falls."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autobatch.fisher import GradientMoments
from autobatch.policies import Decision, Observation, SteerParameters, SteerPolicy
from autobatch.policies._wording import brief
from autobatch.policies.steer import MeasuringPolicy, Scout
from autobatch.policies.steer._noise import FOLLOWED, LEAST_SAMPLES, RECENT, WANTED, Noise
from tests.policies.cases import make_observation, make_task, through_json

LADDER = (4, 8, 16, 32, 64, 128)
EPOCHS = 20
"""Of which 14 are trained; the rate falls from the fifth on, or from the sixth where the whole length is kept."""


def moments(scale: float, samples: int = WANTED, batch_size: int = 32) -> GradientMoments:
    """Moments of gradients whose squared signal is 1 and whose variance is the noise scale."""
    mean = 1.0 + scale / batch_size
    return GradientMoments(batch_size, samples, mean + scale * (batch_size - 1) / batch_size, mean, mean, 0.5)


def steer(*, start: tuple[int, float] = (32, 0.1), **task) -> SteerPolicy:
    policy = SteerPolicy(SteerParameters())
    facts = {"epochs": EPOCHS, "batch_sizes": LADDER, "learning_rates": (0.05, 0.1, 0.2), "steered": True}
    policy.reset(make_task(**facts | {"costs": None} | task), None)
    policy.begin(*start, "begun")
    return policy


def seen(epoch: int, gradients: GradientMoments | None) -> Observation:
    return make_observation(epoch, EPOCHS, gradients=gradients)


def decided(policy: SteerPolicy, gradients: GradientMoments | None, epochs: range = range(EPOCHS)) -> list[Decision]:
    return [policy.decide(seen(epoch, gradients if epoch else None)) for epoch in epochs]


@given(scale=st.floats(0.1, 1e4), samples=st.integers(LEAST_SAMPLES, 50))
def test_moments_of_a_noise_scale_have_it(scale: float, samples: int) -> None:
    noise = Noise()
    noise.take(seen(1, moments(scale, samples)))
    assert moments(scale).noise_scale == pytest.approx(scale)
    assert noise.scale == pytest.approx(scale)


def test_it_is_the_trace_of_the_covariance_over_the_squared_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    gradient, spread = torch.randn(50, generator=generator, dtype=torch.float64), 3.0
    noise = Noise()
    for batch_size in (16, 64):
        found = []
        for _ in range(400):
            rows = gradient + spread * torch.randn(batch_size, 50, generator=generator, dtype=torch.float64)
            found.append(GradientMoments.of_gram(rows @ rows.T))
        noise.take(seen(batch_size, GradientMoments.mean(found)))
    assert noise.scale == pytest.approx(50 * spread**2 / float(gradient.square().sum()), rel=0.02)


def test_where_noise_hides_the_gradient_it_is_infinite_and_of_few_steps_nothing_is_known() -> None:
    noise = Noise()
    assert noise.scale is None
    noise.take(seen(1, moments(10.0, LEAST_SAMPLES - 1)))
    assert noise.scale is None
    assert noise.size(32, LADDER[:4], 1.0) is None
    noise.take(seen(2, replace(moments(10.0, 1000), mean_squared_norm=0.0)))
    assert noise.scale == math.inf
    assert noise.size(32, LADDER[:4], 1.0) is None
    noise.take(seen(2, replace(moments(10.0), sample_squared_norm=math.nan)))
    noise.take(seen(2, None))
    assert noise.scale == math.inf


@pytest.mark.parametrize(
    ("scale", "margin", "smaller"),
    [(33, 1, None), (31, 1, 16), (17, 1, 16), (15, 1, 8), (3, 1, 4), (17, 2, None), (15, 2, 8), (9, 2, 8)],
)
def test_the_size_that_goes_with_it(scale: float, margin: float, smaller: int | None) -> None:
    noise = Noise()
    noise.take(seen(1, moments(scale)))
    assert noise.size(32, LADDER[:4], margin) == smaller
    assert noise.size(32, (32,), margin) == (smaller and 32)


def test_it_asks_for_measured_steps_before_the_rate_falls() -> None:
    policy = steer()
    assert isinstance(policy, MeasuringPolicy)
    wanted = []
    for epoch in range(EPOCHS):
        policy.decide(seen(epoch, None))
        wanted.append(policy.samples_wanted)
    assert policy.plan.decay_from == 4
    assert wanted == [0, 0, WANTED, WANTED] + [0] * (EPOCHS - 4)


@pytest.mark.parametrize(
    ("ladder", "start", "wanted"),
    [
        (LADDER, 32, WANTED),
        (LADDER, 16, WANTED),
        (LADDER, 8, WANTED),
        ((32, 64), 32, WANTED),
        (LADDER, 64, 0),  # a fork has grown it
    ],
)
def test_it_asks_only_where_no_larger_batch_has_been_taken(ladder: tuple[int, ...], start: int, wanted: int) -> None:
    policy = steer(start=(start, 0.1), batch_sizes=ladder)
    for epoch in range(4):
        policy.decide(seen(epoch, None))
    assert policy.samples_wanted == wanted


@pytest.mark.parametrize(
    ("scale", "begun", "size"),
    [(20.0, 32, 32), (15.0, 32, 8), (1.0, 32, 8), (20.0, 16, 16), (15.0, 16, 8), (1.0, 16, 8)],
)
def test_a_batch_above_the_noise_scale_gets_smaller_and_the_training_keeps_its_length(
    scale: float, begun: int, size: int
) -> None:
    decisions = decided(steer(start=(begun, 0.1)), moments(scale))
    assert {one.batch_size for one in decisions[:4]} == {begun}
    assert decisions[4].batch_size == size
    assert {one.lr for one in decisions} == {0.1}
    ends = [one.stop for one in decisions].index(True) if any(one.stop for one in decisions) else EPOCHS
    assert ends == (14 if size == begun else EPOCHS)
    if size < begun:
        assert decisions[4].factor == 1.0
        assert f"(noise scale {scale:g} examples, batches of {begun} so far)" in decisions[4].reason
        assert brief(decisions[4].reason).endswith(
            "step nearly as far, so more of them help, and the training keeps its whole length"
        )
        assert decisions[5].factor < 1.0


def test_the_reason_is_told_also_where_the_rate_begins_to_fall_at_once() -> None:
    policy = SteerPolicy(SteerParameters(length=1.0))
    policy.reset(make_task(epochs=EPOCHS, batch_sizes=LADDER, learning_rates=(0.1,), steered=True, costs=None), None)
    policy.begin(32, 0.1, "begun")
    decisions = decided(policy, moments(10.0))
    assert [one.batch_size for one in decisions[4:6]] == [32, 8]
    assert "noise scale 10" in decisions[5].reason
    assert "the rate falls" in decisions[5].reason
    assert "noise scale" not in decisions[6].reason
    assert policy.decide(seen(5, moments(10.0))) == decisions[5]


def test_only_the_periods_before_the_fall_count() -> None:
    policy = steer()
    for epoch in range(EPOCHS):
        decision = policy.decide(seen(epoch, moments(1.0 if epoch < 3 or epoch > 4 else 1000.0)))
        assert decision.batch_size >= 32


@pytest.mark.parametrize(
    ("task", "start"),
    [
        ({"steered": False}, (32, 0.1)),
        ({"epochs": 2}, (32, 0.1)),  # no period but the first
        ({"batch_sizes": (32, 64)}, (32, 0.1)),
        ({}, (64, 0.1)),  # a fork has grown it
        ({}, (8, 0.1)),  # a quarter already
    ],
)
def test_it_stays_where_nothing_is_to_be_had(task: dict, start: tuple[int, float]) -> None:
    policy = steer(start=start, **task)
    for epoch in range(task.get("epochs", 10)):
        assert policy.decide(seen(epoch, moments(1.0))).batch_size >= start[0]
    assert policy.start == start


def test_after_that_nothing_grows_and_no_fork_is_made() -> None:
    policy = steer(train_size=9_000)
    assert {one.batch_size for one in decided(policy, moments(10.0))[4:]} == {8}
    assert policy.fork(seen(5, None)) is None
    usual = steer(train_size=9_000)
    assert max(one.batch_size for one in decided(usual, moments(1000.0))) > 32


@pytest.mark.parametrize(("scouted", "asked", "smaller_from"), [(1, [1], 2), (2, [2], 3), (3, [3], 4)])
def test_where_a_scout_has_trained_the_periods_before_the_fall_the_next_is_measured(
    scouted: int, asked: list[int], smaller_from: int
) -> None:
    policies = [steer(epochs=12) for _ in range(2)]  # eight are trained, the rate falls from the third on
    for policy in policies:
        policy.take([Scout(32, 0.1, (1.0, 0.5, 0.4)[:scouted], (1.0, 0.5, 0.4)[:scouted])])
        assert policy.plan.decay_from == 2
    anew, going_on = policies
    decisions, wanted = [], []
    for epoch in range(6):
        decisions.append(anew.decide(make_observation(epoch, 12, gradients=moments(4.0) if epoch else None)))
        wanted.append(anew.samples_wanted)
    assert [epoch for epoch, samples in enumerate(wanted) if samples == WANTED] == asked
    assert [epoch for epoch, samples in enumerate(wanted) if samples == FOLLOWED] == [*range(smaller_from, 6)]
    assert [one.batch_size for one in decisions] == [32] * smaller_from + [8] * (6 - smaller_from)
    for epoch in range(scouted, 6):  # what its scout did is not known to it
        gradients = moments(4.0) if epoch > scouted else None
        assert going_on.decide(make_observation(epoch, 12, gradients=gradients)) == decisions[epoch]
        going_on.load_state_dict(through_json(going_on.state_dict()))


@pytest.mark.parametrize(
    ("ladder", "start"),
    [(LADDER[1:], 8), ((32, 64, 128), 32), ((7, 13, 29, 61), 13), ((4, 32, 64), 4)],  # 7 is no quarter of 29
)
def test_where_there_is_no_smaller_size_it_does_not_grow(ladder: tuple[int, ...], start: int) -> None:
    for scale, largest in ((1.0, start), (1000.0, ladder[-1])):
        decisions = decided(steer(start=(start, 0.1), batch_sizes=ladder), moments(scale))
        assert (min(one.batch_size for one in decisions), max(one.batch_size for one in decisions[:14])) == (
            start, largest
        )  # fmt: skip
        assert [one.stop for one in decisions].index(True) == 14


def test_asked_twice_in_an_epoch_it_says_the_same() -> None:
    once, twice = steer(), steer()
    for epoch in range(EPOCHS):
        gradients = moments(30.0 if epoch == 3 else 5.0)
        twice.decide(seen(epoch, gradients))
        assert twice.decide(seen(epoch, gradients)) == once.decide(seen(epoch, gradients))


@pytest.mark.parametrize("cut", range(1, 8))
def test_it_goes_on_from_its_state(cut: int) -> None:
    whole, begun, resumed = steer(), steer(), steer()
    expected = decided(whole, moments(12.0))
    decided(begun, moments(12.0), range(cut))
    resumed.load_state_dict(through_json(begun.state_dict()))
    assert decided(resumed, moments(12.0), range(cut, EPOCHS)) == expected[cut:]


def test_a_training_of_an_older_version_goes_on_as_it_began() -> None:
    begun, resumed = steer(), steer()
    decided(begun, moments(12.0), range(2))
    state = {key: value for key, value in begun.state_dict().items() if key not in {"noise", "shrunk"}}
    resumed.load_state_dict(through_json(state))
    assert {one.batch_size for one in decided(resumed, moments(12.0), range(2, 6))} == {32}


def followed(scales: dict[int, float], **task) -> tuple[list[Decision], list[int]]:
    """Decide where the noise scale is 4, and from some epochs on others; with it the measured steps asked for."""
    policy, decisions, wanted, scale = steer(**task), [], [], 4.0
    for epoch in range(EPOCHS):
        scale = scales.get(epoch, scale)
        observation = seen(epoch, moments(scale, policy.samples_wanted or 1) if epoch else None)
        decisions.append(policy.decide(observation))
        state = through_json(policy.state_dict())
        assert policy.decide(observation) == decisions[-1]
        assert through_json(policy.state_dict()) == state
        policy = steer(**task)
        policy.load_state_dict(state)
        policy.decide(observation)
        wanted.append(policy.samples_wanted)
    return decisions, wanted


def test_the_batch_grows_again_as_the_noise_does() -> None:
    decisions, wanted = followed({8: 1e6})
    sizes = [one.batch_size for one in decisions]
    back = sizes.index(32, 4)
    assert sizes[4:back] == [8] * (back - 4)
    assert 8 <= back <= 8 + RECENT
    assert wanted[4:back] == [FOLLOWED] * (back - 4)
    assert set(wanted[back:]) == {0}
    assert "s32 at lr 0.1: noise has grown to " in decisions[back].reason
    assert "smaller batches step no further; " in decisions[back].reason
    assert [one.stop for one in decisions].index(True) == 14  # as planned before
    assert max(sizes[back + 1 :]) > 32  # and batches grow as planned, too


def test_it_stays_small_while_the_noise_is_not_far_above_it_and_once_the_planned_end_is_past_the_length_stays() -> None:
    decisions, _ = followed({8: 20.0, 15: 1e6})
    sizes = [one.batch_size for one in decisions]
    assert sizes[4:15] == [8] * 11
    assert min(sizes[15 + RECENT :]) >= 32
    assert not any(one.stop for one in decisions)


def test_a_noise_scale_that_has_grown_is_that_of_the_last_periods() -> None:
    noise = Noise()
    for epoch in (1, 2, 3):
        noise.take(seen(epoch, moments(100.0, 1)))
        assert not noise.has_grown(8)  # of three steps nothing is said
    noise.take(seen(4, replace(moments(10.0), mean_squared_norm=0.0)))  # noise hides the gradient
    assert noise.has_grown(8)
    for epoch in (5, 6, 7):
        noise.take(seen(epoch, moments(33.0)))
    assert (noise.has_grown(8), noise.has_grown(9)) == (True, False)

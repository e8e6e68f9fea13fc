import pytest

from autobatch import _errors
from autobatch.policies.baselines import StagesParameters, StagesPolicy
from autobatch.policies.baselines._stages import segment_bounds, spread_sizes
from tests.policies.cases import make_observation, make_task


def sizes_by_epoch(parameters: StagesParameters, **task) -> list[int]:
    info = make_task(**task)
    policy = StagesPolicy(parameters)
    policy.reset(info, None)
    return [policy.decide(make_observation(epoch, info.epochs)).batch_size for epoch in range(info.epochs)]


@pytest.mark.parametrize(
    ("first", "last", "sizes"),
    [
        # The first three are spelt out in section 4.3 of the paper.
        (32, 512, (32, 64, 128, 256, 512)),
        (512, 32, (512, 256, 128, 64, 32)),
        (16, 64, (16, 16, 32, 32, 64)),
        (32, 128, (32, 32, 64, 64, 128)),
        (128, 32, (128, 128, 64, 64, 32)),
        (64, 64, (64, 64, 64, 64, 64)),
        (64, 512, (64, 64, 128, 256, 512)),
        (8, 512, (8, 16, 32, 64, 128, 256, 512)),
    ],
)
def test_sizes_are_spread_over_the_stages(first, last, sizes):
    assert spread_sizes(first, last) == sizes


@pytest.mark.parametrize(("first", "last"), [(32, 100), (24, 128), (0, 64)])
def test_an_end_that_is_no_power_of_two_is_an_error(first, last):
    with pytest.raises(_errors.ConfigError, match="not a power of two"):
        spread_sizes(first, last)


def test_stages_have_equally_many_epochs():
    parameters = StagesParameters(batch_sizes=(32, 32, 64, 64, 128))
    assert sizes_by_epoch(parameters, epochs=320) == [32] * 128 + [64] * 128 + [128] * 64


def test_stages_of_epochs_that_do_not_divide_follow_the_progress():
    parameters = StagesParameters(batch_sizes=(8, 16, 32, 64, 128))
    assert sizes_by_epoch(parameters, epochs=7) == [8, 8, 16, 32, 32, 64, 128]
    assert sizes_by_epoch(parameters, epochs=3) == [8, 16, 64]


def test_within_rates_runs_through_the_sequence_between_milestones():
    parameters = StagesParameters(batch_sizes=(16, 16, 32, 32, 64), within_rates=True)
    first_half, quarter = [16] * 8 + [32] * 8 + [64] * 4, [16] * 4 + [32] * 4 + [64] * 2
    assert sizes_by_epoch(parameters, epochs=40) == first_half + quarter + quarter


def test_within_rates_of_a_constant_rate_is_the_whole_training():
    parameters = StagesParameters(batch_sizes=(16, 32), within_rates=True)
    assert sizes_by_epoch(parameters, epochs=4, milestones=()) == [16, 16, 32, 32]


def test_segments_start_with_the_first_epoch_at_the_new_rate():
    assert segment_bounds(10, (0.5, 0.7)) == [(0, 5), (5, 7), (7, 10)]
    assert segment_bounds(10, (0.55,)) == [(0, 6), (6, 10)]
    assert segment_bounds(1, (0.5, 0.75)) == [(0, 1)]


def test_a_size_that_is_not_on_the_ladder_is_an_error():
    policy = StagesPolicy(StagesParameters(batch_sizes=(32, 1024)))
    with pytest.raises(_errors.ConfigError, match=r"batch size 1024.*ladder of task 'synthetic'"):
        policy.reset(make_task(), None)


def test_the_reason_names_stage_and_rate_value():
    policy = StagesPolicy(StagesParameters(batch_sizes=(16, 32), within_rates=True, lr=0.2))
    policy.reset(make_task(epochs=40), None)
    reason = policy.decide(make_observation(26, 40)).reason
    assert reason == "s32 at lr 0.2: stage 2 of 2 within learning-rate value 2 of 3"


def test_asked_once_more_after_the_last_epoch_it_stays():
    policy = StagesPolicy(StagesParameters(batch_sizes=(16, 32)))
    policy.reset(make_task(epochs=4), None)
    assert policy.decide(make_observation(4, 4)).batch_size == 32

"""Schedules in Megatron-LM's notation: read, followed, and written down again."""

import pytest

from autobatch._errors import ConfigError
from autobatch.policies import load_policy_spec, make_policy
from autobatch.policies.baselines import expand_shorthand, notation
from tests.policies.cases import make_observation, make_task


def sizes_of(name: str, **task) -> list[int]:
    info = make_task(epochs=8, train_size=1000, **task)
    policy = make_policy(load_policy_spec(name))
    policy.reset(info, None)
    return [policy.decide(make_observation(epoch, info.epochs)).batch_size for epoch in range(info.epochs)]


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("0:32", [32] * 8),
        ("0:32 2e:64 5E:128", [32, 32, 64, 64, 64, 128, 128, 128]),
        ("0:32 2K:64 0.005m:128", [32, 32, 64, 64, 64, 128, 128, 128]),
        ("0:128 2001:64", [128, 128, 128, 64, 64, 64, 64, 64]),  # within an epoch: from the next decision on
        ("0:32  3000:64 6e:16", [32, 32, 32, 64, 64, 64, 16, 16]),
        ("0:32 1B:64", [32] * 8),
    ],
)
def test_sizes_follow_the_schedule(name, sizes):
    assert sizes_of(name) == sizes


def test_the_reason_names_the_place():
    policy = make_policy(load_policy_spec("0:32 2K:64 5e:128"))
    policy.reset(make_task(epochs=8, train_size=1000), None)
    assert policy.decide(make_observation(2, 8)).reason == "s64: the schedule has it from example 2,000 on"
    assert policy.decide(make_observation(6, 8)).reason == "s128: the schedule has it from epoch 6 on"


def test_its_name_can_be_part_of_a_file_name():
    spec = load_policy_spec("0:32 2.5K:64")
    assert spec.name == "0-32_2.5K-64"
    assert spec.parameters == {"batch_sizes": [32, 64], "starts": ["0", "2.5K"]}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("5:32", "the first entry to start at 0"),
        ("0:32 5e:64 5e:128", "ascending starts"),
        ("0:32 2K:64 1K:128", "ascending starts"),
        ("0:0", "batch_sizes"),
    ],
)
def test_impossible_schedules_are_refused(name, words):
    with pytest.raises(ConfigError, match=words):
        load_policy_spec(name)


@pytest.mark.parametrize("name", ["0:", "32:", "0:32,64", "0-32", "a:b", "0:32 x"])
def test_other_names_are_no_schedules(name):
    assert expand_shorthand(name) is None


def test_what_was_used_is_written_down_and_read_again():
    sizes, examples = [32, 32, 64, 128, 128, 128, 64, 64], [1000 * epoch for epoch in range(1, 9)]
    written = notation(sizes, examples)
    assert written == "0:32 2000:64 3000:128 6000:64"
    assert sizes_of(written) == sizes
    by_epochs = notation(sizes, range(1, 9), "e")
    assert by_epochs == "0:32 2e:64 3e:128 6e:64"
    assert sizes_of(by_epochs) == sizes
    assert notation([0.1, 0.05], [500, 1000]) == "0:0.1 500:0.05"

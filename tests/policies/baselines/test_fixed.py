"""A policy that keeps one configuration, on any ladder."""

from collections.abc import Sequence

import pytest

from autobatch._errors import ConfigError
from autobatch.policies import load_policy_spec, make_policy
from tests.policies.cases import make_observation, make_task


def size_on(ladder: Sequence[int], policy: str = "fixed") -> int:
    made = make_policy(load_policy_spec(policy))
    made.reset(make_task(batch_sizes=tuple(ladder), epochs=2), None)
    return made.decide(make_observation(0, 2)).batch_size


@pytest.mark.parametrize(
    ("ladder", "size"), [((8, 16), 16), ((16, 32, 64), 32), ((64, 128), 64), ((30, 40), 30), ((7,), 7)]
)
def test_by_name_it_keeps_the_rung_nearest_to_32(ladder: Sequence[int], size: int) -> None:
    assert size_on(ladder) == size


def test_a_size_that_is_not_there_is_refused_with_policies_that_fit() -> None:
    with pytest.raises(ConfigError, match=r"batch size 32, .* as the policies 's8' and 's8-to-16' do"):
        size_on((8, 16), "s32")
    assert size_on((8, 16), "s8") == size_on((8, 16), "s8-to-16") == 8

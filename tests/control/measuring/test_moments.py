"""What the controller tells its policy of the gradients: from real steps, and over a checkpoint in mid-epoch."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from autobatch.control import MeasureAtInterval, MeasuredStep
from autobatch.control.measuring._samples import gradient_moments
from autobatch.fisher import GradientMoments
from tests.control.loops import Toy, json_copy
from tests.fisher.test_moments import gradients


def toy(**settings: Any) -> Toy:
    made = Toy([4, 8, 4], size=24, make=lambda: nn.Linear(3, 2).double(), measuring=MeasureAtInterval(2), **settings)
    made.data.x = made.data.x.double()
    return made


def measured(batch_size: int, **changes: Any) -> MeasuredStep:
    facts = {"epoch": 1, "step": 1, "lr": 0.1, "condition_number": 2.0, "rank": batch_size, "seconds": 0.0}
    sums = {"trace": 4.0, "squared_sum": 6.0, "squared_rows": 12.0, "half_cosine": 0.5}
    return MeasuredStep(batch_size=batch_size, **facts | sums | changes)


def test_the_policy_sees_the_moments_of_the_steps_that_were_measured() -> None:
    own = toy()
    for _ in range(3):
        by_step = {}
        for batch in own.loader():
            _, x, y = batch
            by_step[own.controller.steps + 1] = gradients(own.model, x, y)
            own.step(batch)
        own.controller.end_epoch()
        sampled = [by_step[sample.step] for sample in own.controller.measurements]
        assert 0 < len(sampled) < len(by_step)
        want = GradientMoments.mean([GradientMoments.of_gram(rows @ rows.T) for rows in sampled])
        got = own.controller.observation.gradients
        assert got is not None
        assert (got.batch_size, got.samples) == (want.batch_size, want.samples)
        for name in ("variance", "squared_signal", "variance_along", "variance_across", "half_cosine"):
            assert getattr(got, name) == pytest.approx(getattr(want, name), rel=1e-9), name
    seen = [observation.gradients for observation in own.policy.seen]
    assert seen[0] is None
    assert [moments.batch_size for moments in seen[1:]] == [4, 8]


def test_nothing_measured_is_nothing_known() -> None:
    own = Toy([4, 8])
    own.epoch()
    assert own.controller.observation.gradients is None


def test_the_moments_survive_a_checkpoint_in_mid_epoch() -> None:
    whole, first, second = toy(), toy(), toy()
    for _ in range(2):
        whole.epoch()
    first.epoch()
    batches = iter(first.loader())
    for _ in range(2):
        first.step(next(batches))
    second.model.load_state_dict(first.model.state_dict())
    second.controller.load_state_dict(json_copy(first.controller.state_dict()))
    assert second.controller.observation.gradients == first.controller.observation.gradients
    assert second.controller.observation.gradients is not None
    second.epoch()
    assert second.controller.observation.gradients == whole.controller.observation.gradients
    assert second.policy.seen[-1].gradients == whole.policy.seen[-1].gradients


def test_states_and_lines_of_older_versions_are_read() -> None:
    own, other = toy(), toy()
    own.epoch()
    state = json_copy(own.controller.state_dict())
    del state["gradients"]
    other.controller.load_state_dict(state)
    assert other.controller.observation.gradients is None
    line = {key: value for key, value in measured(4).to_dict().items() if key not in {"squared_rows", "half_cosine"}}
    read = MeasuredStep.from_dict(line)
    assert math.isnan(read.squared_rows)
    moments = gradient_moments([read])
    assert moments is not None
    assert moments.variance == pytest.approx((4.0 / 4 - 6.0 / 16) * 4 / 3)
    assert math.isnan(moments.variance_along)


def test_a_period_speaks_of_one_batch_size() -> None:
    assert gradient_moments([]) is None
    assert gradient_moments([measured(4, trace=math.nan, squared_sum=math.nan)]) is None
    mixed = gradient_moments([measured(4), measured(8), measured(8), measured(4, trace=math.nan)])
    assert mixed is not None
    assert (mixed.batch_size, mixed.samples) == (8, 2)
    even = gradient_moments([measured(4), measured(8)])
    assert even is not None
    assert even.batch_size == 8


def test_the_sums_are_those_of_the_gram_matrix() -> None:
    own = toy()
    rows = []
    for batch in own.loader():
        _, x, y = batch
        rows.append(gradients(own.model, x, y))
        own.step(batch)
    own.controller.end_epoch()
    for sample in own.controller.measurements:
        gram = rows[sample.step - 1] @ rows[sample.step - 1].T
        total = torch.ones(len(gram), dtype=torch.float64)
        assert sample.squared_rows == pytest.approx(float((gram @ total).square().sum()), rel=1e-9)

"""C̄ and L against direct sums over every iteration."""

import json
import math

import numpy as np
import pytest

from autobatch._errors import AutoBatchError
from autobatch.fisher import SpectralPosition


def test_constant_sampling_is_the_paper_s_mean_and_sum() -> None:
    rng = np.random.default_rng(0)
    conditions, traces = 1 + rng.random(12), rng.random(12)
    position = SpectralPosition()
    for condition, trace in zip(conditions, traces, strict=True):
        position.add(condition, trace, batch_size=32, lr=0.1, steps=50)
    assert position.c_bar == pytest.approx(conditions.mean())
    # eq. 8 with the authors' correction: the sum over sampled steps divided by the sampled fraction, 1 / 50
    assert position.l_cum == pytest.approx((0.1 / 32 * np.sqrt(traces)).sum() * 50)
    assert (position.steps, position.samples) == (600, 12)


def test_changing_batch_size_and_sampling_still_estimates_all_iterations() -> None:
    # Epochs of 100, 10 and 50 steps; c, trace, B and lr are constant within an epoch, so any sampling must be exact.
    epochs = [(100, 4, 30.0, 9.0, 8, 0.1), (10, 10, 90.0, 4.0, 80, 0.4), (50, 2, 50.0, 25.0, 16, 0.01)]
    position = SpectralPosition()
    for steps, samples, condition, trace, batch_size, lr in epochs:
        for _ in range(samples):
            position.add(condition, trace, batch_size, lr, steps // samples)
    total = sum(steps for steps, *_ in epochs)
    assert position.c_bar == pytest.approx(sum(e[0] * e[2] for e in epochs) / total)
    assert position.l_cum == pytest.approx(sum(e[0] * e[5] / e[4] * math.sqrt(e[3]) for e in epochs))
    assert position.steps == total


def test_carry_holds_the_last_sample() -> None:
    held, direct = SpectralPosition(), SpectralPosition()
    held.add(5.0, 4.0, 16, 0.1, 10)
    held.carry(20, 0.05)
    direct.add(5.0, 4.0, 16, 0.1, 10)
    direct.add(5.0, 4.0, 16, 0.05, 20)
    assert held.c_bar == direct.c_bar
    assert held.l_cum == pytest.approx(direct.l_cum)
    assert (held.steps, held.samples, direct.samples) == (30, 1, 2)


def test_a_further_sample_lays_a_geometric_line_over_the_held_steps() -> None:
    # c doubles and sqrt(trace) halves over ten unsampled steps between two samples.
    position = SpectralPosition()
    position.add(4.0, 64.0**2, 16, 0.1, 1)
    for index in range(10):
        position.carry(1, 0.1 * (index + 1))
    held = position.l_cum
    position.add(8.0, 32.0**2, 16, 0.5, 1)
    shares = (np.arange(10) + 0.5) / 10
    conditions, energies = 4.0 * 2.0**shares, 64.0 / 16 * 0.5**shares
    rates = 0.1 * np.arange(1, 11)
    assert position.c_bar == pytest.approx((4.0 + conditions.sum() + 8.0) / 12)
    assert position.l_cum == pytest.approx(0.1 * 4.0 + (rates * energies).sum() + 0.5 * 2.0)
    assert position.l_cum < held + 1.0
    assert (position.steps, position.samples) == (12, 2)


def test_steps_held_at_another_batch_size_stay_as_they_are() -> None:
    position = SpectralPosition()
    position.add(4.0, 64.0, 16, 0.1, 1)
    position.carry(10, 0.1)
    before = position.l_cum
    position.add(100.0, 1.0, 64, 0.1, 1)
    assert position.l_cum == pytest.approx(before + 0.1 / 64)


def test_an_energy_of_zero_is_held() -> None:
    position = SpectralPosition()
    position.add(4.0, 64.0, 16, 0.1, 1)
    position.carry(10, 0.1)
    before = position.l_cum
    position.add(4.0, 0.0, 16, 0.1, 1)
    assert position.l_cum == pytest.approx(before)


def test_before_the_first_sample() -> None:
    position = SpectralPosition()
    position.carry(10, 0.1)
    assert math.isnan(position.c_bar)
    assert (position.l_cum, position.steps, position.samples) == (0.0, 0, 0)


def test_state_round_trip_continues_bit_identically() -> None:
    one, other = SpectralPosition(), SpectralPosition()
    other.load_state_dict(one.state_dict())
    assert math.isnan(other.c_bar)
    one.add(3.3, 0.7, 8, 0.1, 7)
    one.carry(3, 0.3)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    for position in (one, other):
        position.carry(4, 0.2)
        position.add(1.1, 0.1, 64, 0.05, 11)
    assert one.state_dict() == other.state_dict()
    assert (one.c_bar, one.l_cum) == (other.c_bar, other.l_cum)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2"),
        ({"steps": None}, "'steps'"),
        ({"held": None}, "'held'"),
        ({"held": [[3]]}, "'held'"),
        ({"held": [[0, 0.1]]}, "'held'"),
        ({"held": [[10**6, 0.1]]}, "'held'"),
        ({"steps": 1.5}, "'steps'"),
        ({"samples": True}, "'samples'"),
        ({"steps": 0}, "does not fit"),
        ({"samples": 8}, "does not fit"),
        ({"l_cum": math.nan}, "'l_cum'"),
        ({"l_cum": -1.0}, "'l_cum'"),
        ({"weighted_condition": "3"}, "'weighted_condition'"),
        ({"last_condition": math.nan}, "last_condition"),
    ],
)
def test_damaged_states_are_refused_and_change_nothing(change: dict[str, object], message: str) -> None:
    position = SpectralPosition()
    position.add(3.0, 1.0, 8, 0.1, 7)
    before = position.state_dict()
    with pytest.raises(AutoBatchError, match=message):
        position.load_state_dict({**before, **change})
    assert position.state_dict() == before


@pytest.mark.parametrize(
    "change",
    [
        {"condition_number": math.nan},
        {"condition_number": 0.5},
        {"trace": -1.0},
        {"trace": math.inf},
        {"batch_size": 0},
        {"lr": math.nan},
        {"lr": -0.1},
        {"steps": 0},
    ],
)
def test_impossible_samples_are_refused_and_add_nothing(change: dict[str, float]) -> None:
    position = SpectralPosition()
    with pytest.raises(ValueError, match=next(iter(change))):
        position.add(**{"condition_number": 2.0, "trace": 1.0, "batch_size": 8, "lr": 0.1, "steps": 5, **change})  # type: ignore[arg-type]
    assert position.samples == 0

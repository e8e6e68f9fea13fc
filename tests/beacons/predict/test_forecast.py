"""Forecasts against runs that are simulated step by step from the same law."""

import math

import numpy as np
import pytest

from autobatch._errors import ConfigError
from autobatch.beacons import BeaconLibrary, Standing, forecast, forecast_stages
from tests.beacons.synthetic import Law, make_beacon, make_info, make_library

LAW = Law()
ORIGIN = Standing(0.0, math.nan, 0.0, 0)


@pytest.fixture(scope="module")
def exact():
    """A library without seed noise, from which a run of the law can be forecast exactly."""
    return make_library(noise=0.0, seeds=(0,))


def step_by_step(stages):
    """C̄ and L of a run over all its steps, one at a time, by their definitions (paper, eqs 7 and 8)."""
    conditions, energies = [], []
    for epoch, (batch_size, lr) in enumerate(stages):
        middle = (epoch + 0.5) / LAW.epochs
        for _ in range(math.ceil(LAW.train_size / batch_size)):
            conditions.append(LAW.c_rate(batch_size, lr, middle))
            energies.append(LAW.l_rate(batch_size, lr, middle))
    return math.fsum(conditions) / len(conditions), math.fsum(energies), len(conditions)


def test_from_the_start_it_is_the_beacon_itself():
    library = make_library()
    for size, lr in library.configurations:
        end, beacon = forecast(library, ORIGIN, size, lr), library.at(size, lr, 1.0)
        assert end.c_bar == pytest.approx(beacon.c_bar, rel=1e-12)
        assert end.l_cum == pytest.approx(beacon.l_cum, rel=1e-12)
        assert end.steps == end.steps_left == pytest.approx(beacon.steps, rel=1e-12)


@pytest.mark.parametrize("epoch", [1, 7, 10, 19])
@pytest.mark.parametrize(("first", "second"), [((16, 0.1), (128, 0.4)), ((512, 0.025), (8, 0.4)), ((32, 0.2),) * 2])
def test_switching_run_ends_where_it_was_forecast(exact, epoch, first, second):
    now = LAW.journey([first] * epoch)[-1]
    end = forecast(exact, now, *second)
    c_bar, l_cum, steps = step_by_step([first] * epoch + [second] * (LAW.epochs - epoch))
    assert end.c_bar == pytest.approx(c_bar, rel=1e-10)
    assert end.l_cum == pytest.approx(l_cum, rel=1e-10)
    assert end.steps == pytest.approx(steps, rel=1e-10)
    assert end.steps_left == pytest.approx(steps - now.steps, rel=1e-10)


def test_switch_within_an_epoch_keeps_the_totals(exact):
    now = exact.at(16, 0.1, 0.33)
    end = forecast(exact, now, 16, 0.1)
    assert end.c_bar == pytest.approx(exact.at(16, 0.1, 1.0).c_bar, rel=1e-12)
    assert end.l_cum == pytest.approx(exact.at(16, 0.1, 1.0).l_cum, rel=1e-12)


def test_stages_follow_the_simulated_journey(exact):
    sizes = [32, 32, 64, 64, 128]
    places = forecast_stages(exact, [((index + 1) / 5, size, 0.1) for index, size in enumerate(sizes)])
    journey = LAW.journey([(size, 0.1) for size in sizes for _ in range(4)])
    for place, truth in zip(places, journey[3::4], strict=True):
        assert place.progress == pytest.approx(truth.progress)
        assert place.c_bar == pytest.approx(truth.c_bar, rel=1e-10)
        assert place.l_cum == pytest.approx(truth.l_cum, rel=1e-10)
        assert place.steps == pytest.approx(truth.steps, rel=1e-10)
    assert forecast_stages(exact, []) == ()


@pytest.mark.parametrize(("size", "lr"), [(48, 0.1), (32, 0.15), (100, 0.3)])
def test_configuration_that_was_not_recorded_is_interpolated(exact, size, lr):
    now = LAW.journey([(32, 0.1)] * 8)[-1]
    end = forecast(exact, now, size, lr)
    c_bar, l_cum, _ = step_by_step([(32, 0.1)] * 8 + [(size, lr)] * 12)
    assert end.steps_left == pytest.approx(12 * LAW.train_size / size)
    assert abs(math.log(end.c_bar / c_bar)) < 0.15
    assert abs(math.log(end.l_cum / l_cum)) < 0.15


def test_interpolation_lies_between_its_neighbours_and_meets_them(exact):
    neighbours = [forecast(exact, ORIGIN, size, lr) for size in (32, 64) for lr in (0.1, 0.2)]
    between = forecast(exact, ORIGIN, 45, 0.14)
    for name in ("c_bar", "l_cum"):
        values = [getattr(place, name) for place in neighbours]
        assert min(values) < getattr(between, name) < max(values)
    almost = forecast(exact, ORIGIN, 32, 0.1 * (1 + 1e-9))
    assert almost.c_bar == pytest.approx(neighbours[0].c_bar, rel=1e-6)
    assert almost.l_cum == pytest.approx(neighbours[0].l_cum, rel=1e-6)


def test_at_the_end_nothing_is_left(exact):
    now = LAW.journey([(32, 0.1)] * LAW.epochs)[-1]
    end = forecast(exact, now, 64, 0.2)
    assert (end.c_bar, end.l_cum, end.steps, end.steps_left) == (pytest.approx(now.c_bar), now.l_cum, now.steps, 0.0)
    nothing = forecast(exact, ORIGIN, 64, 0.2, until=0.0)
    assert (nothing.l_cum, nothing.steps) == (0.0, 0.0)
    assert math.isnan(nothing.c_bar)


def test_run_without_a_position_has_no_forecast(exact):
    end = forecast(exact, Standing(0.5, math.nan, 0.0, 100), 64, 0.2)
    assert math.isnan(end.c_bar)
    assert end.steps_left == pytest.approx(exact.at(64, 0.2, 1.0).steps / 2)


def test_instantly_diverged_configuration_has_no_forecast_but_does_not_stop_the_run(exact):
    library = BeaconLibrary((*exact.beacons, make_beacon(8, 0.8, 0, diverged_after=1)), make_info())
    end = forecast(library, ORIGIN, 8, 0.8)
    assert math.isnan(end.c_bar)
    assert math.isnan(end.l_cum)
    assert end.steps_left == pytest.approx(LAW.epochs * LAW.train_size / 8)
    near = forecast(library, ORIGIN, 8, 0.7)
    assert near.c_bar > 0.0
    alone = BeaconLibrary((make_beacon(8, 0.8, 0, diverged_after=1),), make_info())
    assert math.isnan(forecast(alone, ORIGIN, 8, 0.7).c_bar)


def test_seed_noise_moves_a_forecast_by_as_much_only():
    noisy, exact = make_library(noise=0.05), make_library(noise=0.0, seeds=(0,))
    now = LAW.journey([(16, 0.1)] * 5)[-1]
    for configuration in noisy.configurations:
        one, other = forecast(noisy, now, *configuration), forecast(exact, now, *configuration)
        assert abs(np.log(one.c_bar / other.c_bar)) < 0.15
        assert abs(np.log(one.l_cum / other.l_cum)) < 0.15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0.1, 1.0), "positive batch size"),
        ((8, 0.0, 1.0), "positive batch size and learning rate"),
        ((8, math.nan, 1.0), "positive batch size and learning rate"),
        ((8, 0.1, 0.2), "'until' between"),
        ((8, 0.1, 1.2), "'until' between"),
    ],
)
def test_wrong_arguments_are_named(exact, arguments, message):
    with pytest.raises(ConfigError, match=message):
        forecast(exact, Standing(0.5, 100.0, 1.0, 100), *arguments)

"""Moves on the ladders, and the scale that rewards are made of."""

import math

import numpy as np
import pytest

from autobatch.beacons import BeaconLibrary
from autobatch.policies import BATCH_MOVES, RATE_MOVES, Moves, Quality
from autobatch.policies._moves import decode
from tests.beacons.synthetic import Law, make_beacon, make_info, make_library

MOVES = Moves((8, 16, 32, 64), (0.05, 0.1, 0.2))
NAN = float("nan")


@pytest.mark.parametrize(
    ("sizes", "rates", "start"),
    [((8, 16, 32, 64), (0.05, 0.1, 0.2), (1, 1)), ((8, 16, 32), (0.05, 0.1), (1, 0)), ((8,), (0.1,), (0, 0))],
)
def test_the_start_is_the_middle_the_lower_of_two(sizes, rates, start) -> None:
    moves = Moves(sizes, rates)
    assert moves.start == start
    assert moves.at(*moves.start) == (sizes[start[0]], rates[start[1]])
    assert moves.rungs(0, NAN) == start


@pytest.mark.parametrize(
    ("size", "lr", "rungs"),
    [(8, 0.2, (0, 2)), (23, 0.1, (2, 1)), (22, 0.0, (1, 1)), (10**6, 1e-9, (3, 0)), (1, NAN, (0, 1)), (0, 5.0, (1, 2))],
)
def test_rungs_are_the_nearest_in_logarithms(size, lr, rungs) -> None:
    assert MOVES.rungs(size, lr) == rungs


def test_moves_go_no_further_than_the_ladders() -> None:
    for batch in range(4):
        for rate in range(3):
            for up in BATCH_MOVES:
                for faster in RATE_MOVES:
                    after = MOVES.apply(batch, rate, up, faster)
                    assert after == (min(max(batch + up, 0), 3), min(max(rate + faster, 0), 2))
    many = MOVES.apply([0, 1, 3], [0, 1, 2], [-2, 2, 1], [1, -1, 1])
    assert [own.tolist() for own in many] == [[0, 3, 3], [1, 0, 2]]
    assert {own.dtype for own in many} == {np.dtype(np.int64)}


def test_actions_mean_what_the_tables_say() -> None:
    assert (BATCH_MOVES, RATE_MOVES) == ((-2, -1, 0, 1, 2), (-1, 0, 1))
    pairs = np.stack(np.meshgrid(range(5), range(3), indexing="ij"), axis=-1)
    batch, rate = decode("multidiscrete", pairs)
    assert batch.tolist() == [[-2] * 3, [-1] * 3, [0] * 3, [1] * 3, [2] * 3]
    assert rate.tolist() == [[-1, 0, 1]] * 5
    batch, rate = decode("discrete", np.arange(9))
    assert list(zip(batch.tolist(), rate.tolist(), strict=True)) == [(b, r) for b in (-1, 0, 1) for r in (-1, 0, 1)]
    assert [int(own) for own in decode("discrete", 4)] == [0, 0]
    assert [int(own) for own in decode("multidiscrete", [4, 0])] == [2, -1]


# Quality -------------------------------------------------------------------------------------------------------------


def test_quality_of_a_loss_goes_by_its_logarithm() -> None:
    quality = Quality("validation_loss", 2.0, 0.02)
    assert [quality(2.0), quality(0.02), quality(0.2)] == pytest.approx([0.0, 1.0, 0.5])
    assert isinstance(quality(2.0), float)


def test_quality_of_an_error_goes_by_itself() -> None:
    quality = Quality("validation_error", 0.9, 0.1)
    assert [quality(0.9), quality(0.1), quality(0.5), quality(0.0)] == pytest.approx([0.0, 1.0, 0.5, 1.125])


@pytest.mark.parametrize("quality", [Quality("validation_loss", 2.0, 0.02), Quality("validation_error", 0.9, 0.1)])
def test_quality_is_bounded_and_the_worst_where_nothing_is_known(quality) -> None:
    figures = np.array([[NAN, math.inf, -math.inf], [1e300, 0.0, -5.0]])
    found = quality(figures)
    assert found.shape == (2, 3)
    assert found[0].tolist() == [-1.0] * 3
    assert found[1, 0] == -1.0
    assert ((found >= -1.0) & (found <= 1.5)).all()
    falling = quality(np.linspace(3.0, 0.0, 200))
    assert (np.diff(falling) >= 0.0).all()


def test_the_best_fixed_beacon_has_quality_one() -> None:
    library = make_library(seeds=(0, 1))
    quality = Quality.of(library)
    assert quality(library.best_fixed().mean["validation_loss"]) == pytest.approx(1.0)
    assert quality(math.log(10)) == pytest.approx(0.0)


def test_beacons_no_better_than_guessing_still_have_a_scale() -> None:
    library = BeaconLibrary((make_beacon(8, 0.1, 0, Law(least_loss=50.0)),), make_info())
    best = library.best_fixed().mean["validation_loss"]
    assert best > library.diverged_score
    quality = Quality.of(library)
    assert quality(best) == pytest.approx(1.0)
    assert -1.0 <= quality(3.0 * best) < 0.0


def test_without_beacons_a_fiftieth_of_guessing_has_quality_one() -> None:
    for score, guessing in (("validation_loss", math.log(10)), ("validation_error", 0.9)):
        quality = Quality.of_classes(score, 10)
        assert (quality(guessing), quality(guessing / 50)) == pytest.approx((0.0, 1.0))

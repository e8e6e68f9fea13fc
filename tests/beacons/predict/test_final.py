"""Predictions of the end against laws whose end is known, and their quality against brute force."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from autobatch import AutoBatchError
from autobatch.beacons import (
    BeaconLibrary,
    Landscape,
    Standing,
    forecast,
    predict_final,
    prediction_quality,
    quality_table,
    read_places,
)
from autobatch.beacons.predict._quality import attainable_level, width
from tests.beacons.synthetic import Law, make_beacon, make_info, make_library

SIZES = (8, 32, 128, 512)
RATES = (0.025, 0.05, 0.1, 0.2)
LAW = Law()


@pytest.fixture(scope="module")
def exact():
    """A library without noise: every run of a configuration is the law itself."""
    return make_library(SIZES, RATES, (0, 1), noise=0.0)


@pytest.fixture(scope="module")
def noisy():
    """A library whose runs differ by 15 %."""
    return make_library(SIZES, RATES, (0, 1), noise=0.15)


def true_loss(batch_size, lr):
    end = LAW.journey([(batch_size, lr)] * LAW.epochs)[-1]
    return LAW.loss(end.c_bar, end.l_cum)


def test_without_noise_score_and_rank_of_recorded_configurations_are_exact(exact):
    losses = sorted(true_loss(size, lr) for size in SIZES for lr in RATES)
    for size, lr in ((8, 0.2), (32, 0.05), (128, 0.1), (512, 0.025)):
        prediction = predict_final(exact, exact.at(size, lr, 0.1), size, lr)
        assert prediction.recorded
        assert prediction.score == pytest.approx(true_loss(size, lr), rel=1e-3)
        assert prediction.rank == 1 + losses.index(true_loss(size, lr))
        assert prediction.configurations == 16
        assert prediction.rank_interval[0] <= prediction.rank <= prediction.rank_interval[1]
        assert prediction.known
        assert prediction.known_end


@pytest.mark.parametrize(("size", "lr"), [(64, 0.07), (24, 0.1), (200, 0.04)])
@pytest.mark.parametrize("progress", [0.05, 0.33])
def test_a_configuration_that_was_never_recorded_is_predicted_from_its_position(exact, size, lr, progress):
    place = next(place for place in LAW.journey([(size, lr)] * LAW.epochs) if place.progress >= progress)
    prediction = predict_final(exact, place, size, lr)
    assert not prediction.recorded
    assert prediction.calibrated_by == "configuration"
    assert prediction.configurations == 17
    assert prediction.score == pytest.approx(true_loss(size, lr), rel=0.1)
    assert prediction.interval[0] <= true_loss(size, lr) <= prediction.interval[1]
    actual = 1 + sum(true_loss(*other) < true_loss(size, lr) for other in exact.configurations)
    assert prediction.rank_interval[0] <= actual <= prediction.rank_interval[1]


def test_intervals_hold_for_runs_of_configurations_that_no_beacon_has(noisy):
    inside = []
    for size in (12, 24, 48, 96, 192, 384):
        for lr in (0.035, 0.07, 0.14):
            run = make_beacon(size, lr, seed=90, noise=0.15)
            place = BeaconLibrary((run,), noisy.info).at(size, lr, 0.1)
            low, high = predict_final(noisy, place, size, lr, level=0.8).interval
            inside.append(low <= run.final("validation_loss") <= high)
    assert 0.65 <= np.mean(inside) <= 1.0  # 18 runs at 80 %: two standard errors are 19 points


def test_best_are_the_best_recorded_with_what_is_predicted_for_them(exact):
    prediction = predict_final(exact, exact.at(512, 0.025, 0.1), 512, 0.025)
    ordered = sorted(exact.configurations, key=lambda own: true_loss(*own))
    assert [(one.batch_size, one.lr) for one in prediction.best] == ordered[:3]
    for one in prediction.best:
        assert one.score == pytest.approx(true_loss(one.batch_size, one.lr), rel=1e-6)
        assert one.fresh == pytest.approx(one.score, rel=1e-3)
        assert one.spread == pytest.approx(0.0, abs=1e-12)
        end = forecast(exact, exact.at(512, 0.025, 0.1), one.batch_size, one.lr)
        assert one.switched == pytest.approx(LAW.loss(end.c_bar, end.l_cum), rel=0.05)


def test_quality_is_what_refitting_by_hand_gives():
    library = make_library(SIZES, RATES, (0,), noise=0.15)
    predicted, actual, early = [], [], []
    for size, lr in library.configurations:
        others = BeaconLibrary(tuple(b for b in library.beacons if (b.batch_size, b.lr) != (size, lr)), library.info)
        place = library.at(size, lr, 0.1)
        end = forecast(others, place, size, lr)
        now = Landscape.fit(others, 0.1).predict(place.c_bar, place.l_cum)
        then = Landscape.fit(others).predict(end.c_bar, end.l_cum)
        predicted.append(math.sqrt(float(now.score) * float(then.score)))
        (beacon,) = library.beacons_at(size, lr)
        actual.append(beacon.final("validation_loss"))
        early.append(beacon.rows["validation_loss"][1])
    quality = prediction_quality(library, 0.1)
    assert quality.rank_correlation == pytest.approx(spearmanr(predicted, actual).statistic)
    assert quality.early_rank_correlation == pytest.approx(spearmanr(early, actual).statistic)
    assert quality.regret == pytest.approx(actual[int(np.argmin(predicted))] - min(actual))
    assert quality.error == pytest.approx(np.sqrt(np.mean(np.log(np.divide(predicted, actual)) ** 2)))
    assert (quality.configurations, quality.runs, quality.held_out) == (16, 16, "configuration")


def test_quality_is_perfect_where_seeds_are_alike_and_known(exact):
    quality = prediction_quality(exact, 0.1, held_out="seed")
    assert quality.rank_correlation == pytest.approx(1.0)
    assert quality.regret == pytest.approx(0.0, abs=1e-9)
    assert quality.error < 1e-3


def test_the_width_is_the_conformal_quantile():
    errors = np.random.default_rng(0).exponential(size=19)
    for level in (0.5, 0.8, 0.9, 0.95):
        rank = math.ceil(20 * level - 1e-9)
        assert width(errors, np.arange(19), level) == np.sort(errors)[rank - 1]
    assert width(errors, np.arange(19), 0.99) == errors.max()
    assert width(np.repeat(errors, 3), np.repeat(np.arange(19), 3), 0.9) == np.sort(errors)[17]
    assert attainable_level(19, 0.99) == 0.95
    assert attainable_level(19, 0.9) == 0.9


def test_the_level_says_what_few_configurations_can_vouch_for():
    library = make_library((8, 64, 512), (0.05, 0.2), (0,), noise=0.05)
    prediction = predict_final(library, library.at(64, 0.05, 0.5), 64, 0.05)
    assert prediction.level == pytest.approx(6 / 7)
    assert prediction.seed_quality is None
    assert prediction.calibrated_by == "configuration"


def test_within_the_first_epoch_the_quality_is_that_of_its_end(noisy):
    quality = prediction_quality(noisy, 0.01)
    end = prediction_quality(noisy, 0.05)
    assert quality.measured_at == pytest.approx(0.05)
    assert replace(quality, progress=0.05) == end
    prediction = predict_final(noisy, noisy.at(32, 0.1, 0.02), 32, 0.1)
    assert prediction.within_first_epoch
    assert not predict_final(noisy, noisy.at(32, 0.1, 0.05), 32, 0.1).within_first_epoch


def test_the_table_has_1_2_5_and_10_percent(noisy):
    table = quality_table(noisy)
    assert [one.progress for one in table] == [0.01, 0.02, 0.05, 0.1]
    assert table[3] == prediction_quality(noisy, 0.1)


def test_diverged_configurations_rank_last_and_are_not_judged():
    diverged = {(512, 0.2, 0), (512, 0.2, 1)}
    library = make_library(SIZES, RATES, (0, 1), noise=0.02, diverged=diverged)
    prediction = predict_final(library, library.at(8, 0.025, 0.2), 8, 0.025)
    assert prediction.configurations == 16
    assert prediction.rank_interval[1] <= 15
    assert prediction.quality.configurations == 15
    assert (512, 0.2) not in [(one.batch_size, one.lr) for one in prediction.best]


def test_other_figures_are_predicted_where_every_beacon_has_them(exact):
    place = exact.at(32, 0.05, 0.1)
    (beacon, _) = exact.beacons_at(32, 0.05)
    prediction = predict_final(exact, place, 32, 0.05)
    assert prediction.figures.keys() == {"validation_error", "test_error"}
    for figure, value in prediction.figures.items():
        assert value == pytest.approx(beacon.final(figure), rel=0.05)
    library = make_library(SIZES, RATES, (0,), noise=0.0, score="validation_error")
    prediction = predict_final(library, place, 32, 0.05)
    assert prediction.figure == "validation_error"
    assert prediction.score == pytest.approx(beacon.final("validation_error"), rel=0.05)
    assert 0.0 <= prediction.interval[0] <= prediction.interval[1] <= 1.0
    assert prediction.figures.keys() == {"validation_loss", "test_error"}


def test_a_prediction_is_the_same_every_time(noisy):
    place = noisy.at(32, 0.05, 0.1)
    again = BeaconLibrary(noisy.beacons[::-1], noisy.info)  # another object, which no cache knows
    assert predict_final(noisy, place, 32, 0.05) == predict_final(again, place, 32, 0.05)


def test_far_away_is_said_to_be_unknown(noisy):
    prediction = predict_final(noisy, Standing(0.5, 1e6, 1e-3, 100.0), 32, 0.05)
    assert not prediction.known


@pytest.mark.parametrize(
    ("place", "batch_size", "lr", "level", "phrase"),
    [
        (Standing(0.0, 10.0, 1.0, 5.0), 32, 0.1, 0.9, "progress in"),
        (Standing(1.2, 10.0, 1.0, 5.0), 32, 0.1, 0.9, "progress in"),
        (Standing(0.1, math.nan, 1.0, 5.0), 32, 0.1, 0.9, "measured position"),
        (Standing(0.1, 10.0, 0.0, 5.0), 32, 0.1, 0.9, "measured position"),
        (Standing(0.1, 10.0, 1.0, 5.0), 0, 0.1, 0.9, "positive batch size"),
        (Standing(0.1, 10.0, 1.0, 5.0), 32, math.nan, 0.9, "positive batch size"),
        (Standing(0.1, 10.0, 1.0, 5.0), 32, 0.1, 1.0, "between 0 and 1"),
        (Standing(0.1, 10.0, 1.0, 5.0), 32, 0.1, math.nan, "between 0 and 1"),
    ],
)
def test_what_makes_no_sense_is_refused(noisy, place, batch_size, lr, level, phrase):
    with pytest.raises(AutoBatchError, match=phrase):
        predict_final(noisy, place, batch_size, lr, level=level)


def test_too_small_a_library_is_refused():
    library = make_library((8, 64), (0.1,), (0, 1))
    with pytest.raises(AutoBatchError, match="three configurations that finished"):
        predict_final(library, library.at(8, 0.1, 0.5), 8, 0.1)
    with pytest.raises(AutoBatchError, match="'seed', got 'epoch'"):
        prediction_quality(library, 0.5, held_out="epoch")
    with pytest.raises(AutoBatchError, match="progress"):
        prediction_quality(library, 0.0)


def test_a_library_without_class_count_can_be_predicted_from():
    info = make_info(task={"dataset": {"name": "own"}})
    library = replace(make_library(SIZES, RATES, (0,), diverged={(512, 0.2, 0)}), info=info)
    assert math.isfinite(predict_final(library, library.at(8, 0.1, 0.5), 8, 0.1).score)


ROW = {"epoch": 1, "progress": 0.1, "batch_size": 32, "lr": 0.1, "c_bar": 20.0, "l_cum": 2.0, "steps": 30}


def test_places_are_read_from_any_epochs_file(tmp_path):
    rows = [ROW | {"c_bar": None, "extra": {"a": 1}}, ROW | {"epoch": 2, "progress": 0.2, "validation_loss": 0.5}]
    file = tmp_path / "epochs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"epoch": 3, "prog')
    first, second = read_places(tmp_path)
    assert (first.measured, second.measured, second.at_end) == (False, True, False)
    assert (second.epoch, second.batch_size, second.steps, second.validation_loss) == (2, 32, 30, 0.5)
    assert math.isnan(second.validation_error)
    assert read_places(file)[1] == second


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({"lr": "high"}, "'lr' must be a number"),
        ({"lr": 0}, "'lr' must be positive"),
        ({"batch_size": 2.5}, "'batch_size' must be a whole number"),
        ({"steps": None}, "'steps' must be a number"),
        ({"progress": 3.0}, r"'progress' must lie in \(0, 1\]"),
        ({"epoch": True}, "'epoch' must be a number"),
        ({"c_bar": [1]}, "'c_bar' must be a number or null"),
        ({"epoch": 10**400}, "too large"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, change, phrase):
    (tmp_path / "epochs.jsonl").write_text(json.dumps(ROW | change) + "\n")
    with pytest.raises(AutoBatchError, match=f"epochs.jsonl, line 1: .*{phrase}"):
        read_places(tmp_path)


@pytest.mark.parametrize(
    ("content", "phrase"),
    [
        ("[1]\n", "line 1: expected a JSON object"),
        ("\x00{\n", "line 1: expected a JSON object"),
        ('{"epoch": 1}\n', "line 1: no key 'progress', 'batch_size'"),
        (json.dumps(ROW) + "\n" + json.dumps(ROW) + "\n", "line 2: key 'progress' must rise"),
        ("", "no epoch is finished yet"),
    ],
)
def test_a_file_without_places_is_refused(tmp_path, content, phrase):
    (tmp_path / "epochs.jsonl").write_text(content)
    with pytest.raises(AutoBatchError, match=phrase):
        read_places(tmp_path)


def test_no_run_is_refused(tmp_path):
    with pytest.raises(AutoBatchError, match="holds no run"):
        read_places(tmp_path / "nothing")

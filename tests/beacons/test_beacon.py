"""A beacon refuses what no run can produce, and names the column."""

import numpy as np
import pytest

from autobatch._errors import LibraryError
from autobatch.beacons import Beacon, BeaconLibrary, Landscape, compact, write_beacon
from tests.beacons.synthetic import make_beacon, make_info, make_library


def changed(column, values, **ending):
    beacon = make_beacon(32, 0.1, 0)
    rows = dict(beacon.rows)
    rows[column] = values(rows[column].copy())
    facts = {"test_error": 0.1, "test_loss": 0.5} | ending
    return Beacon(32, 0.1, 0, rows, **facts)


def put(index, value):
    def apply(values):
        values[index] = value
        return values

    return apply


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("progress", put(3, 0.9), "'progress' must rise"),
        ("progress", put(-1, 0.97), "must end at progress 1"),
        ("progress", put(-1, 1.2), "'progress' must rise from above 0 to at most 1"),
        ("progress", put(0, 0.0), "'progress' must rise from above 0"),
        ("epoch", put(4, 4), "'epoch' must count 1, 2, ..."),
        ("c_bar", put(2, np.nan), "'c_bar' must be finite"),
        ("c_bar", put(2, 0.0), "'c_bar' must be positive"),
        ("l_cum", put(2, 1e9), "'l_cum' must never fall"),
        ("l_cum", put(0, -1.0), "'l_cum' must not be negative"),
        ("steps", put(0, 10**9), "'steps' must never fall"),
        ("seconds", put(5, np.inf), "'seconds' must be finite"),
        ("validation_error", put(1, 1.5), r"'validation_error' must lie in \[0, 1\]"),
        ("validation_loss", put(1, np.inf), "'validation_loss' must be finite"),
        ("train_loss", put(-1, -np.inf), "'train_loss' must be finite"),
        ("examples", lambda values: values.astype(np.float64), "'examples' must be one row of int64, got float64"),
        ("samples", lambda values: values[:-1], "one value an epoch"),
        ("lr_effective", lambda values: values[:, None], "'lr_effective' must be one row"),
    ],
)
def test_column_is_checked(column, values, message):
    with pytest.raises(LibraryError, match=f"beacon b32-lr0.1-s0: .*{message}"):
        changed(column, values)


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ({"test_error": 1.5}, "'test_error' must lie in"),
        ({"test_loss": float("inf")}, "'test_loss' must be finite"),
        ({"stopped_because": ""}, "'stopped_because' must say"),
    ],
)
def test_ending_is_checked(ending, message):
    with pytest.raises(LibraryError, match=message):
        changed("epoch", lambda values: values, **ending)


@pytest.mark.parametrize(("batch_size", "lr", "named"), [(0, 0.1, "batch_size"), (8, 0.0, "lr"), (8, np.nan, "lr")])
def test_configuration_is_checked(batch_size, lr, named):
    rows = make_beacon(32, 0.1, 0).rows
    with pytest.raises(LibraryError, match=f"'{named}' must be"):
        Beacon(batch_size, lr, 0, rows, 0.1, 0.1)


def test_missing_column_is_named():
    rows = {name: values for name, values in make_beacon(32, 0.1, 0).rows.items() if name != "l_cum"}
    with pytest.raises(LibraryError, match="column 'l_cum' is missing"):
        Beacon(32, 0.1, 0, rows, 0.1, 0.1)
    with pytest.raises(LibraryError, match="no column 'epoch'"):
        Beacon.from_records(32, 0.1, 0, [{}], test_error=0.1, test_loss=0.1)
    with pytest.raises(LibraryError, match="column 'epoch' must be int64"):
        Beacon.from_records(32, 0.1, 0, [{"epoch": "one"}], test_error=0.1, test_loss=0.1)


def unknown(*columns, rows=slice(None)):
    beacon = make_beacon(32, 0.1, 0)
    changed = {name: values.copy() for name, values in beacon.rows.items()}
    for column in columns:
        changed[column][rows] = np.nan
    return Beacon(32, 0.1, 0, changed, np.nan, np.nan)


def test_figures_that_a_loop_does_not_know_are_nan():
    beacon = unknown("train_loss", "validation_error")
    assert beacon.finished
    assert np.isnan(beacon.final("validation_error"))
    assert np.isnan(beacon.test_error)
    assert np.isfinite(beacon.final("validation_loss"))
    assert np.isnan(unknown("validation_loss", rows=slice(3)).rows["validation_loss"]).sum() == 3
    for rows in (slice(None), slice(-1, None)):
        with pytest.raises(LibraryError, match="must end with a validation loss or error"):
            unknown("validation_loss", "validation_error", rows=rows)


def test_a_library_needs_its_score_and_nothing_else(tmp_path):
    beacon = unknown("validation_loss", "train_loss")
    with pytest.raises(LibraryError, match=r"b32-lr0.1-s0: column 'validation_loss' must be finite in the last row"):
        BeaconLibrary((beacon,), make_info())
    with pytest.raises(LibraryError, match="'validation_loss' must be finite in the last row"):
        write_beacon(tmp_path, beacon, make_info())
    assert not list(tmp_path.rglob("*.parquet"))
    write_beacon(tmp_path, beacon, make_info(score="validation_error"))
    compact(tmp_path)
    library = BeaconLibrary.load(tmp_path)
    (read,) = library.beacons
    for column, values in beacon.rows.items():
        np.testing.assert_array_equal(read.rows[column], values)
    assert np.isnan(read.test_loss)
    (result,) = library.results()
    assert np.isnan([result.mean["validation_loss"], result.mean["test_error"]]).all()
    assert library.best_fixed().mean["validation_error"] == beacon.final("validation_error")


def test_a_mean_over_seeds_is_over_all_of_them():
    known = make_beacon(32, 0.1, 1)
    beacons = (Beacon(32, 0.1, 0, make_beacon(32, 0.1, 0).rows, np.nan, np.nan), known)
    (result,) = BeaconLibrary(beacons, make_info()).results()
    assert np.isnan([result.mean["test_error"], result.std["test_error"]]).all()
    assert np.isfinite([result.mean["validation_loss"], result.std["validation_loss"]]).all()


@pytest.mark.parametrize("score", ["validation_loss", "validation_error"])
@pytest.mark.parametrize("rule", ["nearest", "gaussian-process"])
def test_without_classes_a_diverged_beacon_is_worse_than_the_worst(score, rule):
    library = make_library(
        (8, 32, 128), (0.1, 0.2), (0, 1), diverged=[(128, 0.2, 0), (128, 0.2, 1)], task={}, score=score
    )
    finals = [beacon.final(score) for beacon in library.beacons if beacon.finished]
    assert library.diverged_score >= (2 * max(finals) if score == "validation_loss" else (max(finals) + 1) / 2)
    landscape = Landscape.fit(library, rule=rule)
    assert landscape.points.score[-1] == library.diverged_score
    place = 10**landscape.points.plane
    scores = landscape.predict(place[:, 0], place[:, 1]).score
    assert np.argmax(scores) == len(scores) - 1
    with pytest.raises(LibraryError, match="takes num_classes="):
        _ = BeaconLibrary(library.beacons_at(128, 0.2), library.info).diverged_score


def test_with_classes_a_diverged_beacon_guesses():
    assert make_library((8,)).diverged_score == pytest.approx(np.log(10))


def test_diverged_beacon_may_end_in_nan_but_not_in_broken_counters():
    beacon = make_beacon(32, 0.1, 0, diverged_after=3)
    assert not beacon.finished
    assert np.isnan(beacon.final("validation_loss"))
    with pytest.raises(LibraryError, match="'steps' must never fall"):
        Beacon(32, 0.1, 0, {**beacon.rows, "steps": beacon.rows["steps"][::-1]}, np.nan, np.nan, "diverged")


def test_rows_are_read_only_copies():
    source = {name: values.copy() for name, values in make_beacon(32, 0.1, 0).rows.items()}
    beacon = Beacon(32, 0.1, 0, source, 0.1, 0.1)
    source["c_bar"][0] = 1e9
    assert beacon.rows["c_bar"][0] != 1e9
    with pytest.raises(ValueError, match="read-only"):
        beacon.rows["c_bar"][0] = 1.0


def test_names_are_exact():
    names = {make_beacon(32, lr, 0).name for lr in (0.1, 0.1 + 1e-12, 1e-5, 0.1000001)}
    assert len(names) == 4
    assert make_beacon(32, 0.1, 7).name == "b32-lr0.1-s7"

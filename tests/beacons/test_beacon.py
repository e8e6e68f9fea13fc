"""A beacon refuses what no run can produce, and names the column."""

import numpy as np
import pytest

from autobatch._errors import LibraryError
from autobatch.beacons import Beacon
from tests.beacons.synthetic import make_beacon


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
        ("validation_loss", put(1, np.nan), "'validation_loss' must be finite"),
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
        ({"test_loss": float("nan")}, "'test_loss' must be finite"),
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

"""Branch runs on disk: what is stored comes back, and whatever else a file holds is refused by name."""

import random
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autobatch._errors import LibraryError, OutputError
from autobatch.beacons import (
    BeaconKey,
    BeaconLibrary,
    Branches,
    Journey,
    compact_branches,
    holds_branches,
    recorded_origins,
    write_branches,
)
from autobatch.beacons.storage import _branches as storage
from autobatch.beacons.storage import _parts
from tests.beacons.storage.test_damaged import mutated
from tests.beacons.synthetic import Law, make_info, make_library

LAW = Law(epochs=8)
TRUNK = BeaconKey(32, 0.1, 1000)


def records(course, first=1):
    """Rows of a training that uses ``course[e]`` in epoch e, from epoch ``first`` on."""
    rows = []
    for epoch, place in enumerate(LAW.journey(course), start=1):
        batch_size, lr = course[epoch - 1]
        loss = LAW.loss(place.c_bar, place.l_cum)
        rows.append({
            "epoch": epoch,
            "progress": place.progress,
            "batch_size": batch_size,
            "lr": lr,
            "lr_effective": lr,
            "c_bar": place.c_bar,
            "l_cum": place.l_cum,
            "steps": int(place.steps),
            "samples": 4 * epoch,
            "examples": LAW.train_size * epoch,
            "train_loss": loss,
            "validation_loss": loss,
            "validation_error": 0.5,
            "seconds": 0.5 * epoch,
            "measuring_seconds": 0.05 * epoch,
        })
    return rows[first - 1 :]


def make_branch(target=(64, 0.2), at=2, trunk=TRUNK, length=2):
    course = [tuple(trunk[:2])] * at + [target] * length
    return Journey.from_records("branch", trunk.seed, records(course, first=at))


def make_journey(seed=1035):
    return Journey.from_records("journey", seed, records([(8, 0.1)] * 3 + [(16, 0.2)] * 4 + [(64, 0.2)]))


def make_diverged():
    rows = records([(32, 0.1), (512, 0.4)])
    rows[-1] |= {"c_bar": float("nan"), "train_loss": float("inf"), "validation_loss": float("nan")}
    return Journey.from_records("branch", TRUNK.seed, rows, "diverged: the training loss became inf")


def told(branches):
    """Everything that branch runs say, comparable; NaN equals NaN."""
    return [
        (one.kind, one.seed, one.stopped_because, {name: repr(values.tolist()) for name, values in one.rows.items()})
        for one in branches
    ]


@pytest.fixture
def branches():
    return Branches((make_journey(), make_branch(at=4), make_diverged(), make_branch()), make_info(costs=None))


def test_what_is_saved_is_loaded_ordered_and_small(branches, tmp_path):
    file = branches.save(tmp_path)
    assert file == tmp_path / "branches.parquet"
    for loaded in (Branches.load(tmp_path), Branches.load(file)):
        assert told(loaded.journeys) == told(branches.journeys)
        assert loaded.info == branches.info
        assert [journey.name for journey in loaded.journeys] == [
            "branch of b32-lr0.1-s1000 at epoch 1",
            "branch of b32-lr0.1-s1000 at epoch 2",
            "branch of b32-lr0.1-s1000 at epoch 4",
            "journey b8-lr0.1-s1035",
        ]
    stored = pq.ParquetFile(file)
    assert stored.schema_arrow.names == [column.name for column in storage.COLUMNS]
    assert stored.metadata.row_group(0).column(0).compression == "ZSTD"
    assert stored.read().column("branch").to_pylist() == [0] * 2 + [1] * 3 + [2] * 3 + [3] * 8
    with pytest.raises(ValueError, match="read-only"):
        branches.journeys[0].rows["lr"][0] = 1.0


def test_parts_are_gathered_and_newer_ones_count(tmp_path, monkeypatch):
    other = BeaconKey(8, 0.1, 1001)
    info = make_info(costs=None)
    for origin, journeys in ((TRUNK, [make_branch(), make_branch(at=4)]), (other, [make_branch(trunk=other)])):
        file = write_branches(tmp_path, origin, journeys, info)
        assert file == tmp_path / "branches" / f"{origin.name}.parquet"
    loaded = told(Branches.load(tmp_path).journeys)
    assert recorded_origins(tmp_path) == {TRUNK, other}

    with monkeypatch.context() as patch:  # killed after the renaming, before the parts are removed
        patch.setattr(_parts, "remove_part", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            compact_branches(tmp_path)
    assert told(Branches.load(tmp_path).journeys) == loaded
    assert told(Branches.load(compact_branches(tmp_path)).journeys) == loaded
    assert not list((tmp_path / "branches").iterdir())

    write_branches(tmp_path, TRUNK, [make_branch(at=5)], info)
    later = Branches.load(tmp_path).journeys
    assert [int(journey.rows["epoch"][0]) for journey in later] == [2, 5]
    compact_branches(tmp_path)
    assert told(Branches.load(tmp_path).journeys) == told(later)


def test_branch_runs_of_runs_join_those_that_are_there(branches, tmp_path, monkeypatch):
    env, run = tmp_path / "env", tmp_path / "run"
    for place, journeys in ((env, branches.journeys[:2]), (run, [make_branch(target=(8, 0.1)), branches.journeys[1]])):
        place.mkdir()
        Branches(tuple(journeys), make_info(costs=None)).save(place)
    make_library().save(env)
    write_branches(env, BeaconKey(8, 0.1, 1001), [make_branch(trunk=BeaconKey(8, 0.1, 1001))], make_info(costs=None))
    before = (env / "branches.parquet").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("autobatch._files.os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            compact_branches(env, [run])
    assert (env / "branches.parquet").read_bytes() == before
    once = compact_branches(env, [run]).read_bytes()
    assert [(one.origin.seed, int(one.rows["batch_size"][-1])) for one in Branches.load(env).journeys] == [
        (1001, 64), (1000, 512), (1000, 64), (1000, 8)
    ]  # fmt: skip
    assert compact_branches(env, [run, run]).read_bytes() == once

    Branches((make_branch(),), make_info(costs=None, task={"dataset": "other"})).save(run)
    with pytest.raises(LibraryError, match=r"env and .*run do not belong to one library: 'task.dataset'"):
        compact_branches(env, [run])
    (env / "branches.parquet").unlink()  # the beacons are asked too
    with pytest.raises(LibraryError, match=r"env and .*run do not belong to one library: 'task.dataset'"):
        compact_branches(env, [run])
    with pytest.raises(LibraryError, match="bare: no beacons are recorded here"):
        compact_branches(tmp_path / "bare", [run])
    assert sorted(path.name for path in env.iterdir()) == ["beacons.parquet", "branches"]


def test_files_that_do_not_go_together_are_refused(tmp_path):
    write_branches(tmp_path, TRUNK, [make_branch()], make_info())
    copy = tmp_path / "branches" / "copy.parquet"
    copy.write_bytes((tmp_path / "branches" / f"{TRUNK.name}.parquet").read_bytes())
    with pytest.raises(LibraryError, match=r"copy\.parquet: branch runs of b32-lr0.1-s1000 are also in .*s1000\."):
        Branches.load(tmp_path)
    copy.unlink()
    other = BeaconKey(8, 0.1, 1001)
    write_branches(tmp_path, other, [make_branch(trunk=other)], make_info(sampling_interval=7))
    with pytest.raises(LibraryError, match="'sampling_interval' is 50 and 7"):
        recorded_origins(tmp_path)
    with pytest.raises(LibraryError, match=r"branch of b32-lr0.1-s1000 .* does not belong to b8-lr0.1-s1001"):
        write_branches(tmp_path, other, [make_branch()], make_info())
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file/branches"):
        write_branches(tmp_path / "file", TRUNK, [make_branch()], make_info())


def test_where_there_is_nothing_the_command_is_named(tmp_path):
    place = tmp_path / "digits-mlp"
    for missing in (place, place / "branches.parquet"):
        with pytest.raises(
            LibraryError, match=r"has no branch runs; record them with 'autobatch beacons branch --env d"
        ):
            Branches.load(missing)
    with pytest.raises(LibraryError, match="has no branch runs"):
        compact_branches(place)
    assert not holds_branches(place)
    assert recorded_origins(place) == frozenset()
    with pytest.raises(LibraryError, match="no branch runs"):
        Branches((), make_info())


def rewritten(file, change, metadata=()):
    table = pq.read_table(file)
    columns = change(dict(zip(table.column_names, table.columns, strict=True)))
    kept = {**table.schema.metadata, **dict(metadata)}
    pq.write_table(
        pa.table(columns).replace_schema_metadata({key: value for key, value in kept.items() if value}), file
    )
    return file


@pytest.mark.parametrize(
    ("change", "metadata", "complaint"),
    [
        (lambda c: c, {b"autobatch:branches": b"2"}, "format version '2' and this autobatch reads version 1"),
        (lambda c: c, {b"autobatch:branches": b""}, "holds no branch runs"),
        (lambda c: c, {b"autobatch:task": b"{"}, "'autobatch:task' is not JSON"),
        (lambda c: {n: v for n, v in c.items() if n != "lr"}, {}, "column 'lr' is missing"),
        (lambda c: c | {"steps": c["steps"].cast("float64")}, {}, "column 'steps' must be int64, got double"),
        (lambda c: c | {"seed": pa.array([1000, None] + [1000] * 14)}, {}, "column 'seed' has no value in 1 rows"),
        (lambda c: c | {"seed": pa.array(range(16))}, {}, "branch 0: column 'seed' must be the same in all its rows"),
        (lambda c: c | {"kind": pa.array(["twig"] * 16)}, {}, "must be 'branch' or 'journey', got 'twig'"),
        (lambda c: c | {"branch": pa.array([0] * 16)}, {}, "branch 0: column 'kind' must be the same in all its rows"),
    ],
)
def test_foreign_and_damaged_columns_are_named(branches, tmp_path, change, metadata, complaint):
    file = rewritten(branches.save(tmp_path), change, metadata)
    with pytest.raises(LibraryError) as caught:
        Branches.load(tmp_path)
    assert str(caught.value).startswith(f"{file}: ")
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("column", "values", "complaint"),
    [
        ("epoch", [2, 3, 3], "must count 2, 3, ... once each, got 2, 3, 3"),
        ("epoch", [0, 1, 2], "must count 1, 2, ... once each, got 0, 1, 2"),
        ("progress", [0.25, 0.25, 0.5], "must rise from above 0 to at most 1"),
        ("progress", [0.25, 0.5, 1.5], "must rise from above 0 to at most 1"),
        ("batch_size", [32, 0, 64], "must be at least 1, got 32, 0, 64"),
        ("lr", [0.1, 0.2, float("nan")], "must be positive and finite"),
        ("l_cum", [1.0, 2.0, 1.5], "must never fall, got 1, 2, 1.5"),
        ("seconds", [1.0, 0.5, 1.5], "must never fall"),
        ("c_bar", [1.0, float("nan"), 1.0], "must be finite"),
        ("c_bar", [1.0, 0.0, 1.0], "must be positive"),
        ("examples", [-1, 1, 2], "must not be negative"),
        ("validation_error", [0.1, 1.1, 0.1], "must lie in [0, 1]"),
        ("validation_loss", [0.1, float("inf"), 0.1], "must be finite"),
        ("steps", [1.0, 2.0, 3.0], "must be one row of int64, got float64"),
        ("lr", [0.1, 0.2], "every column must have one value a row"),
    ],
)
def test_what_no_training_produces_is_named(column, values, complaint):
    rows = dict(make_branch().rows) | {column: np.array(values)}
    with pytest.raises(LibraryError) as caught:
        Journey("branch", 1000, rows)
    assert f"'{column}'" in str(caught.value)
    assert complaint in str(caught.value)


def test_only_the_last_epoch_of_a_divergence_may_be_unsound():
    diverged = make_diverged()
    rows = dict(diverged.rows) | {"c_bar": np.array([np.nan, np.nan])}
    with pytest.raises(LibraryError, match="before it diverged: column 'c_bar' must be finite"):
        replace(diverged, rows=rows)
    with pytest.raises(LibraryError, match="column 'c_bar' must be finite"):
        replace(diverged, stopped_because="finished")
    with pytest.raises(LibraryError, match="'stopped_because' must say"):
        replace(diverged, stopped_because="")
    with pytest.raises(LibraryError, match="at least one epoch after it"):
        make_branch(length=0)
    with pytest.raises(LibraryError, match="a row has no column 'lr'"):
        Journey.from_records("branch", 0, [*records([(8, 0.1)]), {"epoch": 2, "progress": 0.5, "batch_size": 8}])


def test_beacons_and_branch_runs_are_not_mistaken_for_each_other(branches, tmp_path):
    library = make_library(batch_sizes=(8,), lrs=(0.1,), seeds=(0,))
    with pytest.raises(LibraryError, match="column 'branch' is missing"):
        Branches.load(library.save(tmp_path))
    with pytest.raises(LibraryError, match="column 'test_error' is missing"):
        BeaconLibrary.load(branches.save(tmp_path))


def test_mutated_files_give_the_truth_or_a_library_error(branches, tmp_path):
    file = branches.save(tmp_path)
    content, truth = file.read_bytes(), told(branches.journeys)
    refusals = []
    for number in range(150):
        file.write_bytes(mutated(content, random.Random(number)))
        try:
            assert told(Branches.load(file).journeys) == truth
        except LibraryError as error:
            refusals.append(str(error))
    assert len(refusals) > 110
    assert all(str(file) in refusal for refusal in refusals)

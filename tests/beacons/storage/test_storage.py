"""Beacons on disk: round trip, several writers, and death at every moment of a compaction."""

import cProfile
import pstats
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from autobatch._errors import LibraryError, OutputError
from autobatch.beacons import BeaconKey, BeaconLibrary, compact, recorded_keys, write_beacon
from autobatch.beacons.storage import _parts as storage
from tests.beacons.synthetic import make_beacon, make_info, make_library
from tests.processes import FORKED

ROOT = Path(__file__).parents[3]
GRID = [(size, lr, seed) for size in (8, 16) for lr in (0.1, 0.2) for seed in (0, 1)]


def assert_same_beacons(left, right):
    assert [beacon.key for beacon in left] == [beacon.key for beacon in right]
    for one, other in zip(left, right, strict=True):
        assert one.stopped_because == other.stopped_because
        np.testing.assert_equal((one.test_error, one.test_loss), (other.test_error, other.test_loss))
        for column, values in one.rows.items():
            assert values.dtype == other.rows[column].dtype
            np.testing.assert_array_equal(values, other.rows[column])


def write_grid(env_dir):
    beacons = [make_beacon(*key) for key in GRID]
    for beacon in beacons:
        write_beacon(env_dir, beacon, make_info())
    return beacons


def test_round_trip_is_exact(tmp_path):
    library = make_library(batch_sizes=(8, 64), diverged={(8, 0.4, 1)})
    file = library.save(tmp_path)
    assert file == tmp_path / "beacons.parquet"
    for path in (tmp_path, file, str(file)):
        loaded = BeaconLibrary.load(path)
        assert_same_beacons(loaded.beacons, library.beacons)
        assert loaded.info == library.info


def test_hidden_files_beside_the_parts_are_passed_over(tmp_path):
    """File systems and archivers put them there, and pyarrow's own datasets pass over them as well."""
    beacons = write_grid(tmp_path)
    for name in ("._b8-lr0.1-s0.parquet", ".tmp.parquet", "_metadata.parquet"):
        (tmp_path / "beacons" / name).write_bytes(b"\0\5\x16\7")
    assert_same_beacons(BeaconLibrary.load(tmp_path).beacons, beacons)
    assert recorded_keys(tmp_path) == {beacon.key for beacon in beacons}
    compact(tmp_path)
    assert_same_beacons(BeaconLibrary.load(tmp_path).beacons, beacons)


def test_pandas_reads_it_as_it_is(tmp_path):
    pandas = pytest.importorskip("pandas")
    library = make_library(batch_sizes=(8, 64), seeds=(0,))
    table = pandas.read_parquet(library.save(tmp_path))
    assert len(table) == sum(len(beacon.rows["epoch"]) for beacon in library.beacons)
    last = table[table["progress"] == 1.0].set_index(["batch_size", "lr"])
    for beacon in library.beacons:
        assert last.loc[(beacon.batch_size, beacon.lr), "c_bar"] == beacon.final("c_bar")
    assert set(table["stopped_because"]) == {"finished"}


def test_every_column_has_its_unit_and_the_file_its_provenance(tmp_path):
    schema = pq.read_schema(make_library(batch_sizes=(8,)).save(tmp_path))
    units = {field.name: field.metadata[b"unit"].decode() for field in schema}
    assert units["seconds"] == "s"
    assert units["steps"] == "steps"
    assert units["train_loss"] == "nats"
    assert all(field.metadata[b"meaning"] for field in schema)
    facts = {"format", "task", "task_name", "score", "bn", "sampling_interval", "versions", "commands", "costs"}
    assert {f"autobatch:{fact}".encode() for fact in facts} <= schema.metadata.keys()


def test_single_files_and_compacted_file_hold_the_same(tmp_path):
    beacons = write_grid(tmp_path)
    assert (tmp_path / "beacons" / "b16-lr0.2-s1.parquet").is_file()
    before = BeaconLibrary.load(tmp_path)
    assert_same_beacons(before.beacons, sorted(beacons, key=lambda beacon: beacon.key))
    assert compact(tmp_path) == tmp_path / "beacons.parquet"
    assert list((tmp_path / "beacons").iterdir()) == []
    after = BeaconLibrary.load(tmp_path)
    assert_same_beacons(after.beacons, before.beacons)
    assert after.info == before.info
    compact(tmp_path)
    assert_same_beacons(BeaconLibrary.load(tmp_path).beacons, before.beacons)


def test_gathering_does_as_much_for_each_part_however_many_there_are(tmp_path):
    calls = []
    for count in (10, 20, 40):
        for seed in range(count):
            write_beacon(tmp_path / str(count), make_beacon(8, 0.1, seed), make_info())
        profile = cProfile.Profile()
        profile.runcall(compact, tmp_path / str(count))
        calls.append(pstats.Stats(profile).total_calls)
    assert calls[2] - calls[1] < 2.05 * (calls[1] - calls[0])


def test_later_beacons_join_and_replace_compacted_ones(tmp_path):
    write_grid(tmp_path)
    compact(tmp_path)
    write_beacon(tmp_path, make_beacon(32, 0.1, 0), make_info())
    write_beacon(tmp_path, make_beacon(8, 0.1, 0, noise=0.5), make_info())
    for _ in range(2):
        library = BeaconLibrary.load(tmp_path)
        assert len(library.beacons) == len(GRID) + 1
        again = make_beacon(8, 0.1, 0, noise=0.5)
        assert library.beacons_at(8, 0.1)[0].final("c_bar") == again.final("c_bar")
        compact(tmp_path)


def test_death_between_rename_and_removal_loses_and_doubles_nothing(tmp_path, monkeypatch):
    beacons = sorted(write_grid(tmp_path), key=lambda beacon: beacon.key)
    removed = []

    def die_after_three(path):
        if len(removed) == 3:
            raise KeyboardInterrupt
        removed.append(path)
        path.unlink()

    with monkeypatch.context() as patch:
        patch.setattr(storage, "remove_part", die_after_three)
        with pytest.raises(KeyboardInterrupt):
            compact(tmp_path)
    assert len(list((tmp_path / "beacons").glob("*.parquet"))) == len(GRID) - 3
    assert_same_beacons(BeaconLibrary.load(tmp_path).beacons, beacons)
    compact(tmp_path)
    assert_same_beacons(BeaconLibrary.load(tmp_path).beacons, beacons)


def test_death_while_writing_leaves_what_was_there(tmp_path, monkeypatch):
    beacons = sorted(write_grid(tmp_path), key=lambda beacon: beacon.key)

    def die(descriptor):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", die)
        with pytest.raises(KeyboardInterrupt):
            compact(tmp_path)
        with pytest.raises(KeyboardInterrupt):
            write_beacon(tmp_path, make_beacon(8, 0.1, 0, noise=0.5), make_info())
    # kill -9 leaves its temporary file behind; readers must not take it for a beacon.
    (tmp_path / "beacons" / ".b8-lr0.1-s0.parquet.123.tmp").write_bytes(b"half")
    assert_same_beacons(BeaconLibrary.load(tmp_path).beacons, beacons)


def test_beacon_recorded_again_during_compaction_stays(tmp_path, monkeypatch):
    write_grid(tmp_path)
    newer = make_beacon(8, 0.1, 0, noise=0.5)
    save = storage.Parts.save

    def save_then_record(parts, file, *arguments):
        save(parts, file, *arguments)
        if file.name == "beacons.parquet":
            write_beacon(tmp_path, newer, make_info())

    monkeypatch.setattr(storage.Parts, "save", save_then_record)
    compact(tmp_path)
    assert [path.stem for path in (tmp_path / "beacons").glob("*.parquet")] == [newer.name]
    assert BeaconLibrary.load(tmp_path).beacons_at(8, 0.1)[0].final("c_bar") == newer.final("c_bar")


def test_file_compacted_while_being_listed_is_not_missed(tmp_path, monkeypatch):
    beacons = sorted(write_grid(tmp_path), key=lambda beacon: beacon.key)
    read = storage.Parts._found
    first = []

    def read_as_another_compacts(parts, path):
        if not first:
            first.append(path)
            compact(tmp_path)
        return read(parts, path)

    monkeypatch.setattr(storage.Parts, "_found", read_as_another_compacts)
    assert_same_beacons(BeaconLibrary.load(tmp_path).beacons, beacons)


def _record(env_dir, seed):
    for size in (8, 16, 32):
        write_beacon(env_dir, make_beacon(size, 0.1, seed), make_info())


def test_recorders_and_compactions_side_by_side(tmp_path):
    write_beacon(tmp_path, make_beacon(64, 0.1, 0), make_info())
    workers = [FORKED.Process(target=_record, args=(tmp_path, seed)) for seed in range(3)]
    workers += [FORKED.Process(target=compact, args=(tmp_path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * len(workers)
    wanted = {BeaconKey(size, 0.1, seed) for size in (8, 16, 32) for seed in range(3)} | {BeaconKey(64, 0.1, 0)}
    assert recorded_keys(tmp_path) == wanted


_ENDLESS = """
import sys
from pathlib import Path
from autobatch.beacons import compact, write_beacon
from tests.beacons.synthetic import make_beacon, make_info
for seed in range(10**6):
    print(write_beacon(Path(sys.argv[1]), make_beacon(8, 0.1, seed), make_info()).stem, flush=True)
    if seed % 3 == 2:
        compact(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("lines", [1, 8, 20])
def test_kill_9_loses_no_finished_beacon(tmp_path, lines):
    command = [sys.executable, "-c", _ENDLESS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as recorder:
        finished = [recorder.stdout.readline().strip() for _ in range(lines)]
        recorder.kill()
        finished += recorder.stdout.read().split()
    found = {beacon.name for beacon in BeaconLibrary.load(tmp_path).beacons}
    assert set(finished) <= found
    assert len(found) <= len(finished) + 1
    compact(tmp_path)
    assert {beacon.name for beacon in BeaconLibrary.load(tmp_path).beacons} == found


def test_recorded_keys(tmp_path):
    assert recorded_keys(tmp_path / "nowhere") == frozenset()
    write_beacon(tmp_path, make_beacon(8, 0.1, 0), make_info())
    compact(tmp_path)
    write_beacon(tmp_path, make_beacon(8, 0.1, 1, diverged_after=2), make_info())
    assert recorded_keys(tmp_path) == {BeaconKey(8, 0.1, 0), BeaconKey(8, 0.1, 1)}


def test_a_task_file_of_another_name_is_named(tmp_path):
    (tmp_path / "waves.yaml").write_text("name: waves\n")
    with pytest.raises(LibraryError, match=r"autobatch beacons record --env \S+/waves.yaml'"):
        BeaconLibrary.load(tmp_path)


def test_nothing_recorded_says_how(tmp_path):
    env = tmp_path / "digits-resnet8"
    for path in (env, env / "beacons.parquet"):
        with pytest.raises(LibraryError, match="autobatch beacons record --env digits-resnet8"):
            BeaconLibrary.load(path)
    with pytest.raises(LibraryError, match="autobatch beacons record --env digits-resnet8"):
        compact(env)
    env.mkdir()
    for act in (BeaconLibrary.load, compact):
        with pytest.raises(LibraryError, match="autobatch beacons record --env digits-resnet8"):
            act(env)
    with pytest.raises(LibraryError, match="at least one beacon"):
        BeaconLibrary((), make_info())


def test_same_beacon_in_two_single_files_is_refused(tmp_path):
    part = write_beacon(tmp_path, make_beacon(8, 0.1, 0), make_info())
    part.with_name("copy.parquet").write_bytes(part.read_bytes())
    with pytest.raises(LibraryError, match=r"copy.parquet: beacon b8-lr0.1-s0 is stored twice"):
        BeaconLibrary.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": {"model": {"name": "law", "depth": 8}, "num_classes": 10}}, "'task.model.depth' is absent and 8"),
        ({"bn": "eval"}, '\'bn\' is "rows" and "eval"'),
        ({"score": "validation_error"}, "'score'"),
        ({"sampling_interval": 10}, "'sampling_interval' is 50 and 10"),
    ],
)
def test_mixed_tasks_are_refused(tmp_path, changes, message):
    write_beacon(tmp_path, make_beacon(8, 0.1, 0), make_info())
    write_beacon(tmp_path, make_beacon(8, 0.1, 1), make_info(**changes))
    for act in (BeaconLibrary.load, compact):
        with pytest.raises(LibraryError, match=f"do not belong to one library.*{message}"):
            act(tmp_path)
    assert len(list((tmp_path / "beacons").iterdir())) == 2


def test_provenance_of_all_files_is_kept(tmp_path):
    info = make_info(commands=("first",), costs=None)
    write_beacon(tmp_path, make_beacon(8, 0.1, 0), info)
    compact(tmp_path)
    later = replace(make_info(), commands=("second",), versions={"autobatch": "0.2.0", "torch": "2.9.0"})
    write_beacon(tmp_path, make_beacon(8, 0.1, 1), later)
    merged = BeaconLibrary.load(tmp_path).info
    assert merged.commands == ("first", "second")
    assert merged.versions == {"autobatch": "0.1.0, 0.2.0", "torch": "2.9.0"}
    assert merged.costs == later.costs


def test_unwritable_place_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_beacon(tmp_path / "file", make_beacon(8, 0.1, 0), make_info())
    with pytest.raises(OutputError, match="cannot be written"):
        make_library(batch_sizes=(8,)).save(tmp_path / "file" / "beacons.parquet")

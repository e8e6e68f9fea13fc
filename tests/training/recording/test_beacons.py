"""Recording a grid of beacons: each is a fixed run, whatever interrupts it."""

from pathlib import Path

import pytest

from autobatch._errors import ConfigError, LibraryError
from autobatch._files import alone_in
from autobatch.beacons import BeaconKey, BeaconLibrary, CostTable
from autobatch.cells import Cell, CellEnd
from autobatch.training import (
    RecordingObserver,
    load_data,
    load_epochs,
    record_task_beacons,
    run,
)
from autobatch.training._recorded import recording_info
from autobatch.training.recording._beacons import BeaconMaker, BeaconRecorder
from autobatch.training.recording._cells import ELSEWHERE, Ledger
from tests.training.recording.watcher import Watcher
from tests.training.tiny import COSTS, fixed, tiny_config, tiny_task


@pytest.fixture
def quick_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    def calibrate(*_: object, **__: object) -> CostTable:
        return COSTS

    monkeypatch.setattr("autobatch.training.recording._beacons.calibrate", calibrate)


@pytest.mark.usefixtures("quick_calibration")
def test_a_grid_is_recorded_across_an_interruption(tmp_path: Path) -> None:
    task, env = tiny_task(), tmp_path / "env"
    watcher = Watcher(interrupt_at=2)
    with pytest.raises(KeyboardInterrupt):
        record_task_beacons(task, env, batch_sizes=(16, 32), learning_rates=(0.1,), jobs=1, observer=watcher)
    assert list(watcher.finished) == ["b32-lr0.1-s0", "b32-lr0.1-s1"]  # the longest first, measuring included
    # A beacon that was under way, and what an older recording of another task has left of the next one.
    for seed, epochs in ((0, 4), (1, 3)):
        config = tiny_config(fixed(16), tiny_task(epochs=epochs), seed=seed, recording=True, costs=None)
        out = env / "beacons" / ".running" / f"b16-lr0.1-s{seed}"
        run(config, out)
        (out / "summary.json").unlink()
    watcher = Watcher()
    result = record_task_beacons(
        task, env, batch_sizes=(16, 32), learning_rates=(0.1,), jobs=1, command="how", observer=watcher
    )
    assert (result.recorded, result.found, result.failed) == (2, 2, {})
    assert list(watcher.finished) == ["b16-lr0.1-s0", "b16-lr0.1-s1"]
    assert (watcher.progress[0].done, watcher.progress[-1].done, watcher.progress[-1].total) == (2, 4, 4)
    assert watcher.progress[-1].seconds_left == 0.0
    assert not [path for path in (env / "beacons").iterdir() if path.suffix != ".parquet"]

    library = BeaconLibrary.load(env)
    data = load_data(task)
    library.check_task(task.fingerprint_payload(data.fingerprint, data.num_classes))
    assert (library.costs, library.info.commands, library.info.sampling_interval) == (COSTS, ("how",), 50)
    assert [beacon.key for beacon in library.beacons] == [BeaconKey(b, 0.1, s) for b in (16, 32) for s in (0, 1)]
    for beacon in library.beacons:
        config = tiny_config(fixed(beacon.batch_size), seed=beacon.seed, recording=True, costs=None)
        summary = run(config, tmp_path / beacon.name)
        rows = load_epochs(tmp_path / beacon.name)
        for column in ("c_bar", "l_cum", "steps", "samples", "train_loss", "validation_loss", "lr_effective"):
            assert beacon.rows[column].tolist() == [getattr(row, column) for row in rows], column
        assert (beacon.test_error, beacon.test_loss) == (summary.test_error, summary.test_loss)


def test_what_another_recorder_has_finished_is_not_trained_again(tmp_path: Path) -> None:
    key, task = BeaconKey(16, 0.1, 0), tiny_task()
    data = load_data(task)
    recorder = BeaconRecorder(task, recording_info(task, data, COSTS, ""), BeaconMaker(tmp_path, "cpu"), data)
    cell = Cell(key.name, 1.0, key._asdict())
    assert recorder(cell, lambda _: None).stopped_because == "finished"
    (before,) = (tmp_path / "beacons").glob("*.parquet")
    stamp = before.stat().st_mtime_ns
    left = tmp_path / "beacons" / ".running" / key.name  # by one that was killed once the file was written
    left.mkdir(parents=True)
    assert recorder(cell, lambda _: pytest.fail("trained again")) == ELSEWHERE
    assert not left.exists()
    assert before.stat().st_mtime_ns == stamp


@pytest.mark.usefixtures("quick_calibration")
def test_what_another_process_is_recording_is_left_to_it(tmp_path: Path) -> None:
    task = tiny_task(batch_sizes=[8, 16], learning_rates=[0.1], seeds=[0])
    taken = tmp_path / "beacons" / ".running" / "b8-lr0.1-s0"
    taken.mkdir(parents=True)
    with alone_in(taken):
        result = record_task_beacons(task, tmp_path)
    assert (result.recorded, result.found, result.elsewhere, result.failed) == (1, 0, 1, {})
    assert [beacon.batch_size for beacon in BeaconLibrary.load(tmp_path).beacons] == [16]
    result = record_task_beacons(task, tmp_path)
    assert (result.recorded, result.found, result.elsewhere, result.failed) == (1, 1, 0, {})


@pytest.mark.usefixtures("quick_calibration")
def test_failures_and_divergence_are_told_apart(tmp_path: Path) -> None:
    task = tiny_task(batch_sizes=[8, 16], learning_rates=[0.1, 1e6], seeds=[0])
    blocked = tmp_path / "beacons" / ".running" / "b8-lr0.1-s0"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where a directory should be")
    watcher = Watcher()
    result = record_task_beacons(task, tmp_path, batch_sizes=(8,), observer=watcher)
    assert result.failed == watcher.failed
    assert "expected a directory" in result.failed["b8-lr0.1-s0"]
    (beacon,) = BeaconLibrary.load(tmp_path).beacons
    assert beacon.lr == 1e6
    assert beacon.stopped_because.startswith("diverged")
    with pytest.raises(LibraryError, match=r"'epochs' is 4 in the library and 3 here"):
        record_task_beacons(task.model_copy(update={"epochs": 3}), tmp_path)
    again = record_task_beacons(task, tmp_path, batch_sizes=(8,), learning_rates=(1e6,))
    assert (again.recorded, again.found) == (0, 1)


def test_impossible_grids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="jobs"):
        record_task_beacons(tiny_task(), tmp_path, jobs=-1)
    with pytest.raises(ConfigError, match="at most 84"):
        record_task_beacons(tiny_task(), tmp_path, batch_sizes=(128,))
    assert not list(tmp_path.iterdir())


def test_the_time_left_counts_what_the_model_says() -> None:
    fast, slow = Cell("b32-lr0.1-s0", 3.0), Cell("b8-lr0.1-s0", 12.0)
    ledger = Ledger([fast, slow], 0, RecordingObserver())
    assert ledger.waiting == [slow, fast]
    ledger.take(slow, "started")
    ledger.take(slow, "progress", 1 / 3)  # where it goes on
    assert ledger.progress().running == (slow.name,)
    ledger._clock = ledger._clock - 8.0 if ledger._clock is not None else None
    ledger.take(slow, "progress", 2 / 3)  # 4 modelled seconds in 8: everything takes twice as long
    assert ledger.progress().seconds_left == pytest.approx(2 * (4 + 3), rel=0.01)
    ledger.take(slow, "done", CellEnd("finished"))
    assert (ledger.progress().done, ledger.progress().running) == (1, ())

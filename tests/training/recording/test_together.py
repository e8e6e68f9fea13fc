"""Several processes that train one cell: the same training, ended and gone on with as one process is."""

import errno
import os
from pathlib import Path

import pytest

from autobatch._errors import ConfigError, OutputError
from autobatch.beacons import BeaconLibrary
from autobatch.cells import GivenBackError, find_cells, status_of
from autobatch.control.run import EpochRow, load_epochs
from autobatch.training import RunObserver, record_task_beacons, run
from autobatch.training.recording import _together as together
from autobatch.training.recording._together import run_together
from tests.training.tiny import COSTS, fixed, tiny_config, tiny_task

TOY = "tests.training.recording.rank_of_toys"


class Interrupted(RunObserver):
    def epoch_finished(self, row: EpochRow) -> None:
        if row.epoch == 2:
            raise KeyboardInterrupt


def test_two_processes_go_on_with_a_beacon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autobatch.training.recording._beacons.calibrate", lambda *_, **__: COSTS)
    env = tmp_path / "env"
    config = tiny_config(fixed(16), seed=0, recording=True, costs=None)
    with pytest.raises(KeyboardInterrupt):
        run(config, env / "beacons" / ".running" / "b16-lr0.1-s0", Interrupted())
    grid = {"batch_sizes": (16,), "learning_rates": (0.1,), "seeds": (0,)}
    result = record_task_beacons(tiny_task(), env, **grid, on="local:ranks=2", device="cpu")  # type: ignore[arg-type]
    assert (result.recorded, result.failed) == (1, {})
    library = BeaconLibrary.load(env)
    assert library.info.versions["device"].endswith(", 2 processes")
    assert library.costs is None
    run(config, tmp_path / "alone")
    rows = load_epochs(tmp_path / "alone")
    for column in ("c_bar", "l_cum", "steps", "samples", "train_loss", "validation_loss"):
        expected = [getattr(row, column) for row in rows]
        assert library.beacons[0].rows[column].tolist() == pytest.approx(expected, rel=1e-3), column


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="who is whose child is read from /proc")
def test_processes_end_with_whoever_started_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "_RANK", TOY)
    monkeypatch.setenv("TOY", "stays")
    group: set[int] = set()
    before = _children_of(os.getpid())  # other tests have left some

    def asked_to_stop(share: float) -> None:
        assert share == 0.5
        group.update({*_children_of(os.getpid())} - {*before})
        raise GivenBackError

    with pytest.raises(GivenBackError):
        run_together(tiny_config(), tmp_path, asked_to_stop, processes=2)
    assert group
    assert not [pid for pid in group if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("fails", OutputError, "the disk"),
        ("dies", ChildProcessError, "last words"),
    ],
)
def test_what_ends_a_process_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, error: type[Exception], message: str
) -> None:
    monkeypatch.setattr(together, "_RANK", TOY)
    monkeypatch.setenv("TOY", what)
    shares: list[float] = []
    with pytest.raises(error, match=message) as raised:
        run_together(tiny_config(), tmp_path, shares.append, processes=2)
    assert shares[0] == 0.5
    if what == "fails":
        cause = raised.value.__cause__
        assert isinstance(cause, OSError)
        assert cause.errno == errno.ENOSPC


@pytest.mark.parametrize("on", ["local:ranks=0", "ray:ranks=two", "slurm:ranks=1.5"])
def test_a_number_of_processes_that_is_none_is_refused(tmp_path: Path, on: str) -> None:
    with pytest.raises(ConfigError, match="ranks: expected how many processes train each cell, at least 1"):
        record_task_beacons(tiny_task(), tmp_path, on=on)


@pytest.mark.parametrize(
    ("changes", "processes", "message"),
    [
        (
            {"model": {"name": "resnet", "depth": 8}},
            2,
            "BatchNorm layers take their statistics over each",
        ),
        ({}, 3, "3 ranks x 1 accumulated parts need multiples of 3"),
    ],
)
def test_what_processes_cannot_train_together_is_refused_before_one_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], processes: int, message: str
) -> None:
    monkeypatch.setattr("autobatch.training.recording._beacons.calibrate", lambda *_, **__: COSTS)
    monkeypatch.setattr(together, "run_together", lambda *_, **__: pytest.fail("started"))
    with pytest.raises(ConfigError, match=message):
        record_task_beacons(tiny_task(**changes), tmp_path, on=f"local:ranks={processes}", device="cpu")
    assert status_of(find_cells(tmp_path)).failed == {}


def _children_of(pid: int) -> list[int]:
    """Return all that a process has started, and what these have."""
    own = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return own + [other for child in own for other in _children_of(child)]

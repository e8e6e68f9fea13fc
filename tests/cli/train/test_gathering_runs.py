"""What runs' scouts and forks trained joins the branch runs of a task, by ``autobatch beacons compact --runs``."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from autobatch.beacons import Branches
from autobatch.training import RunConfig, load_task, run
from tests.training.forker import in_place_of_any
from tests.training.tiny import COSTS, fixed, tiny_task


@pytest.fixture
def forked(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of ``tiny`` that forked."""
    in_place_of_any(monkeypatch)
    train(home / "runs" / "forked", load_task("tiny"))
    return home / "runs" / "forked"


def train(out: Path, task: Any, **settings: Any) -> None:
    run(RunConfig(task=task, policy=fixed(16, 0.1), device="cpu", costs=COSTS, **settings), out)


def test_forks_join_the_branch_runs_once(home: Path, forked: Path, call: Any) -> None:
    for folder, new in ((forked, 2), (home / "runs", 0)):
        code, out, _ = call("beacons", "compact", "tiny", "--runs", str(folder))
        assert code == 0
        assert f"branches.parquet: 2 branches and journeys, {new} of them new" in out
        assert "beacons.parquet: 12 beacons" in out
    found = Branches.load(home / "envs" / "tiny").journeys
    assert [one.rows["batch_size"].tolist() for one in found] == [[16, 16], [16, 32]]
    assert "2 branches and journeys\n" in call("beacons", "compact", "tiny")[1]


def test_what_cannot_be_gathered_is_said(home: Path, forked: Path, refused: Any) -> None:
    def said(runs: str) -> str:
        return str(refused("beacons", "compact", "tiny", "--runs", f"runs/{runs}"))

    (home / "runs" / "none").mkdir()
    assert "runs/none: expected a run directory or a folder of them, found no run" in said("none")
    assert "runs/follow: no scout and no fork that could be gathered: policy 'beacon-follow' made" in said("follow")
    train(home / "runs" / "unmeasured", load_task("tiny"), measure=False)
    assert "the run was not measured, and branch runs have C̄ and L" in said("unmeasured")
    beacons = (home / "envs" / "tiny" / "beacons.parquet").stat().st_mtime_ns
    train(home / "runs" / "other", tiny_task(dataset={**load_task("tiny").dataset.model_dump(), "split_seed": 1}))
    assert "do not belong to one library" in (other := said("other"))
    assert "'task.dataset.split_seed' is 0 and 1" in other
    assert "do not belong to one library" in said("")  # one of them is of another task
    shutil.copytree(forked, home / "runs" / "damaged")
    (home / "runs" / "damaged" / "branches.parquet").write_bytes(b"PAR1")
    assert "runs/damaged/branches.parquet: not a readable Parquet file" in said("damaged")
    assert not list((home / "envs" / "tiny").glob("branches*"))
    assert (home / "envs" / "tiny" / "beacons.parquet").stat().st_mtime_ns == beacons
    (home / "envs" / "tiny" / "beacons.parquet").unlink()
    assert "no beacons are recorded here" in said("forked")

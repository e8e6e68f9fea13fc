"""Cells put in by one command and trained by another."""

import json

import pytest

from autobatch.beacons import BeaconLibrary
from autobatch.cells import Cells, Identity


def test_cells_are_put_in_worked_at_and_gathered(home, call, refused):
    record = ["beacons", "record", "--env", "tiny", "--batch-sizes", "16,32", "--lrs", "0.1", "--seeds", "5-5"]
    code, out, _ = call(*record, "--device", "cpu", "--jobs", "0")
    assert code == 0
    assert "2 wait to be trained, 0 were there" in out
    folder = home / "envs" / "tiny"
    status = json.loads(call("cells", str(folder), "--json")[1])
    assert (status["total"], status["waiting"], status["done"]) == (2, 2, 0)

    cells = Cells(folder / "beacons")
    somebody = Identity(cells.workers, device="cuda:0")
    somebody.appear()
    cell, plan = next(iter(cells.cells().values()))
    cells.look()
    claim = cells.claim(cell, plan, somebody)
    somebody.beat(0.5)
    shown = call("cells", str(folder))[1]
    assert "0 of 2 done, 1 running, 1 waiting, 0 failed" in shown
    assert f"running  {cell.name}: 50 % on " in shown
    assert "(cuda:0)" in shown
    code, out, _ = call("worker", str(folder), "--device", "cpu")
    assert code == 0
    assert "nothing is left to take; 1 done and 0 failed here" in out
    cells.give_back(claim, 0.0, 1.0)
    code, out, _ = call("worker", str(folder / "beacons"), "--device", "cpu", "--time-limit", "3600")
    assert (code, out.splitlines()[0]) == (0, f"{cell.name}: finished")
    assert "all cells are done; 1 done" in out
    assert "holds no cells" in refused("worker", str(folder))
    assert "0 beacons recorded" in call(*record)[1]
    assert {beacon.seed for beacon in BeaconLibrary.load(folder).beacons_at(16, 0.1)} == {0, 1, 5}
    assert not (folder / "beacons" / ".cells").exists()


def test_cells_of_other_code_or_a_loop_of_ones_own_are_refused(home, call, refused, monkeypatch):
    record = ["beacons", "record", "--env", "tiny", "--batch-sizes", "16", "--lrs", "0.1", "--seeds", "5"]
    assert call(*record, "--device", "cpu", "--jobs", "0")[0] == 0
    monkeypatch.setattr("autobatch.training.recording._task.code_version", lambda: "another")
    said = refused("worker", "envs/tiny", "--device", "cpu")
    assert "holds unfinished cells whose 'code' is" in said
    assert "holds unfinished cells whose 'code' is" in refused(*record, "--device", "cpu")
    plans = home / "envs" / "tiny" / "beacons" / ".cells" / "plans"
    (plan,) = plans.iterdir()
    plan.write_text(plan.read_text().replace('"kind": "beacons"', '"kind": "beacons of mine.train"'))
    assert "worked at by the program that put them in" in refused("worker", "envs/tiny")
    plan.write_text("{")
    assert "damaged" in refused("cells", "envs/tiny")


@pytest.mark.parametrize(
    "arguments",
    [
        ["worker", "s3://bucket/tiny"],
        ["cells", "s3://bucket/tiny"],
        ["compare", "--policies", "steer", "--envs", "tiny", "--out", "s3://bucket/tiny"],
        ["beacons", "branch", "--env", "tiny", "--out=s3://bucket/tiny"],
    ],
)
def test_what_lies_on_a_file_system_is_not_named_by_a_url(home, refused, arguments):
    assert "expected a path, got the URL s3://bucket/tiny" in refused(*arguments)
    assert not (home / "s3:").exists()


def test_seeds_are_numbers_and_ranges(home, refused):
    said = refused("beacons", "record", "--env", "tiny", "--seeds", "3-1")
    assert "--seeds: expected whole numbers and ranges such as 0-2 or 0,5, got '3-1'" in said

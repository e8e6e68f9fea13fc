"""The listing of runs, on the command line and as a table."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

import autobatch
from autobatch._errors import LibraryError
from autobatch._files import alone_in
from autobatch.control.run import SUMMARY
from autobatch.report import RunFacts, runs_table


@pytest.fixture
def runs(home: Path) -> Path:
    """The finished run of ``home``, and copies of it in every other state."""
    folder = home / "runs"
    whole = json.loads((folder / "follow" / SUMMARY).read_text())
    for name, changes in (
        ("diverged", {"stopped_because": "diverged: the loss is nan"}),
        ("stopped", {"ended_early": "nothing more to gain", "epochs": 3}),
        ("deep/interrupted", None),
        ("damaged", None),
    ):
        shutil.copytree(folder / "follow", folder / name)
        (folder / name / SUMMARY).unlink()
        if changes is not None:
            (folder / name / SUMMARY).write_text(json.dumps(whole | changes))
    (folder / "damaged" / "epochs.jsonl").write_text("{}\n")
    shutil.copytree(folder / "follow", folder / "follow" / "scouts" / "s8-lr0.1")  # part of the run
    return folder


def test_scouts_of_a_run_without_its_configuration_are_no_runs(runs, call):
    (runs / "follow" / "scouts.json").write_text("{}")
    (runs / "follow" / "config.yaml").unlink()
    found = {run["run"]: run for run in json.loads(call("runs", "--json")[1])}
    assert len(found) == 5
    assert "config.yaml is missing" in found["runs/follow"]["stopped_because"]


def test_every_run_is_a_line_with_its_state_and_figures(runs, call):
    code, out, err = call("runs")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()[2:]]
    assert [(cells[0], cells[1]) for cells in lines if cells[1] == "tiny"] == [
        (f"runs/{name}", "tiny") for name in ("deep/interrupted", "diverged", "follow", "stopped")
    ]
    assert all(cells[2:4] == ["beacon-follow", "7"] for cells in lines if cells[1] == "tiny")
    states = {cells[0].removeprefix("runs/"): cells[4] for cells in lines}
    assert states == {
        name.rpartition("/")[2] if name != "deep/interrupted" else name: name.rpartition("/")[2]
        for name in ("deep/interrupted", "diverged", "stopped", "damaged")
    } | {"follow": "finished"}
    assert [cells[5] for cells in lines if "stopped" in cells] == ["3/4"]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("16 ×4 → 32 ×2 → 64 ×2.5 → 128 ×0.5 → 256 ×3", "16 … 256 (4 changes)"),
        ("32 ×4 → 64 ×2.5 → 128 ×0.5 → 64 ×2", "32 … 128 … 64 (3 changes)"),
        ("16 ×4 → 64 ×10", "16 ×4 → 64 ×10"),
    ],
)
def test_a_long_path_of_batch_sizes_is_shortened_to_its_ends_and_its_height(path: str, told: str) -> None:
    run = RunFacts("run", "tiny", "steer", 1, "finished", batch_sizes=path)
    assert next(iter(runs_table([run]).columns[6].cells)) == told


def test_a_run_that_trains_is_running(runs, call):
    with alone_in(runs / "deep" / "interrupted"):
        (only,) = json.loads(call("runs", "--states", "running", "--json")[1])
    assert only["run"] == "runs/deep/interrupted"
    assert only["stopped_because"] is None
    assert only["epochs"] == 4


def test_filters_and_json(runs, call, refused):
    found = json.loads(call("runs", "--json")[1])
    summary = autobatch.load_summary(runs / "follow")
    (follow,) = [run for run in found if run["run"] == "runs/follow"]
    for name in ("test_error", "validation_loss", "seconds", "optimizer_steps", "samples", "policy", "seed"):
        assert follow[name] == getattr(summary, name)
    assert follow["env"] == "tiny"
    damaged = next(run for run in found if run["state"] == "damaged")
    assert "epochs.jsonl, line 1" in damaged["stopped_because"]
    chosen = call("runs", "runs", "--envs", "tiny", "--policies", "beacon-follow", "--seeds", "5-9", "--json")[1]
    assert len(json.loads(chosen)) == 4
    assert call("runs", "--seeds", "1")[1:] == call("runs", "--states", "running")[1:]
    assert call("runs", "--states", "running")[1:] == ("", "none of the 5 runs in runs fits\n")
    assert "did you mean 'tiny'?" in refused("runs", "--envs", "tinny")
    assert "did you mean 'finished'?" in refused("runs", "--states", "finish")
    assert "no such folder" in refused("runs", "nowhere")


def test_a_table_for_pandas(runs, call):
    table = autobatch.load_runs("runs").to_pandas()
    assert list(table["state"]) == ["damaged", "interrupted", "diverged", "finished", "stopped"]
    assert table["seed"].dropna().tolist() == [7, 7, 7, 7]
    assert pd.api.types.is_float_dtype(table["test_error"])
    assert table.to_dict("records")[3]["run"] == "runs/follow"
    (runs.parent / "empty").mkdir()
    with pytest.raises(LibraryError, match="folders of runs"):
        autobatch.load_runs("empty")

"""Sudden ends, and whether a run that went on after one is the same."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from autobatch._errors import CheckpointError
from autobatch._files import write_whole
from autobatch.beacons import Branches
from autobatch.control.run import BRANCH_RUNS, CHECKPOINT, load_decisions, load_epochs, load_summary
from autobatch.control.run import _files as files
from autobatch.training import RunConfig, load_run_config, run
from autobatch.training._checkpoint import read_checkpoint
from tests.training.tiny import timeless

RECORDS = ("epochs.jsonl", "measurements.jsonl", "decisions.jsonl")


class Killed(BaseException):
    """Stands for kill -9."""


def assert_same_run(one: Path, other: Path) -> None:
    """Two run directories hold the same run, but for what a clock says."""
    for file in RECORDS:
        assert timeless(one / file) == timeless(other / file), file
    mine, theirs = (read_checkpoint(out / CHECKPOINT) for out in (one, other))
    assert mine.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(value, theirs.tensors[name]) for name, value in mine.tensors.items())
    assert branches_of(one) == branches_of(other)
    summaries = [_timeless(json.loads((out / "summary.json").read_text())) for out in (one, other)]
    assert summaries[0] == summaries[1]


def branches_of(out: Path) -> list[tuple[str, int, str, dict[str, str]]]:
    """Everything that the branch runs of a run say but what a clock does, comparable; NaN equals NaN."""
    found = Branches.load(out).journeys if (out / BRANCH_RUNS).exists() else ()
    return [
        (
            one.kind,
            one.seed,
            one.stopped_because,
            {name: repr(values.tolist()) for name, values in one.rows.items() if "seconds" not in name},
        )
        for one in found
    ]


def assert_close_runs(one: Path, other: Path) -> None:
    """The same steps, decisions and figures, to the round-off of float32."""
    for mine, theirs in zip(load_epochs(one), load_epochs(other), strict=True):
        assert (mine.batch_size, mine.lr, mine.steps, mine.samples, mine.examples) == (
            theirs.batch_size,
            theirs.lr,
            theirs.steps,
            theirs.samples,
            theirs.examples,
        )
        for figure in ("train_loss", "validation_loss", "validation_error", "c_bar", "l_cum"):
            assert getattr(mine, figure) == pytest.approx(getattr(theirs, figure), rel=1e-3), figure
    for mine, theirs in zip(load_decisions(one), load_decisions(other), strict=True):
        assert (mine.epoch, mine.batch_size, mine.lr) == (theirs.epoch, theirs.batch_size, theirs.lr)
    tensors, others = (read_checkpoint(out / CHECKPOINT).tensors for out in (one, other))
    assert tensors.keys() == others.keys()
    for name, value in tensors.items():
        torch.testing.assert_close(value, others[name], rtol=1e-3, atol=1e-4)
    first, second = load_summary(one), load_summary(other)
    assert first.test_loss == pytest.approx(second.test_loss, rel=1e-3)
    assert (first.optimizer_steps, first.examples) == (second.optimizer_steps, second.examples)


def _timeless(value: Any) -> Any:
    """Leave out what a clock says, of the scouts too."""
    if isinstance(value, dict):
        clocks = {key for key in value if "seconds" in key or key == "measuring_share"}
        return {key: _timeless(entry) for key, entry in value.items() if key not in clocks}
    return [_timeless(entry) for entry in value] if isinstance(value, list) else value


class Killer:
    """Kills at the ``count``-th write, having done ``share`` of it."""

    def __init__(self, count: int, share: float) -> None:
        self.left = count
        self.share = share

    def arm(self, patch: pytest.MonkeyPatch) -> None:
        """Take the place of what runs write with."""
        for module in (
            *(f"training.{name}" for name in ("running._session", "running._scout_runs", "_checkpoint")),
            *(f"control.run.{name}" for name in ("_files", "_records")),
            "beacons.storage._parts",
        ):
            patch.setattr(f"autobatch.{module}.write_whole", self.write_whole)
        patch.setattr("autobatch.control.run._writing.append_lines", self.append_lines)

    def strikes(self) -> bool:
        self.left -= 1
        return self.left == 0

    def append_lines(self, path: Path, rows: Any) -> None:
        if self.strikes():
            content = "".join(files.to_json(row) + "\n" for row in rows).encode()
            with path.open("ab") as file:
                file.write(content[: int(self.share * len(content))])
            raise Killed
        files.append_lines(path, rows)

    def write_whole(self, path: Path, content: bytes, *, shared: bool = False) -> None:
        if self.strikes():
            path.with_name(f".{path.name}.tmp").write_bytes(content[: int(self.share * len(content))])
            if self.share == 1.0:
                os.replace(path.with_name(f".{path.name}.tmp"), path)
            raise Killed
        write_whole(path, content)


def kill_and_resume(config: RunConfig, out: Path, killer: Killer, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return whether the killer had something to kill."""
    with monkeypatch.context() as patch:
        killer.arm(patch)
        try:
            run(config, out)
        except Killed:
            pass
        else:
            return False
    if not (out / "config.yaml").exists():
        with pytest.raises(CheckpointError, match="holds no run"):
            load_run_config(out)
        shutil.rmtree(out)
        run(config, out)
    else:
        run(load_run_config(out), out, resume=True)
    return True

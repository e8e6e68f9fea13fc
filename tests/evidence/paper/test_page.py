"""The page of claims: made of what is on disk, the same each time, and checked against what is there."""

import importlib.util
import sys
from pathlib import Path

import pytest

from tests.beacons.synthetic import make_library

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "evidence" / "reproduction.py"


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Run the script on two tiny libraries; returns its exit code."""
    spec = importlib.util.spec_from_file_location("reproduction", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path / "envs" / "synthetic"
    folder.mkdir(parents=True)
    task = {"model": {"name": "resnet", "depth": 8}, "num_classes": 10}
    make_library(batch_sizes=(16, 32, 64), lrs=(0.05, 0.1), seeds=(0, 1), task=task).save(folder)
    (tmp_path / "envs" / "empty").mkdir()
    places = [f"--{name}={tmp_path / name}" for name in ("envs", "compare", "docs")]

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["reproduction.py", *places, *arguments])
        try:
            module.main()
        except SystemExit as stop:
            return int(stop.code)
        return 0

    return run


def test_page_is_the_same_each_time_and_checked(page, tmp_path, capsys):
    assert page() == 0
    text = (tmp_path / "docs" / "reproduction.md").read_text()
    assert "12 beacons: 6 configurations (batch sizes 16, 32, 64; rates 0.05, 0.1), seeds 0, 1, 20 epochs" in text
    assert "[synthetic](#synthetic)" in text
    assert "| C̄ and the batch size | seen |" in text
    assert "small to large, -MS limits L, time and accuracy (no comparison of policies on this task)" in text
    pictures = sorted(path.name for path in (tmp_path / "docs" / "images" / "paper").iterdir())
    assert pictures == ["synthetic-1.png", "synthetic-2.png"]
    assert all(f"(images/paper/{name})" in text for name in pictures)
    assert page("--check") == 0
    (tmp_path / "docs" / "reproduction.md").write_text(text.replace("| seen |", "| not seen |", 1))
    (tmp_path / "docs" / "images" / "paper" / "old-1.png").write_bytes(b"")
    capsys.readouterr()
    assert page("--check") == 1
    told = capsys.readouterr().err
    assert "reproduction.md: differs" in told
    assert "old-1.png: no longer made" in told
    assert "synthetic-1.png" not in told

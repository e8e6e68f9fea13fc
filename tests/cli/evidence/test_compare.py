"""``autobatch compare``."""

import json

import pytest
import typer
from typer.testing import CliRunner

from autobatch.cli.evidence._compare import compare
from autobatch.evidence.compare import _compare as comparing
from autobatch.evidence.evaluate import _train as training


@pytest.fixture
def asked(monkeypatch):
    monkeypatch.setattr(comparing, "save_compare", lambda *arguments: None)
    app = typer.Typer()
    app.command()(compare)
    return lambda *arguments: CliRunner().invoke(app, ["--env", "tiny", "--device", "cpu", *arguments])


def test_the_command(home, asked, monkeypatch):
    told = asked("--policies", "s8,rmgd", "--seeds", "4-5", "--json")
    assert told.exit_code == 0
    figures = json.loads(told.stdout)
    assert [one["policy"] for one in figures["policies"][1:]] == ["s8", "rmgd"]
    assert figures["seeds"] == [4, 5]
    assert "6/6  tiny" in told.stderr
    again = asked("--policies", "s8,rmgd", "--seeds", "4-5")
    assert "6 runs, 6 of them are there already" in again.stdout
    assert (home / "runs" / "compare-tiny" / "comparison.md").read_text() in again.stdout
    assert asked("--policies", "s8", "--seeds", "5-4").exit_code == 2

    def interrupted(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "carry_out", interrupted)
    stopped = asked("--policies", "s8,rmgd", "--seeds", "4-6")
    assert stopped.exit_code == 130
    assert "the same command goes on: autobatch" in stopped.stderr


def test_failed_runs_are_listed_and_the_exit_code_says_so(home, asked):
    assert asked("--policies", "s8", "--seeds", "1", "--out", "some").exit_code == 0
    (home / "some" / "tiny" / "rmgd-s1").mkdir()
    (home / "some" / "tiny" / "rmgd-s1" / "epochs.jsonl").write_text("mine\n")
    told = asked("--policies", "s8,rmgd", "--seeds", "1", "--out", "some")
    assert told.exit_code == 1
    assert "failed: tiny rmgd seed 1: " in told.stderr
    assert "- Failed: tiny rmgd seed 1: " in told.stdout

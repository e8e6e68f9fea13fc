"""``autobatch compare``."""

import json

import pytest
import typer
from typer.testing import CliRunner

from autobatch.cli import main
from autobatch.cli.evidence._compare import compare
from autobatch.evidence.bench import _bench as benching
from autobatch.evidence.bench import _runs as running
from tests.training.tiny import COSTS


@pytest.fixture
def asked(monkeypatch):
    monkeypatch.setattr(benching, "save_task", lambda *arguments: None)
    monkeypatch.setattr(benching, "save_overall", lambda *arguments: None)
    app = typer.Typer()
    app.command()(compare)

    def ask(*arguments):
        env = [] if "--envs" in arguments else ["--env", "tiny"]
        return CliRunner().invoke(app, [*env, "--device", "cpu", *arguments])

    return ask


def test_the_command(home, asked, monkeypatch):
    told = asked("--policies", "s8,rmgd", "--seeds", "4-5", "--json")
    assert told.exit_code == 0
    figures = json.loads(told.stdout)
    assert [one["policy"] for one in figures["tasks"][0]["policies"][1:]] == ["s8", "rmgd"]
    assert figures["seeds"] == [4, 5]
    assert "6/6  tiny" in told.stderr
    again = asked("--policies", "s8,rmgd", "--seeds", "4-5")
    assert "6 runs, 6 of them are there already" in again.stdout
    assert (home / "runs" / "compare-tiny" / "comparison.md").read_text() in again.stdout
    for seeds in ("", "5-4", "x", "-3", "1-99999999"):
        assert asked("--policies", "s8", "--seeds", seeds).exit_code == 2

    def interrupted(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "_carry_out", interrupted)
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


def test_lists_and_numbers_reach_the_bench(home, asked):
    (home / "envs" / "bare").mkdir()
    text = (home / "envs" / "tiny" / "env.yaml").read_text()
    (home / "envs" / "bare" / "env.yaml").write_text(text.replace("name: tiny", "name: bare"))
    (home / "costs.json").write_text(json.dumps(COSTS.to_dict()))
    told = asked(
        *("--envs", "tiny,bare", "--policies", "s8", "--against", "fixed,s16", "--seeds", "1", "--epochs", "2"),
        *("--costs", "costs.json", "--margin", "0.2", "--json"),
    )
    assert told.exit_code == 0
    figures = json.loads(told.stdout)
    assert [(task["env"], task["epochs"]) for task in figures["tasks"]] == [("tiny", 2), ("bare", 2)]
    assert figures["margin"] == 0.2
    assert figures["tasks"][0]["costs"]["device"] == COSTS.device
    assert {"s8", "s16"} < {one["policy"] for one in figures["tasks"][0]["policies"]}
    assert (home / "runs" / "compare-tiny-bare" / "comparison.md").exists()


def test_mistakes_are_refused_in_plain_words(home, refused):
    (home / "bad.json").write_text("{}")
    (home / "worse.json").write_text("{")
    for arguments, words in (
        (("--policies", "rmgdd"), "did you mean 'rmgd'"),
        (("--policies", "s8", "--envs", "tinny"), "did you mean 'tiny'"),
        (("--policies", "s8", "--against", "fixt"), "unknown baseline 'fixt'; did you mean 'fixed'"),
        (("--policies", "s8", "--margin", "-1"), "margin: expected a share above 0, such as 0.05 for 5 %, got -1"),
        (("--policies", "s8", "--costs", "no.json"), "--costs no.json: cannot be read"),
        (("--policies", "s8", "--costs", "worse.json"), "--costs worse.json: expected a cost table in JSON"),
        (("--policies", "s8", "--costs", "bad.json"), "expected the keys device, step_seconds"),
    ):
        assert words in refused("compare", "--env", "tiny", *arguments)


@pytest.mark.parametrize("arguments", [(), ("beacon-follow", "--envs", "tiny", "--baselines", "fixed"), ("--help",)])
def test_eval_policy_says_what_took_its_place(arguments, capsys):
    assert main(["eval-policy", *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert "'eval-policy' is now 'autobatch compare --policies" in told.err

"""``autobatch run --scouts`` as its users type it, and what the other commands say of such runs."""

import io
import json

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from autobatch.report import read_run
from autobatch.report._watch import watch_view
from autobatch.training import load_decisions, load_epochs, load_run_config, load_scouting
from tests.cli.conftest import ENV
from tests.training.tiny import COSTS

pytestmark = pytest.mark.usefixtures("unpainted")

NEW = ("run", "--env", "new", "--policy", "steer", "--device", "cpu")
"""A task that nothing was recorded of: six epochs, three rates, so three scouts of one epoch."""


@pytest.fixture
def home(tmp_path, monkeypatch):
    # What a tiny task has learnt after an epoch shall not lengthen its training.
    for place in ("_policy", "_search"):
        for name in ("hardly_begun", "learnt_nothing"):
            monkeypatch.setattr(f"autobatch.policies.steer.{place}.{name}", lambda task, scout, share: False)
    """A working directory with the task alone, on a machine that need not be timed."""
    (tmp_path / "envs" / "new").mkdir(parents=True)
    (tmp_path / "envs" / "new" / "env.yaml").write_text(
        ENV
        .replace("name: tiny", "name: new", 1)
        .replace("epochs: 4", "epochs: 6\nthreads: 1")
        .replace("[0.05, 0.1]", "[0.05, 0.1, 0.2]")
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("autobatch.training.running._known.cached_calibration", lambda *_, **__: (COSTS, True))
    return tmp_path


@pytest.fixture
def scouting(home, call, monkeypatch):
    """A run that was interrupted in the middle of its second scout."""
    from autobatch.training._trial import Trial

    epoch, epochs = Trial.period, []

    def interrupted(trial, after_step):
        epochs.append(trial)
        if len(epochs) == 2:
            raise KeyboardInterrupt
        return epoch(trial, after_step)

    with monkeypatch.context() as patch:
        patch.setattr(Trial, "period", interrupted)
        code, _, err = call(*NEW, "--out", "cut")
    assert (code, "autobatch run --resume cut" in err) == (130, True)
    return home / "cut"


def test_a_run_tells_its_scouts_and_how_it_ended(home, call):
    code, out, err = call(*NEW)
    assert (code, err) == (0, "")
    place = home / "runs" / "new-steer-s0"
    for phrase in (
        "3 scouts of 1 epoch each at most: s32 at lr 0.1 first, then rates towards where the loss falls; those that",
        "→ scout s32 at lr 0.2: after 1 epoch training loss",
        "the best scout goes on after epoch 1",
        "2 made, ",
        " went on; the others took ",
        "by the policy, after 4 of 6 epochs",
        "planned to end after 4 of 6 epochs, the rate falling to nothing by then",
        "scout epoch 1/1  batch   32",
        "→ from epoch 2: the rate falls in a line to nothing after 4 epochs, which lets the loss settle\n",
        "→ the fall of the rate has ended after 4 of 6 epochs: stop",
        "Applied rate  ",
        "None, as there are no beacons (trainings at fixed settings) to compare this run with",
    ):
        assert phrase in out
    assert len(load_epochs(place)) == 4
    assert load_decisions(place)[-1].stop
    code, told, _ = call("explain", "-v", "runs/new-steer-s0")
    assert code == 0
    for phrase in (
        "Scouts: short trainings before the run",
        "The run finished after 4 of 6 epochs",
        "as a scout; ",
        "ended by the policy: the fall of the rate has ended after 4 of 6 epochs: stop",
        "goes on as the run",
        "Those that did not took ",
        ": batch size 32, base rate ",
        ", applied ",
    ):
        assert phrase in told
    assert " ".join(told.split()).count(json.loads((place / "scouts.json").read_text())["reason"]) == 1
    code, watched, _ = call("watch", "runs/new-steer-s0")
    assert code == 0
    assert "epoch 4/4" in watched
    assert watched.count("scout s32-lr") == 2  # the higher rate did better, and there is none above it
    assert "→ from epoch 2: the rate falls in a line" in watched
    assert call("plot", "runs/new-steer-s0", "-o", "journey.png")[0] == 0
    assert call("report", "runs/new-steer-s0", "-o", "page.html")[0] == 0
    page = (home / "page.html").read_text()
    assert "by the policy, after 4 of 6 epochs" in page
    assert "2 made, " in page
    for phrase in ("Scouts: short trainings before the run", "goes on as the run", "ends the training", "applied 0."):
        assert phrase in page


def strict(text: str):
    def refuse(constant: str):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_is_json_although_scouts_diverge(home, call):
    code, out, err = call(*NEW, "--set", "task.learning_rates=[0.1, 1e8, 2e8]", "--json", "--out", "wild")
    assert (code, err) == (0, "")
    summary = strict(out)
    assert summary == strict((home / "wild" / "summary.json").read_text())
    strict((home / "wild" / "scouts.json").read_text())
    assert [scout["won"] for scout in summary["scouts"]].count(True) == 1
    assert summary["ended_early"]
    assert any(scout["ended"] and scout["ended"].startswith("diverged") for scout in summary["scouts"])
    code, told, _ = call("explain", "wild")
    assert code == 0
    assert "diverged" in told
    assert call("report", "wild", "-o", "page.html")[0] == 0


def test_while_scouts_are_trained_every_command_says_so_or_bears_it(scouting, call, monkeypatch):
    assert not (scouting / "epochs.jsonl").exists()
    code, told, _ = call("explain", "cut")
    assert code == 0
    for phrase in ("in training", "the lowest training loss will go on", "Up to 1 more may follow"):
        assert phrase in told
    assert "Not finished: autobatch run --resume cut goes on." in told
    assert call("plot", "cut", "-o", "journey.png")[0] == 0
    assert call("report", "cut", "-o", "page.html")[0] == 0
    from autobatch.cli.look import _watch

    def leave(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(_watch.follow, "__defaults__", (leave,))
    code, said, _ = call("watch", "cut")
    assert (code, "new, steer, seed 0" in said) == (130, True)
    for phrase in ("scout s32-lr0.1  epoch 1/1", "→ scout s32 at lr 0.1: after 1 epoch training loss"):
        assert phrase in said
    assert "Not begun: its scouts are training." in (scouting.parent / "page.html").read_text()
    screen = Console(width=100, record=True, file=io.StringIO())
    screen.print(watch_view(read_run(scouting), 0.0))
    assert "first, scout 2 of at most 3, s32-lr0.2: epoch 0/1 done" in screen.export_text()


def test_a_run_is_resumed_from_its_scouts(scouting, home, call):
    refused = call(*NEW, "--out", "cut")
    assert refused[0] == 2
    assert "--resume" in refused[2]
    code, out, _ = call("run", "--resume", "cut")
    assert code == 0
    assert "3 scouts of 1 epoch each" in out
    assert call(*NEW, "--out", "whole", "--quiet")[0] == 0
    mine, theirs = (load_file(home / name / "checkpoint" / "latest.safetensors") for name in ("cut", "whole"))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    for one in ("cut", "whole"):
        assert [row.epoch for row in load_epochs(home / one)] == [1, 2, 3, 4]
    before = (scouting / "summary.json").read_bytes()
    assert call("run", "--resume", "cut")[0] == 0
    assert (scouting / "summary.json").read_bytes() == before


@pytest.mark.parametrize("option", [("--scouts", "2"), ("--scouts", "none"), ("--scout-share", "0.1")])
def test_other_scouts_than_those_stored_are_refused_on_resume(scouting, refused, option):
    said = refused("run", "--resume", "cut", *option)
    assert "started with another configuration: 'policy.parameters.scout" in said
    kept = load_scouting(scouting)
    assert kept is not None
    assert (kept.reason, len(kept.scouts), len(kept.waiting), kept.more) == (None, 1, 1, 1)


def test_the_stored_scouts_are_no_other_ones(scouting, call):
    assert call("run", "--resume", "cut", "--scouts", "3", "--scout-share", "0.05", "--quiet")[0] == 0


@pytest.mark.parametrize(("given", "number"), [("0", 0), ("none", 0), ("1", 0), ("2", 3), ("auto", 2), ("16", 3)])
def test_how_many_scouts(home, call, given, number):
    """Two go to both ends of the list, of which the highest is best, so that half the batch is tried there."""
    assert call(*NEW, "--scouts", given, "--out", "o", "--quiet")[0] == 0
    scouting = load_scouting(home / "o")
    assert (0 if scouting is None else len(scouting.scouts)) == number
    stored = {"none": 0, "auto": 3}[given] if given.isalpha() else int(given)
    assert load_run_config(home / "o").policy.parameters["scouts"] == stored


@pytest.mark.parametrize("epochs", ["1", "2", "3"])
def test_the_shortest_runs(home, call, epochs):
    code, out, _ = call(*NEW, "--epochs", epochs, "--json", "--out", "o")
    assert code == 0
    summary = strict(out)
    assert summary["scouts"] == []
    assert summary["test_error"] is not None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--epochs", "3"], "no scouts: 3 epochs of 4 steps are too few, and better spent on the training itself"),
        (["--scouts", "1"], "no scouts: one alone has nothing to be compared with, it takes two"),
        (["--scouts", "5"], "; 3 scouts instead of 5: there are 3 learning rates to try"),
        (["--set", "task.schedule.keep=true"], "the task keeps its own schedule (schedule.keep): the rate follows it"),
    ],
)
def test_what_is_done_otherwise_than_one_might_think_is_said_once(home, call, options, said):
    code, out, _ = call(*NEW, *options)
    assert code == 0
    assert out.count(said) == 1


def test_a_run_that_diverges_fails_and_says_what_to_do(home, call):
    code, out, _ = call(*NEW, "--set", "task.learning_rates=[1e8, 2e8, 4e8]", "--out", "wild")
    assert code == 1
    assert "What to do" in out
    assert "--set 'task.learning_rates=[1e+04,1e+05,1e+06]'" in " ".join(out.split())
    code, told, _ = call("explain", "wild")
    assert code == 0
    assert "What to do: a learning rate of 1e+07 is too high here" in " ".join(told.split())
    assert call("plot", "wild", "-o", "wild.png")[0] == 0
    assert call("report", "wild", "-o", "wild.html")[0] == 0


@pytest.mark.parametrize(
    ("options", "phrases"),
    [
        (["--scouts", "17"], ["--scouts", "auto, none or a number up to 16", "'17'"]),
        (["--scouts", "-1"], ["--scouts", "'-1'"]),
        (["--scouts", "x"], ["--scouts", "'x'"]),
        (["--scouts", ""], ["--scouts", "''"]),
        (["--scout-share", "0"], ["--scout-share", "0"]),
        (["--scout-share", "0.3"], ["--scout-share", "0.25"]),
        (
            ["--policy", "fixed", "--scouts", "2"],
            ["--scouts", "'fixed' makes no scouts", "'steer', 'steer-by-task'"],
        ),
        (["--policy", "s32", "--scout-share", "0.1"], ["--scout-share", "makes no scouts"]),
    ],
)
def test_mistakes_are_named(home, refused, options, phrases):
    said = refused(*NEW, *options)
    for phrase in phrases:
        assert phrase in said
    assert not (home / "runs" / "new-steer-s0").exists()


def test_beacon_follow_scouts_where_there_are_no_beacons(home, call):
    follow = ("run", "--env", "new", "--policy", "beacon-follow", "--device", "cpu", "--scouts", "2")
    code, out, _ = call(*follow, "--out", "o")
    assert code == 0
    assert "no beacons to follow (" in out
    assert "): scouts go first" in out
    assert "2 scouts of 1 epoch each" in out
    assert load_run_config(home / "o").policy.parameters["without_beacons"]["scouts"] == 2
    assert load_decisions(home / "o")[-1].stop
    assert call("explain", "o")[0] == 0

"""A run before it is made, and a schedule that goes from one run to another."""

import json
import re

import pytest

from autobatch.beacons import BeaconLibrary
from autobatch.training import load_epochs

pytestmark = pytest.mark.usefixtures("unpainted")

TINY = ("run", "--env", "tiny", "--device", "cpu")


def files(home):
    return sorted(str(path) for path in home.rglob("*") if "__pycache__" not in path.parts)


@pytest.mark.parametrize(
    ("policy", "phrases"),
    [
        (
            "s8-lr0.1",
            [
                "tiny under s8-lr0.1, seed 0, into runs/tiny-s8-lr0.1-s0",
                "optimizer steps at batch size 8",
                "12, the best",
            ],
        ),
        ("0:8 2e:32", ["batch sizes 8 to 32"]),
        ("beacon-follow", ["batch sizes 32 to 8"]),
        ("steer", ["scouts"]),
    ],
)
def test_it_says_what_it_would_do_and_does_nothing(home, call, policy, phrases):
    before = files(home)
    code, out, err = call(*TINY, "--policy", policy, "--dry-run")
    assert (code, err) == (0, "")
    for phrase in (*phrases, "digits: ", "mlp: ", "parameters, on cpu", "takes", "Nothing was trained or written."):
        assert phrase in out
    assert files(home) == before


def test_beacons_of_another_length_are_what_it_would_begin_from(home, call):
    code, out, _ = call(*TINY, "--epochs", "6", "--policy", "beacon-follow", "--dry-run")
    assert code == 0
    assert "trained 4 epochs, this run's length is another: it starts from the best of them, without scouts" in out
    assert "scouts  " not in out
    assert "would train  tiny under steer" in call(*TINY, "--epochs", "6", "--policy", "steer", "--dry-run")[1]


@pytest.mark.parametrize(("policy", "options", "said"), [
    ("beacon-follow", ("--scouts", "3"), "--scouts is ignored: 'beacon-follow' follows the beacons of this task"),
    ("beacon-follow", ("--scout-share", "0.1"), "--scout-share is ignored: "),
    ("beacon-follow", ("--scouts", "none"), ""),
    ("steer", ("--scouts", "3"), ""),
])  # fmt: skip
def test_scouts_beside_beacons_are_ignored_aloud(home, call, policy, options, said):
    told = call(*TINY, "--policy", policy, *options, "--dry-run")[1]
    ran = call(*TINY, "--policy", policy, *options)[1]
    assert said in told
    assert said in ran
    assert ("is ignored" in told) == ("is ignored" in ran) == bool(said)


def test_its_time_is_that_of_the_cost_table(home, call):
    told = json.loads(call(*TINY, "--policy", "s8-lr0.1", "--no-measure", "--dry-run", "--json")[1])
    costs = BeaconLibrary.load(home / "envs" / "tiny").costs
    steps = int(re.search(r"4 epochs, (\d+) optimizer steps", told["length"])[1])
    assert told["seconds"] == pytest.approx([costs.training_seconds(8, steps, 4)] * 2)


def test_what_would_be_refused_is_refused(home, call, refused):
    assert "holds a run already" in refused(*TINY, "--out", "runs/follow", "--dry-run")
    assert "not begun" in refused("run", "--resume", "runs/follow", "--dry-run")
    assert "no such beacons" not in refused(*TINY, "--policy", "s64", "--dry-run")


def test_missing_data_are_named(home, call):
    code, out, _ = call("run", "--env", "tiny", "--set", "task.dataset.name=mnist", "--dry-run")
    assert code == 0
    assert "mnist is not in data; it would be downloaded there" in out
    assert "Nothing was downloaded" in out


def test_what_a_run_prints_is_a_policy_that_does_the_same(home, call):
    _, out, _ = call(*TINY, "--policy", "0:8 1e:16 3e:32", "--out", "runs/first")
    pasted = re.search(r"To paste\s+'([^']+)'", out)[1]
    assert re.fullmatch(r"0:8 \d+:16 \d+:32", pasted)
    assert "by epochs '0:8 1e:16 3e:32'" in " ".join(out.split())
    assert call(*TINY, "--policy", pasted, "--out", "runs/second", "--quiet")[0] == 0
    first, second = ([row.batch_size for row in load_epochs(home / "runs" / run)] for run in ("first", "second"))
    assert first == second == [8, 16, 16, 32]

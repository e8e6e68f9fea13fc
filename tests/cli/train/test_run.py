"""``autobatch run`` as its users type it."""

import json
import math
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from autobatch._errors import ConfigError
from autobatch.cli.train._place import reserved
from autobatch.policies import load_policy_spec
from autobatch.training import RunConfig, load_decisions, load_epochs, load_task

TINY = ("run", "--env", "tiny", "--device", "cpu")


def test_beacon_follow_trains_and_tells_how_it_went(home, call):
    code, out, err = call(*TINY, "--policy", "beacon-follow", "--seed", "3")
    assert (code, err) == (0, "")
    place = home / "runs" / "tiny-beacon-follow-s3"
    for phrase in (
        "12 beacons to compare with",
        "takes about ",
        "epoch 4/4",
        "→ start with s",
        "best fixed beacon",
        "test error",
        "Verdict",
        "autobatch explain runs/tiny-beacon-follow-s3",
    ):
        assert phrase in out
    assert (place / "plane.png").read_bytes().startswith(b"\x89PNG")
    assert len(load_epochs(place)) == 4
    assert all(decision.reason for decision in load_decisions(place))
    assert not [character for character in out if ord(character) < 32 and character != "\n"], "control characters"


def test_json_is_the_summary_alone(home, call):
    code, out, err = call(*TINY, "--policy", "s16", "--json")
    assert (code, err) == (0, "")
    summary = json.loads(out)
    assert summary == json.loads((home / "runs" / "tiny-s16-s0" / "summary.json").read_text())
    expected = {"test_error", "validation_error", "validation_loss", "examples", "optimizer_steps", "seconds"}
    assert expected | {"measuring_seconds", "stopped_because", "best_beacon"} <= summary.keys()
    assert summary["best_beacon"]["seeds"] == [0, 1]
    assert summary["best_beacon"]["spread"].keys() >= {"test_error", "validation_loss"}


def test_quiet_prints_the_directory_and_numbers_a_taken_one(home, call):
    assert call(*TINY, "--policy", "fixed", "--epochs", "1", "--quiet")[1] == "runs/tiny-fixed-epochs1-s0\n"
    assert call(*TINY, "--policy", "fixed", "--epochs", "1", "--quiet")[1] == "runs/tiny-fixed-epochs1-s0-2\n"


def test_default_directories_tell_runs_apart_and_are_reserved_at_once(home):
    config = RunConfig(task=load_task("tiny"), policy=load_policy_spec("s16"), seed=3)
    changes = {"--epochs": ["task.epochs=2"], "--set": ["task.optimizer.base_lr=0.05", "policy.name=a/b c"]}
    with reserved(config, {}) as one, reserved(config, {}) as other, reserved(config, changes) as changed:
        assert [str(place) for place in (one, other, changed)] == [
            "runs/tiny-s16-s3",
            "runs/tiny-s16-s3-2",
            "runs/tiny-s16-epochs2-base_lr0.05-nameabc-s3",
        ]
        assert all(place.is_dir() for place in (one, other, changed))
    with pytest.raises(ConfigError), reserved(config, {}) as failing:
        raise ConfigError("no")
    assert not failing.exists()
    with reserved(config, {}) as kept:
        (kept / "config.yaml").touch()
    assert kept.exists()


def test_overrides_and_config(home, call):
    (home / "configs").mkdir()
    (home / "configs" / "mine.yaml").write_text("env: tiny\npolicy: s8\nseed: 5\nset: {task.epochs: 2}\n")
    code, _, _ = call("run", "--config", "mine", "--set", "policy.parameters.lr=0.05", "--out", "o", "--no-measure")
    assert code == 0
    rows = load_epochs(home / "o")
    assert [(row.batch_size, row.lr) for row in rows] == [(8, 0.05)] * 2
    assert all(math.isnan(row.c_bar) for row in rows)
    assert json.loads((home / "o" / "summary.json").read_text())["seed"] == 5


def test_the_same_seed_gives_the_same_run(home, call):
    for out in ("one", "two"):
        assert call(*TINY, "--policy", "beacon-follow", "--out", out, "--quiet")[0] == 0
    weights = [load_file(home / out / "checkpoint" / "latest.safetensors") for out in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    lines = [(home / out / "decisions.jsonl").read_text() for out in ("one", "two")]
    assert lines[0] == lines[1]


def test_resume_of_a_finished_run_shows_it_again(home, call):
    before = (home / "runs" / "follow" / "summary.json").read_bytes()
    code, out, _ = call("run", "--resume", "runs/follow")
    assert code == 0
    assert "Verdict" in out
    assert (home / "runs" / "follow" / "summary.json").read_bytes() == before


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(home, call, monkeypatch):
    from autobatch.cli.train._progress import RunProgress

    def interrupt(self, row):
        if row.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunProgress, "epoch_finished", interrupt)
        code, _, err = call(*TINY, "--policy", "s8", "--out", "cut")
    assert code == 130
    assert "autobatch run --resume cut" in err
    assert "Not finished" in call("explain", "cut")[1]
    code, out, _ = call("run", "--resume", "cut")
    assert code == 0
    assert "resumed after epoch 2" in out
    assert call(*TINY, "--policy", "s8", "--out", "whole", "--quiet")[0] == 0
    weights = [load_file(home / name / "checkpoint" / "latest.safetensors") for name in ("cut", "whole")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_help_does_not_import_torch():
    code = "import sys; from autobatch.cli import main; main(['run', '--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--policy" in done.stdout


def test_the_module_is_the_command(home):
    done = subprocess.run(
        [sys.executable, "-m", "autobatch", "run", "--policy", "nonsense"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("autobatch: error: unknown policy 'nonsense'")


@pytest.mark.parametrize(
    ("arguments", "phrases"),
    [
        (["--env", "tiny", "--policy", "beacon-folow"], ["'beacon-folow'", "did you mean 'beacon-follow'?"]),
        (["--env", "tinny"], ["'tinny'", "did you mean 'tiny'?"]),
        (["--config", "mnits"], ["'mnits'", "did you mean", "'mnist'"]),
        (["--env", "tiny", "--set", "task.epoch=3"], ["--set: key 'task.epoch'", "did you mean 'epochs'?"]),
        (["--env", "tiny", "--set", "task.epochs=many"], ["task.epochs", "'many'"]),
        (["--env", "tiny", "--set", "task.dataset.name=digit"], ["task.dataset.name", "'digits'"]),
        (["--env", "tiny", "--set", "policy.parameters.lr=-1", "--policy", "fixed"], ["lr", "-1"]),
        (["--env", "tiny", "--set", "policy.parameters.lr=.nan", "--policy", "fixed"], ["lr", "nan"]),
        (["--env", "tiny", "--set", "policy.parameters.lrr=1", "--policy", "fixed"], ["lrr", "did you mean 'lr'?"]),
        (["--env", "tiny", "--set", "task.learning_rates=[0]"], ["learning_rates", "0"]),
        (["--env", "tiny", "--set", "task.batch_sizes=[8, 4096]", "--policy", "s8"], ["4096", "training set"]),
        (["--env", "tiny", "--set", "epochs"], ["--set", "epochs", "="]),
        (["--env", "tiny", "--policy", "s64"], ["64", "8, 16, 32"]),
        (["--env", "tiny", "--epochs", "0"], ["--epochs"]),
        (["--env", "tiny", "--seed", "-1"], ["--seed"]),
        (["--env", "tiny", "--device", "gpu"], ["device", "'gpu'"]),
        (["--env", "tiny", "--device", "cuda:99"], ["cuda:99"]),
        (
            ["--env", "tiny", "--set", "task.model.name=tests.training.tiny:dropout_net", "--policy", "s8"],
            ["--trust-code"],
        ),
        (["--env", "tiny", "--out", "runs/follow"], ["runs/follow", "--resume"]),
        (["--env", "tiny", "--out", "envs/tiny/env.yaml"], ["env.yaml"]),
        (["--resume", "nowhere"], ["nowhere"]),
        (["--resume", "runs/follow", "--seed", "8"], ["seed", "8"]),
        (["--resume", "runs/follow", "--epochs", "5"], ["epochs", "5"]),
        (["--resume", "runs/follow", "--policy", "s8"], ["policy"]),
        (["--polcy", "fixed"], ["--polcy", "--policy"]),
    ],
)
def test_mistakes_are_named(home, refused, arguments, phrases):
    before = {path: path.read_bytes() for path in (home / "runs").rglob("*") if path.is_file()}
    said = refused("run", "--device", "cpu", *arguments) if "--device" not in arguments else refused("run", *arguments)
    for phrase in phrases:
        assert phrase in said
    assert {path: path.read_bytes() for path in (home / "runs").rglob("*") if path.is_file()} == before


def test_a_mistake_in_a_file_names_file_and_line(home, refused):
    env = home / "envs" / "tiny" / "env.yaml"
    env.write_text(env.read_text().replace("epochs: 4", "epohcs: 4"))
    said = refused("run", "--env", "tiny")
    assert "env.yaml:6" in said
    assert "did you mean 'epochs'?" in said


def test_missing_data_say_where_they_should_be(home, refused, monkeypatch):
    import torchvision.datasets

    def unreachable(*arguments, **options):
        raise RuntimeError("no network")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", unreachable)
    said = refused(*TINY, "--policy", "s8", "--set", "task.dataset={name: mnist}", "--data-dir", "empty")
    assert "empty" in said
    assert "--data-dir" in said


def test_a_full_disk_is_said_in_one_line(home, refused, monkeypatch):
    def full(source, target, **options):
        raise OSError(28, "No space left on device", str(target))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        said = refused(*TINY, "--policy", "s8", "--out", "full")
    assert "No space left on device" in said


def test_beacon_follow_makes_no_scouts_where_there_are_beacons(home, call):
    follow = ("run", "--env", "tiny", "--policy", "beacon-follow", "--seed", "7", "--device", "cpu", "--scouts", "2")
    code, out, _ = call(*follow, "--out", "o")
    assert code == 0
    assert "scout" not in out
    assert not (home / "o" / "scouts").exists()
    assert [row.to_dict()["validation_loss"] for row in load_epochs(home / "o")] == [
        row.to_dict()["validation_loss"] for row in load_epochs(home / "runs" / "follow")
    ]


def test_a_run_that_lost_its_beacons_does_not_go_on_without(home, call, refused, monkeypatch):
    from autobatch.cli.train._progress import RunProgress

    def interrupt(self, row):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunProgress, "epoch_finished", interrupt)
        assert call(*TINY, "--policy", "beacon-follow", "--out", "o")[0] == 130
    beacons = home / "envs" / "tiny" / "beacons.parquet"
    shutil.move(beacons, home / "away")
    said = refused("run", "--resume", "o")
    assert "began this run with beacons of the task, and now they are missing" in said
    shutil.move(home / "away", beacons)
    assert call("run", "--resume", "o", "--quiet")[0] == 0

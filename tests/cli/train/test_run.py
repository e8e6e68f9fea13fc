"""``autobatch run`` as its users type it."""

import json
import math
import os
import shlex
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from autobatch._artefacts import find_artefact
from autobatch._errors import ConfigError
from autobatch.cli import main
from autobatch.cli._console import recorded_command
from autobatch.cli.train._place import reserved
from autobatch.policies import PolicySpec, load_policy_spec
from autobatch.training import RunConfig, load_decisions, load_epochs, load_run_config, load_task
from autobatch.training._run import kept_config, with_kept_paths

pytestmark = pytest.mark.usefixtures("unpainted")

TINY = ("run", "--env", "tiny", "--device", "cpu")


@pytest.mark.usefixtures("painted")
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
        [sys.executable, "-m", "autobatch", "run", "--nonsense"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 2
    assert "No such option: --nonsense" in done.stderr


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
    (told,) = (line for line in out.splitlines() if "scout" in line)
    assert told.startswith("--scouts is ignored: ")
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


def naming(folder, text):
    """Return the files in a folder that hold a text."""
    return [path.name for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_a_run_tells_nothing_of_the_machine(home, call):
    place = home / "runs" / "mine"
    given = ("--policy", "s16", "--epochs", "1", "--out", str(place), "--data-dir", str(home / "data"))
    assert call(*TINY, *given)[0] == 0
    assert call("report", str(place), "-o", str(place / "page.html"))[0] == 0
    assert naming(place, str(home)) == []
    config = load_run_config(place)
    assert (config.task_path, config.data_dir) == (home / "envs" / "tiny", home / "data")
    assert call("run", "--resume", str(place), "--quiet")[0] == 0
    # Moved alone, the task is looked up by its name; moved together, both are found again.
    shutil.copytree(place, home / "mine")
    assert load_run_config(home / "mine").task_path == home / "envs" / "tiny"
    shutil.copytree(home, home.parent / "elsewhere")
    assert load_run_config(home.parent / "elsewhere" / "runs" / "mine").task_path == home.parent / "elsewhere/envs/tiny"


def test_configurations_with_absolute_paths_as_older_versions_wrote_them_load(home):
    place = home / "runs" / "follow"
    path = place / "config.yaml"
    path.write_text(path.read_text().replace("task_path: ../../envs/tiny", f"task_path: {home / 'envs' / 'tiny'}"))
    assert load_run_config(place).task_path == home / "envs" / "tiny"
    assert kept_config(load_run_config(place), place)["task_path"] == "../../envs/tiny"


def test_a_shipped_task_is_named_and_what_lies_in_the_home_directory_is_told_from_there(home, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "alice"))
    shipped = find_artefact("envs", "digits-mlp").parent
    weights = tmp_path / "alice" / "learned" / "mine.safetensors"
    config = RunConfig(
        task=load_task("tiny"),
        task_path=shipped,
        data_dir=tmp_path / "alice" / "data",
        policy=PolicySpec(name="mine", kind="learned", parameters={"weights": str(weights)}),
    )
    kept = kept_config(config, home / "runs" / "a")
    assert (kept["task_path"], kept["data_dir"]) == ("digits-mlp", "~/data")
    assert kept["policy"]["parameters"]["weights"] == "~/learned/mine.safetensors"
    assert with_kept_paths(kept, home / "runs" / "a") == kept
    (home / "runs" / "a").mkdir()
    (home / "runs" / "a" / "config.yaml").write_text(json.dumps(kept))
    assert load_run_config(home / "runs" / "a") == config


def test_recorded_commands_tell_nothing_of_the_machine(home, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "alice"))
    given = [
        "run",
        "--env",
        str(home / "envs/tiny"),
        f"--data-dir={tmp_path}/alice/data",
        "--out",
        "/srv/x/y",
        "--seed=3",
    ]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/autobatch", *given])
    assert recorded_command() == "autobatch run --env envs/tiny '--data-dir=~/data' --out y --seed=3"


def test_a_folder_whose_name_is_not_utf8(home, call, refused):
    folder = home / os.fsdecode(b"caf\xe9")
    shutil.copytree(home / "envs", folder / "envs")
    task = (
        "run",
        "--env",
        str(folder / "envs" / "tiny"),
        "--policy",
        "s16",
        "--epochs",
        "1",
        "--quiet",
        "--device",
        "cpu",
    )
    assert call(*task, "--out", str(folder / "runs" / "a"))[0] == 0
    assert call("run", "--resume", str(folder / "runs" / "a"), "--quiet")[0] == 0
    assert call("report", str(folder / "runs" / "a"))[0] == 0
    assert "this name is not UTF-8" in refused(*task, "--out", "elsewhere")
    assert not (home / "elsewhere").exists()


@pytest.mark.parametrize("closed", [("stdout",), ("stdin", "stdout", "stderr")])
def test_closed_standard_streams_are_no_error(home, monkeypatch, closed):
    for name in closed:
        monkeypatch.setattr(sys, name, None)
    assert main(["policies"]) == 0
    assert all(getattr(sys, name) is None for name in closed)


def test_with_closed_standard_streams_nothing_is_written_into_files():
    """The first files that are opened would take the place of the streams."""
    code = (
        "import os, sys; from autobatch.cli._console import streams\n"
        "with streams(): file = open(sys.argv[1], 'w'); print('no'); os.write(1, b'no'); sys.exit(file.fileno() <= 2)"
    )
    command = shlex.join([sys.executable, "-c", code, os.devnull])
    assert subprocess.run(["sh", "-c", f"{command} <&- >&- 2>&-"], check=False).returncode == 0

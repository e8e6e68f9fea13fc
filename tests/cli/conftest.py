"""A working directory with a tiny task, its beacons and runs of it."""

import functools
import shutil
from pathlib import Path

import pytest
import typer

from autobatch.cli import main

ENV = """\
name: tiny
dataset: {name: digits, subset: 160, validation: 0.3, augmentation: shift}
model: {name: mlp, arguments: {hidden: [16]}}
batch_sizes: [8, 16, 32]
learning_rates: [0.05, 0.1]
epochs: 4
measuring: {interval: 50, floor: 2, budget: 0.3}
seeds: [0, 1]
"""


@pytest.fixture(scope="session", autouse=True)
def _commands_are_built_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """A directory with env ``tiny``, its beacons, and a finished run ``runs/follow`` under beacon-follow."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        _enter(patch, home)
        (home / "envs" / "tiny").mkdir(parents=True)
        (home / "envs" / "tiny" / "env.yaml").write_text(ENV)
        assert main(["beacons", "record", "--env", "tiny", "--device", "cpu"]) == 0
        assert main(["beacons", "compact", "tiny"]) == 0
        follow = ["run", "--env", "tiny", "--policy", "beacon-follow", "--seed", "7", "--out", "runs/follow"]
        assert main([*follow, "--quiet", "--device", "cpu"]) == 0
    return home


@pytest.fixture
def home(recorded, tmp_path, monkeypatch):
    """A copy of ``recorded`` that a test may spoil; the working directory."""
    place = tmp_path / "home"
    shutil.copytree(recorded, place)
    _enter(monkeypatch, place)
    return place


def _enter(patch: pytest.MonkeyPatch, place: Path) -> None:
    patch.chdir(place)
    patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    patch.delenv("AUTOBATCH_PATH", raising=False)


@pytest.fixture
def call(capsys):
    """Run a command line; returns exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def refused(call):
    """Run a command line that must be refused in plain words; returns what it said on stderr, on one line."""

    def run(*arguments: str) -> str:
        code, out, err = call(*arguments)
        assert code == 2, (code, out, err)
        assert "Traceback" not in out + err
        return " ".join(err.replace("│", " ").split())

    return run

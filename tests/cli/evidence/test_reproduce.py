"""``autobatch reproduce`` as its users type it."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from autobatch import OutputError, UnknownNameError
from autobatch.cli.evidence._reproduce import reproduce
from autobatch.evidence import Claim
from autobatch.evidence import _reproduce as reproducing
from autobatch.evidence._reproduce import Reproduction, experiment_names

CLAIM = Claim("a name", "4.1", "a statement", "", "seen", "a sentence")


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Run the command in an empty directory."""
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(reproduce)
    return lambda *arguments: CliRunner().invoke(app, arguments)


@pytest.fixture
def asked(monkeypatch):
    """What the command asks for, with a result that it gets without any training."""
    found = {}

    def carry_out(plan, out, **options):
        found.update(plan=plan, out=out, **options)
        if "interrupt" in found:
            raise KeyboardInterrupt
        options["observer"].stage(1, 2, "the grid")
        return Reproduction(Path(out), (Path("figure-1.png"),), (CLAIM,), found.get("failed", {}))

    monkeypatch.setattr(reproducing, "reproduce", carry_out)
    return found


@pytest.mark.parametrize("arguments", [(), ("--list",), ("mnist-mlp", "--list")])
def test_the_experiments_are_listed(call, arguments):
    done = call(*arguments)
    assert done.exit_code == 0
    assert all(name in done.output for name in experiment_names())
    assert "175 beacons, 35 runs" in done.output
    assert "cifar100-10k-densenet8" in done.output


def test_options_reach_the_experiment(call, asked):
    done = call(
        "mnist-resnet", "--size", "full", "--seeds", "7-9", "--jobs", "2", "--device", "cuda", "--data-dir", "d"
    )
    assert done.exit_code == 0
    assert (asked["plan"].task.name, asked["plan"].seeds) == ("mnist-resnet8", (7, 8, 9))
    assert (asked["jobs"], asked["device"], asked["data_dir"]) == (2, "cuda", Path("d"))
    assert asked["out"] == Path("runs/paper/mnist-resnet-full")
    assert "stage 1 of 2: the grid" in done.output
    assert "a name: a statement (4.1)" in done.output


def test_the_reduced_size_and_its_directory_are_the_default(call, asked):
    assert call("mnist-resnet").exit_code == 0
    assert asked["plan"].task.name == "mnist10k-resnet8"
    assert asked["plan"].seeds == (100, 101, 102, 103, 104)
    assert asked["out"] == Path("runs/paper/mnist-resnet-reduced")


def test_what_failed_is_told(call, asked):
    asked["failed"] = {"b8-lr0.1-s0": "out of memory"}
    done = call("mnist-resnet")
    assert done.exit_code == 1
    assert "failed: b8-lr0.1-s0: out of memory" in done.output
    assert "The same command tries them again." in done.output


def test_ctrl_c_says_how_to_go_on(call, asked):
    asked["interrupt"] = True
    done = call("mnist-resnet")
    assert done.exit_code == 130
    assert "the same command goes on" in done.output


def test_mistakes_are_named(call):
    done = call("mnist-resnt")
    assert isinstance(done.exception, UnknownNameError)
    assert "did you mean 'mnist-resnet'" in str(done.exception)
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    assert isinstance(call("mnist-mlp", "--out", "full").exception, OutputError)
    assert call("mnist-mlp", "--seeds", "x").exit_code == 2

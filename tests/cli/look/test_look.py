"""The commands that look: explain, plot, beacons, envs, policies; and damaged files under all of them."""

import random
import shutil

import pytest

from autobatch.beacons import BeaconLibrary
from autobatch.cli import main
from autobatch.training import load_decisions, load_task


def test_explain_tells_every_change(home, call):
    plain = call("explain", "runs/follow")[1]
    assert "Why" in plain
    assert "whose upper end" not in plain
    assert "Weighed" not in plain
    code, out, err = call("explain", "-v", "runs/follow")
    assert (code, err) == (0, "")
    for phrase in ("tiny, beacon-follow, seed 7", "Why", "Weighed 6 candidates", "The run finished after 4 epochs"):
        assert phrase in out


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("b.svg", b"<?xml"), ("c.pdf", b"%PDF")])
def test_plot_writes_the_format_that_the_name_asks_for(home, call, name, start):
    assert call("plot", "runs/follow", "-o", name)[:2] == (0, f"{name}\n")
    assert (home / name).read_bytes().startswith(start)


def test_plot_refuses_another_format_before_it_works(home, refused):
    assert ".png or .pdf or .svg" in refused("plot", "runs/follow", "-o", "plane.bmp")


def test_beacons_are_listed_and_shown(home, call):
    code, out, _ = call("beacons", "list")
    assert code == 0
    assert "tiny" in out
    code, out, _ = call("beacons", "show", "tiny")
    assert code == 0
    assert "mean ± standard deviation over seeds" in out
    assert (home / "tiny-plane.png").read_bytes().startswith(b"\x89PNG")


def test_recording_again_trains_only_what_is_missing(home, call):
    grid = ("beacons", "record", "--env", "tiny", "--device", "cpu")
    assert "0 beacons recorded" in call(*grid)[1]
    code, out, _ = call(*grid, "--batch-sizes", "8", "--lrs", "0.1", "--seeds", "0,1,2")
    assert code == 0
    assert "1 beacons recorded" in out
    assert "2 were there" in out
    assert "13 beacons" in call("beacons", "compact", "tiny")[1]


@pytest.mark.parametrize(
    ("arguments", "phrases"),
    [
        (["record", "--env", "tiny", "--batch-sizes", "8;16"], ["--batch-sizes", "8;16"]),
        (["record", "--env", "tiny", "--batch-sizes", "8.5"], ["--batch-sizes", "8.5"]),
        (["record", "--env", "tiny", "--lrs", "fast"], ["--lrs", "fast"]),
        (["record", "--env", "tiny", "--lrs", "0"], ["0"]),
        (["record", "--env", "tiny", "--jobs", "-1"], ["--jobs"]),
        (["record", "--env", "tiny", "--batch-sizes", "100000"], ["100000", "training set"]),
        (["show", "mnist-mlp"], ["autobatch beacons record"]),
        (["show", "tinny"], ["did you mean 'tiny'?"]),
        (["compact", "mnist-mlp"], ["autobatch beacons record"]),
    ],
)
def test_mistakes_with_beacons_are_named(home, refused, arguments, phrases):
    said = refused("beacons", *arguments)
    for phrase in phrases:
        assert phrase in said


def test_beacons_of_another_task_are_not_followed_and_the_keys_that_differ_are_told(home, call):
    env = home / "envs" / "tiny" / "env.yaml"
    env.write_text(env.read_text().replace("hidden: [16]", "hidden: [17]"))
    code, said, _ = call("run", "--env", "tiny", "--device", "cpu", "--epochs", "6", "--out", "other")
    assert code == 0
    assert "no beacons to follow (the beacon library of 'tiny' was recorded for another task" in said
    assert "'model.arguments.hidden' is [16] in the library and [17] here" in said
    assert "): scouts go first" in said
    assert "2 scouts of 1 epoch each: s32 at lr 0.05, s32 at lr 0.1" in said
    assert "(the beacon library of 'tiny' was recorded for another task" in said


def test_beacons_of_another_length_say_where_to_start(home, call):
    code, said, _ = call("run", "--env", "tiny", "--device", "cpu", "--epochs", "6", "--out", "longer")
    assert code == 0
    length = load_task(home / "envs" / "tiny").epochs
    assert f"the beacons of this task trained {length} epochs, this run's length is another" in said
    assert not (home / "longer" / "scouts.json").exists()
    best = BeaconLibrary.load(home / "envs" / "tiny").best_fixed()
    first = load_decisions(home / "longer")[0]
    assert (first.batch_size, first.lr) == (best.batch_size, best.lr)
    beacons = len(BeaconLibrary.load(home / "envs" / "tiny").beacons)
    assert f"the best of {beacons} beacons of this task, which trained {length} epochs" in first.reason
    assert "'epochs' is" in said  # why there is no comparison
    code, _, _ = call("run", "--env", "tiny", "--device", "cpu", "--epochs", "6", "--resume", "longer")
    assert code == 0


def test_envs_and_policies_are_listed_with_those_that_are_broken(home, call):
    (home / "policies").mkdir()
    (home / "policies" / "broken.yaml").write_text("kind: nothing")
    code, out, _ = call("policies")
    assert code == 0
    for name in ("beacon-follow", "broken", "cannot be read", "s32-to-128-ms"):
        assert name in out
    (home / "envs" / "broken").mkdir()
    (home / "envs" / "broken" / "env.yaml").write_text("name: [")
    code, out, _ = call("envs")
    assert code == 0
    for name in ("digits-resnet8", "tiny", "broken", "cannot be read"):
        assert name in out


@pytest.mark.parametrize("command", ["explain", "plot"])
@pytest.mark.parametrize("name", ["config.yaml", "epochs.jsonl", "decisions.jsonl", "summary.json"])
def test_a_damaged_run_is_named(home, refused, command, name):
    (home / "runs" / "follow" / name).write_bytes(b"\x00\xff{]\n{}\n")
    assert name in refused(command, "runs/follow")


@pytest.mark.usefixtures("unpainted")
def test_no_damage_to_any_file_ends_in_a_traceback(home, capsys, monkeypatch):
    """200 mutated files of every kind, read by the commands that read them."""
    chance = random.Random(0)
    run = home / "runs" / "follow"
    env = home / "envs" / "tiny"
    targets = [
        *(
            (run / name, command)
            for name in ("config.yaml", "epochs.jsonl", "decisions.jsonl", "summary.json")
            for command in (["explain", str(run)], ["run", "--resume", str(run), "--quiet"])
        ),
        (run / "checkpoint" / "latest.safetensors", ["run", "--resume", str(run), "--quiet"]),
        (env / "env.yaml", ["run", "--env", "tiny", "--policy", "s8", "--epochs", "1", "--quiet", "--out", "again"]),
        (env / "beacons.parquet", ["beacons", "list"]),
        (env / "beacons.parquet", ["beacons", "compact", "tiny"]),
    ]
    for turn in range(200):
        path, command = targets[turn % len(targets)]
        whole = path.read_bytes()
        summary = (run / "summary.json").read_bytes()
        if path.suffix == ".safetensors":
            (run / "summary.json").unlink()  # only an unfinished run reads its checkpoint
        path.write_bytes(_mutated(whole, chance))
        with monkeypatch.context() as patch:
            if "list" in command:  # of the libraries here, not of those that are shipped, which takes long
                patch.setattr("autobatch._artefacts.artefact_roots", lambda: [home])
            code = main(command)
        captured = capsys.readouterr()
        assert code in {0, 2}, (path, command, captured)
        assert "Traceback" not in captured.out + captured.err
        path.write_bytes(whole)
        (run / "summary.json").write_bytes(summary)
        shutil.rmtree("again", ignore_errors=True)


def _mutated(content: bytes, chance: random.Random) -> bytes:
    data = bytearray(content)
    kind = chance.randrange(4)
    if kind == 0:
        return bytes(data[: chance.randrange(len(data))])
    if kind == 1:
        return chance.randbytes(chance.randrange(1, 400))
    start = chance.randrange(len(data))
    if kind == 2:
        data[start : start + chance.randrange(1, 20)] = chance.randbytes(chance.randrange(8))
    else:
        for _ in range(8):
            data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)

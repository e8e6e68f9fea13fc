"""``autobatch predict``: on runs of ``autobatch run`` and of other loops, and what it refuses."""

import json
import random
import shutil

import pytest

from autobatch.beacons import BeaconLibrary, predict_final, read_places
from autobatch.cli import main
from tests.beacons.synthetic import make_library

KEYS = ("epoch", "progress", "batch_size", "lr", "c_bar", "l_cum", "steps")


@pytest.fixture
def own(home):
    """A directory as a user's own loop leaves it: an ``epochs.jsonl`` with the necessary keys alone."""
    rows = [json.loads(line) for line in (home / "runs" / "follow" / "epochs.jsonl").read_text().splitlines()]
    write(home / "own", [{key: row[key] for key in KEYS} for row in rows])
    return home / "own"


def write(folder, rows):
    folder.mkdir(exist_ok=True)
    (folder / "epochs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_of(folder):
    return [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]


def test_a_finished_run_is_predicted_and_compared_with_what_it_came_to(home, call):
    code, out, err = call("predict", "tiny", "runs/follow", "--epoch", "1")
    assert (code, err) == (0, "")
    for phrase in (
        "tiny, beacon-follow, seed 7 after epoch 1 of 4, 25 % of the training",
        "Stands at",
        "final validation loss",
        "of 6 configurations",
        "Came to",
        "Best beacons",
        "How good such predictions are",
        "predicted without",
        "its configuration",
        "vouch for",
    ):
        assert phrase in out
    assert "taken on trust" not in out


def test_the_figures_are_those_of_predict_final(home, call, own):
    place = read_places(own)[1]
    library = BeaconLibrary.load("envs/tiny")
    prediction = predict_final(library, place, place.batch_size, place.lr, level=0.5)
    code, out, _ = call("predict", "envs/tiny/beacons.parquet", "own", "--epoch", "2", "--level", "0.5")
    assert code == 0
    low, high = prediction.interval
    assert f"final validation loss {prediction.score:.4f}, {low:.4f} to {high:.4f} for 50 % of such runs" in out
    first, last = prediction.rank_interval
    assert f"{prediction.rank} of 6 configurations, {first} to {last} by the interval" in out


def test_a_run_of_another_loop_is_taken_on_trust(call, own):
    code, out, _ = call("predict", "envs/tiny", "own")
    assert code == 0
    assert "own after epoch 4 of 4" in out
    assert "taken on trust" in out
    assert "final validation loss is not known" in out


def test_a_change_of_configuration_is_said(call, own):
    rows = rows_of(own)
    write(own, [rows[0] | {"batch_size": 8}, rows[1] | {"batch_size": 24}])
    code, out, _ = call("predict", "tiny", "own")
    assert code == 0
    assert "has changed its configuration" in out
    assert "of which there is no beacon" in out
    assert "of 7 configurations" in out


def test_weak_and_diverged_beacons_are_said(call, own, home):
    library = BeaconLibrary.load("envs/tiny")
    code, out, _ = call("predict", "tiny", "own")
    assert code == 0
    (last,) = read_places(own)[-1:]
    quality = predict_final(library, last, last.batch_size, last.lr).quality
    assert ("too little to choose" in out) == (not quality.rank_correlation >= 0.5)
    assert ("ranks new configurations better" in out) == (quality.early_rank_correlation > quality.rank_correlation)
    make_library((8, 32, 128), (0.05, 0.1), (0,), diverged={(8, 0.1, 0)}).save(home / "law.parquet")
    write(own, [row | {"batch_size": 8, "lr": 0.1} for row in rows_of(own)[:1]])
    code, out, _ = call("predict", "law.parquet", "own")
    assert code == 0
    assert "is one beacon, 1 of which diverged" in out
    assert "Beacons of this configuration diverged" in out


def test_an_unfinished_run_has_come_to_nothing_yet(home, call):
    run = home / "runs" / "follow"
    (run / "summary.json").unlink()
    write(run, rows_of(run)[:2])
    code, out, _ = call("predict", "tiny", "runs/follow")
    assert code == 0
    assert "after epoch 2 of 4" in out
    assert "Came to" not in out


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (["tinny", "runs/follow"], "did you mean 'tiny'?"),
        (["mnist-mlp", "runs/follow"], "autobatch beacons record"),
        (["nowhere/at/all", "runs/follow"], "nowhere/at/all"),
        (["tiny", "runs/nothing"], "runs/nothing: holds no run"),
        (["tiny", "envs"], "holds no run"),
        (["runs/follow"], "LIBRARY is missing: autobatch predict LIBRARY RUN"),
        (["tiny"], "RUN is missing: autobatch predict LIBRARY RUN"),
        (["tiny", "runs/follow", "--epoch", "9"], "--epoch 9: runs/follow has epochs 1 to 4"),
        (["tiny", "runs/follow", "--epoch", "0"], "--epoch"),
        (["tiny", "runs/follow", "--epoch", "first"], "--epoch"),
        (["tiny", "runs/follow", "--level", "1.5"], "between 0 and 1"),
        (["tiny", "runs/follow", "--level", "90%"], "--level"),
        (["digits-mlp", "runs/follow"], "recorded for another task"),
    ],
)
def test_mistakes_are_named(home, refused, arguments, phrase):
    assert phrase in refused("predict", *arguments)


def test_another_task_is_refused_with_the_keys_that_differ(home, refused):
    said = refused("predict", "digits-mlp", "runs/follow")
    assert "model.arguments.hidden" in said
    assert "'epochs' is 40 in the library and 4 here" in said


def test_a_run_that_was_not_measured_is_named(refused, own):
    rows = rows_of(own)
    write(own, [row | {"c_bar": None, "l_cum": 0.0} for row in rows])
    assert "was it measured?" in refused("predict", "tiny", "own")
    write(own, [rows[0] | {"c_bar": None, "l_cum": 0.0}, *rows[1:]])
    assert "the first that has one is epoch 2" in refused("predict", "tiny", "own", "--epoch", "1")


def test_a_run_without_a_finished_epoch_is_named(refused, own):
    (own / "epochs.jsonl").write_text('{"epoch": 1, "progr')
    assert "no epoch is finished yet" in refused("predict", "tiny", "own")


def test_no_damage_ends_in_a_traceback(home, capsys):
    chance = random.Random(1)
    run = home / "runs" / "follow"
    for turn in range(40):
        path = run / ("epochs.jsonl", "config.yaml", "decisions.jsonl", "summary.json")[turn % 4]
        whole = path.read_bytes()
        data = bytearray(whole)
        start = chance.randrange(len(data))
        data[start : start + chance.randrange(1, 30)] = chance.randbytes(chance.randrange(20))
        path.write_bytes(bytes(data))
        code = main(["predict", "tiny", str(run), "--epoch", "1"])
        captured = capsys.readouterr()
        assert code in {0, 2}, (path, captured)
        assert "Traceback" not in captured.out + captured.err
        path.write_bytes(whole)
    shutil.rmtree(run)

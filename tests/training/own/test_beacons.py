"""Beacons of a loop of one's own: a grid of fixed runs, whatever the loop tells and whatever interrupts it."""

import math
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autobatch import AutoBatchController, record_beacons
from autobatch._errors import AutoBatchError, ConfigError, LibraryError
from autobatch.beacons import Beacon, BeaconKey, BeaconLibrary, Landscape, choose_rule
from autobatch.control import BatchPlan, Measuring, Rates, TaskFacts
from autobatch.control.settings._own_task import LOOP
from autobatch.report import library_table, save_plane
from autobatch.training.own._costs import recorded_costs
from tests.beacons.synthetic import make_beacon, make_library
from tests.training.own.own_loops import EPOCHS, EXAMPLES, accident, explode, only_error, train
from tests.training.recording.watcher import Watcher

GRID: dict[str, Any] = {"batch_sizes": (8, 16), "lrs": (0.1, 0.5), "seeds": (0,)}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Beacons of the whole grid, recorded across an interruption."""
    out = tmp_path_factory.mktemp("own") / "mine"
    watcher = Watcher(interrupt_at=3)
    with pytest.raises(KeyboardInterrupt):
        record_beacons(train, out=out, observer=watcher, **GRID)
    assert list(watcher.finished) == ["b8-lr0.1-s0", "b8-lr0.5-s0", "b16-lr0.1-s0"]
    assert len(BeaconLibrary.load(out).beacons) == 3
    watcher = Watcher()
    record_beacons(train, out=out, observer=watcher, **GRID)
    assert list(watcher.finished) == ["b16-lr0.5-s0"]
    assert (watcher.progress[0].done, watcher.progress[-1].done, watcher.progress[-1].total) == (3, 4, 4)
    assert watcher.progress[-1].seconds_left == 0.0
    return out


def test_a_library_is_what_the_controllers_have_seen(recorded: Path) -> None:
    assert [path.name for path in recorded.iterdir() if path.is_file()] == ["beacons.parquet"]
    library = BeaconLibrary.load(recorded)
    assert [beacon.key for beacon in library.beacons] == [BeaconKey(b, lr, 0) for b in (8, 16) for lr in (0.1, 0.5)]
    assert (library.task_name, library.score, library.info.sampling_interval) == ("mine", "validation_loss", 50)
    assert library.task[LOOP]["optimizer"]["groups"]["0"]["momentum"] == 0
    assert (library.task[LOOP]["dataset_size"], library.task[LOOP]["epochs"]) == (EXAMPLES, EPOCHS)
    assert library.info.commands == (
        "autobatch.record_beacons(tests.training.own.own_loops.train, batch_sizes=(8, 16), lrs=(0.1, 0.5), seeds=(0,))",
    )
    for beacon in library.beacons:
        rows = beacon.rows
        assert rows["epoch"].tolist() == [1, 2, 3]
        assert rows["steps"].tolist() == [EXAMPLES // beacon.batch_size * epoch for epoch in (1, 2, 3)]
        assert rows["examples"].tolist() == [EXAMPLES, 2 * EXAMPLES, 3 * EXAMPLES]
        assert np.isfinite(rows["c_bar"]).all()
        assert np.isnan(rows["train_loss"]).all()
        assert (beacon.test_loss, beacon.test_error) == (
            beacon.final("validation_loss"),
            beacon.final("validation_error"),
        )
        assert rows["lr_effective"].tolist() == [beacon.lr] * 3
        assert (rows["seconds"] > rows["measuring_seconds"]).all()


def test_the_library_has_what_steps_and_samples_took(recorded: Path) -> None:
    library = BeaconLibrary.load(recorded)
    costs = library.costs
    assert costs is not None
    assert costs.device.startswith("cpu ")
    assert costs.step_seconds.keys() == costs.measuring_seconds.keys() == {8, 16}
    for beacon in library.beacons:
        seconds = np.diff(beacon.rows["seconds"] - beacon.rows["measuring_seconds"])
        steps = EXAMPLES // beacon.batch_size
        assert 0.0 < costs.training_seconds(beacon.batch_size, steps, epochs=1) <= max(seconds)


def test_costs_are_read_off_whole_stretches_between_validations() -> None:
    clear, rare, busy = (make_beacon(32, 0.1, seed) for seed in (0, 1, 2))
    rows = {name: values.copy() for name, values in rare.rows.items()}
    for figure in ("validation_loss", "validation_error"):  # validated after epochs 5, 10, 15 and 20, for 3 s each
        rows[figure][np.arange(20) % 5 != 4] = np.nan
    rows["seconds"] += 3.0 * np.floor(rows["epoch"] / 5)
    rare = Beacon(*rare.key, rows, math.nan, math.nan)
    busy = Beacon(*busy.key, {**busy.rows, "seconds": 10.0 * busy.rows["seconds"]}, math.nan, math.nan)
    table = recorded_costs([clear, busy], "here")
    assert (table.device, table.epoch_seconds) == ("here", 0.0)
    assert table.step_seconds == {32: pytest.approx(0.011)}
    assert table.measuring_seconds == {32: pytest.approx(0.025)}
    per_epoch = 1024 // 32
    assert recorded_costs([rare], "here").training_seconds(32, 5 * per_epoch, 5) == pytest.approx(
        0.011 * 5 * per_epoch + 3.0
    )
    broken = make_beacon(64, 0.1, 0, diverged_after=1)
    assert recorded_costs([broken], "here").step_seconds.keys() == {64}


def test_recording_again_trains_nothing_and_more_seeds_join(recorded: Path, tmp_path: Path) -> None:
    def forbidden(controller: AutoBatchController) -> None:
        raise AssertionError("nothing is missing")

    library = record_beacons(forbidden, out=recorded, **GRID)
    assert len(library.beacons) == 4
    assert library.costs is not None


def test_beacons_drive_beacon_follow_in_the_same_loop(recorded: Path) -> None:
    library = BeaconLibrary.load(recorded)
    controller = AutoBatchController(
        policy="beacon-follow",
        library=recorded,
        batch_sizes=(8, 16),
        rates=Rates(learning_rates=(0.1, 0.5)),
        task=TaskFacts(costs=library.costs),
        seed=5,
    )
    train(controller)
    assert controller.finished
    assert (controller.batch_size, controller.lr) in library.configurations
    assert len(controller.decision.alternatives) == 4


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden": 5}, "'parameters' is 38 in the library and 47 here"),
        ({"weight_decay": 0.1}, r"'optimizer.groups.0.weight_decay' is 0.0 in the library and 0.1 here"),
        ({"epochs": 4}, "'epochs' is 3 in the library and 4 here"),
    ],
)
def test_another_loop_is_refused_at_its_start(recorded: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(AutoBatchError, match=f"no beacon could be recorded; b8-lr0.1-s1: (?s:.)*{named}"):
        record_beacons(partial(train, **changes), out=recorded, batch_sizes=(8,), lrs=(0.1,), seeds=(1,))
    follower = AutoBatchController(
        policy="beacon-follow", library=recorded, batch_sizes=(4, 8), rates=Rates(learning_rates=(0.05, 0.1))
    )
    with pytest.raises(LibraryError, match=named):
        train(follower, **changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"task": {"data": "leaves"}}, "'task.data' is absent and \"leaves\""),
        ({"num_classes": 3}, "'task.num_classes' is absent and 3"),
        ({"score": "validation_error"}, '\'score\' is "validation_loss" and "validation_error"'),
        ({"interval": 3}, "'sampling_interval' is 50 and 3"),
        ({"options": {"measuring": Measuring(bn="exact")}}, '\'bn\' is "rows" and "exact"'),
    ],
)
def test_beacons_of_another_task_are_refused_before_training(
    recorded: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(LibraryError, match=named):
        record_beacons(train, out=recorded, **(GRID | changes))


def test_a_loop_may_know_its_error_alone(tmp_path: Path) -> None:
    library = record_beacons(only_error, out=tmp_path / "mine", task_name="errors", **GRID)
    assert library.score == "validation_error"
    for beacon in library.beacons:
        assert np.isnan(beacon.rows["validation_loss"]).all()
        assert math.isnan(beacon.test_error)
    for result in library.results():
        assert math.isnan(result.mean["validation_loss"])
        assert math.isnan(result.mean["test_loss"])
        assert math.isfinite(result.mean["validation_error"])
    table = library_table(library)
    cells = {column.header: list(column.cells) for column in table.columns}
    assert set(cells["validation loss"]) == set(cells["test error"]) == {"-"}
    assert "-" not in cells["validation error"]
    save_plane(tmp_path / "plane.png", None, library)
    assert (tmp_path / "plane.png").exists()
    assert math.isfinite(float(Landscape.fit(library, rule=choose_rule(library)).predict(10.0, 0.1).score))


def test_a_loop_may_validate_now_and_then(tmp_path: Path) -> None:
    epochs: list[int] = []

    def rarely(model: torch.nn.Module, figures: dict[str, float]) -> None:
        epochs.append(1)
        if len(epochs) % 3:
            figures.clear()

    library = record_beacons(
        partial(train, at_end=rarely), out=tmp_path, batch_sizes=(16,), lrs=(0.1,), seeds=(0,), task_name="rare"
    )
    (beacon,) = library.beacons
    assert np.isnan(beacon.rows["validation_loss"]).tolist() == [True, True, False]


def test_decision_periods_within_an_epoch_are_rows(tmp_path: Path) -> None:
    library = record_beacons(
        partial(train, epochs=1),
        out=tmp_path,
        options={"plan": BatchPlan(decide_every=16)},
        batch_sizes=(8,),
        lrs=(0.1,),
        seeds=(0,),
    )
    (beacon,) = library.beacons
    assert beacon.rows["epoch"].tolist() == [1, 2, 3, 4]
    assert beacon.rows["progress"] == pytest.approx([1 / 4, 1 / 2, 3 / 4, 1.0])
    assert np.isnan(beacon.rows["validation_loss"]).tolist() == [True, True, True, False]
    assert library.task[LOOP]["decide_every"] == 16


def test_a_diverged_beacon_is_kept_and_stands_badly(tmp_path: Path) -> None:
    def diverging(controller: AutoBatchController) -> None:
        def at_end(model: torch.nn.Module, figures: dict[str, float]) -> None:
            if (controller.batch_size, controller.lr) == (16, 0.5):
                explode(model, figures)

        train(controller, at_end=at_end)

    watcher = Watcher()
    library = record_beacons(diverging, out=tmp_path, observer=watcher, **GRID)
    assert watcher.finished["b16-lr0.5-s0"] == "diverged: the parameters are no longer finite in row 1"
    (beacon,) = library.beacons_at(16, 0.5)
    assert not beacon.finished
    assert len(beacon.rows["epoch"]) == 1
    assert math.isnan(beacon.test_error)
    points = Landscape.fit(library).points
    assert points.finished.tolist() == [True, True, True, False]
    assert points.score[3] == library.diverged_score > 1.9 * points.score[:3].max()
    with pytest.raises(LibraryError, match="num_classes"):
        _ = library.chance_score
    assert "1 diverged" in list(library_table(library).columns[2].cells)[-1]


def test_a_first_beacon_that_diverges_has_the_score_of_the_others(tmp_path: Path) -> None:
    def diverging(controller: AutoBatchController) -> None:
        def at_end(model: torch.nn.Module, figures: dict[str, float]) -> None:
            if controller.lr == 0.1:
                explode(model, figures)

        train(controller, at_end=at_end)

    library = record_beacons(diverging, out=tmp_path, num_classes=2, **GRID)
    assert library.score == "validation_loss"
    assert library.diverged_score == library.chance_score == pytest.approx(math.log(2))


def infinite(model: torch.nn.Module, figures: dict[str, float]) -> None:
    figures["val_loss"] = math.inf


def huge(model: torch.nn.Module, figures: dict[str, float]) -> None:
    figures["train_loss"] = 50.0


@pytest.mark.parametrize(("at_end", "seen"), [(infinite, "loss became inf"), (huge, "10 times that of guessing")])
def test_divergence_is_seen(tmp_path: Path, at_end: Any, seen: str) -> None:
    library = record_beacons(
        partial(train, at_end=at_end),
        out=tmp_path,
        num_classes=2,
        score="validation_loss",
        batch_sizes=(8,),
        lrs=(0.1,),
        seeds=(0,),
    )
    assert seen in library.beacons[0].stopped_because


def test_one_that_raises_is_left_out_and_named(tmp_path: Path) -> None:
    watcher = Watcher()
    with pytest.warns(UserWarning, match=r"2 of 4 beacons could not be recorded(?s:.)*b8-lr0.1-s1: ValueError"):
        library = record_beacons(
            accident, out=tmp_path, batch_sizes=(8, 16), lrs=(0.1,), seeds=(0, 1), observer=watcher
        )
    assert [beacon.seed for beacon in library.beacons] == [0, 0]
    assert "an accident" in watcher.failed["b8-lr0.1-s1"]
    assert "own_loops.py" in watcher.failed["b8-lr0.1-s1"]


def never_attaches(controller: Any) -> None:
    pass


def never_trains(controller: Any) -> None:
    model = torch.nn.Linear(1, 1)
    controller.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), dataset_size=16, epochs=1)


def stops_early(controller: Any) -> None:
    def stop(model: torch.nn.Module, figures: dict[str, Any]) -> None:
        figures["stop"] = True

    train(controller, at_end=stop)


def returns_early(controller: Any) -> None:
    class Enough(Exception):
        pass

    def enough(model: torch.nn.Module, figures: dict[str, Any]) -> None:
        if controller.epoch == 1:
            raise Enough

    with suppress(Enough):
        train(controller, at_end=enough)


def percent(controller: Any) -> None:
    def times_hundred(model: torch.nn.Module, figures: dict[str, float]) -> None:
        figures["val_error"] = 55.0

    train(controller, at_end=times_hundred)


@pytest.mark.parametrize(
    ("loop", "message"),
    [
        (never_attaches, "never attached the controller: call controller.attach"),
        (never_trains, "returned without an epoch"),
        (stops_early, "stopped the training early after 33.3 % of the training"),
        (returns_early, "returned after 33.3 % of the training"),
        (percent, r"val_error=...\): expected a share in \[0, 1\], got 55"),
        (partial(train, figures=()), "ended without a finite validation loss, by which beacons are judged"),
        (partial(train, epochs=0), "epochs"),
    ],
)
def test_a_loop_that_does_not_do_its_part_is_told_so(tmp_path: Path, loop: Any, message: str) -> None:
    with pytest.raises(AutoBatchError, match=message):
        record_beacons(loop, out=tmp_path, batch_sizes=(8,), lrs=(0.1,), seeds=(0,))
    assert not list(tmp_path.glob("**/*.parquet"))


def test_test_figures_that_cannot_be_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def wrong(controller: Any) -> dict[str, Any]:
        train(controller)
        return {"test_error": 12.0, "test_loss": "low"}

    library = record_beacons(wrong, out=tmp_path, batch_sizes=(8,), lrs=(0.1,), seeds=(0,))
    assert math.isnan(library.beacons[0].test_error)
    assert math.isnan(library.beacons[0].test_loss)
    assert "test_error 12.0, expected a share in [0, 1]" in caplog.text


def test_a_process_of_its_own_records_the_same(tmp_path: Path, recorded: Path) -> None:
    watcher = Watcher()
    (mine,) = record_beacons(
        train, out=tmp_path, jobs=2, observer=watcher, batch_sizes=(16,), lrs=(0.1,), seeds=(0,)
    ).beacons
    assert watcher.finished == {"b16-lr0.1-s0": "finished"}
    (theirs,) = BeaconLibrary.load(recorded).beacons_at(16, 0.1)
    for column in ("c_bar", "l_cum", "validation_loss", "steps", "samples"):
        np.testing.assert_array_equal(mine.rows[column], theirs.rows[column])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_sizes": ()}, "batch_sizes: expected at least one"),
        ({"batch_sizes": (0,)}, "batch_sizes: expected whole numbers of at least 1, got 0"),
        ({"lrs": (-1.0,)}, "lrs"),
        ({"seeds": (0.5,)}, "seeds"),
        ({"jobs": 0}, "jobs"),
        ({"jobs": 2, "train": lambda controller: None}, "top of a module"),
        ({"train": "train"}, "train: expected a function"),
        ({"score": "accuracy"}, "score"),
        ({"interval": 0}, "interval"),
        ({"num_classes": 1}, "num_classes"),
        ({"num_classes": 3, "task": {"num_classes": 2}}, "num_classes"),
        ({"task": {"loop": 1}}, "'loop'"),
        ({"task": {"model": object()}}, "JSON"),
        ({"options": {"policy": "fixed"}}, "'policy'"),
    ],
)
def test_what_cannot_be_recorded_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    arguments = {"train": train, "out": tmp_path / "mine", **GRID, **changes}
    with pytest.raises(ConfigError, match=message):
        record_beacons(arguments.pop("train"), **arguments)
    assert not (tmp_path / "mine").exists()


def test_beacons_of_a_task_with_an_env_are_left_alone(tmp_path: Path) -> None:
    make_library(batch_sizes=(8,)).save(tmp_path)
    with pytest.raises(LibraryError, match="'autobatch beacons record'; choose another folder"):
        record_beacons(train, out=tmp_path, **GRID)


def test_a_library_has_a_folder_of_its_own_where_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    library = record_beacons(train, batch_sizes=(8,), lrs=(0.1,), seeds=(0,))
    assert BeaconLibrary.load("envs/own").configurations == library.configurations == ((8, 0.1),)

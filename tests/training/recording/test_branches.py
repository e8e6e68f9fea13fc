"""Recording branch runs: every branch leaves from the very state of its trunk, which goes on as if nothing had been."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from autobatch._errors import ConfigError, LibraryError, OutputError
from autobatch.beacons import BeaconKey, BeaconLibrary, Branches, Journey
from autobatch.cells import Cell
from autobatch.cli import main
from autobatch.policies import Moves, PolicySpec
from autobatch.policies.baselines import FixedPolicy
from autobatch.training import RecordingResult, TaskSpec, load_data, load_epochs, load_task, record_task_branches, run
from autobatch.training._engine import reproducible
from autobatch.training._recorded import recording_info
from autobatch.training._trial import Trial
from autobatch.training.recording._branch_jobs import (
    BranchJob,
    Configuration,
    _journeys,
    branch_targets,
    journey_course,
    usual_switch_epochs,
)
from autobatch.training.recording._branches import BranchMaker, BranchRecorder
from tests.beacons.synthetic import Law, make_beacon, make_library
from tests.training.recording.watcher import Watcher
from tests.training.tiny import fixed, tiny_config, tiny_task

CPU = torch.device("cpu")
DIGITS = Moves((8, 16, 32, 64, 128, 256, 512), (0.025, 0.05, 0.1, 0.2, 0.4))


def tiny_library(task: TaskSpec) -> BeaconLibrary:
    """A library that says it is of the task, without training it."""
    beacon = make_beacon(16, 0.1, 1, law=Law(epochs=task.epochs))
    return BeaconLibrary((beacon,), recording_info(task, load_data(task), None, "how"))


def recorded(job: BranchJob, env_dir: Path, task: TaskSpec) -> tuple[tuple[Journey, ...], list[float]]:
    """Record one job in this process; returns what its file holds, and what was reported."""
    reports: list[float] = []
    library = tiny_library(task)
    recorder = BranchRecorder(task, library.info, BranchMaker(env_dir, "cpu"), load_data(task), library)
    recorder(Cell(job.name, 1.0, job.to_dict()), reports.append)
    return Branches.load(env_dir / "branches" / f"{job.origin.name}.parquet").journeys, reports


def by_hand(task: TaskSpec, course: Sequence[Configuration], seed: int) -> list[dict[str, float]]:
    """Rows of a training that is steered along a course, without branches."""
    with reproducible(CPU, 1):
        trial = Trial(tiny_config(fixed(16), task, seed=seed, recording=True), data=load_data(task), device=CPU)
        rows = []
        for configuration in course:
            trial.decide(*configuration)
            rows.append(trial.period().to_dict())
    return rows


def same_figures(journey: Journey, rows: Sequence[dict[str, float]]) -> bool:
    clocks = {"seconds", "measuring_seconds"}
    return all(
        values.tolist() == [row[name] for row in rows] for name, values in journey.rows.items() if name not in clocks
    )


def test_branches_leave_from_the_trunk_and_leave_no_trace_in_it(tmp_path: Path) -> None:
    task, trunk = tiny_task(), (16, 0.1)
    job = BranchJob("branch", 7, (trunk,) * 3, {1: ((8, 0.05), (32, 0.1)), 3: ((8, 0.1),)}, 2, 4)
    branches, reports = recorded(job, tmp_path, task)
    assert reports == [epochs / 8 for epochs in range(3 + 4 + 1 + 1)]
    assert [journey.kind for journey in branches] == ["branch"] * 3

    summary_rows = load_epochs_of_a_run(task, tmp_path / "run")
    for journey in branches:
        at = int(journey.rows["epoch"][0])
        target = (int(journey.rows["batch_size"][1]), float(journey.rows["lr"][1]))
        own = len(journey.rows["epoch"]) - 1
        assert same_figures(journey, by_hand(task, [trunk] * at + [target] * own, 7)[at - 1 :])
        before = summary_rows[at - 1]  # what the ordinary run of this configuration and seed says
        assert all(journey.rows[name][0] == before[name] for name in ("c_bar", "l_cum", "validation_loss", "examples"))
        assert np.all(np.diff(journey.rows["seconds"]) > 0)
    assert [len(journey.rows["epoch"]) for journey in branches] == [3, 3, 2]  # the training ends at epoch 4


def load_epochs_of_a_run(task: TaskSpec, out: Path) -> list[dict[str, float]]:
    run(tiny_config(fixed(16, 0.1), task, seed=7, recording=True, costs=None), out)
    return [row.to_dict() for row in load_epochs(out)]


def test_a_journey_is_recorded_from_its_first_epoch(tmp_path: Path) -> None:
    task, course = tiny_task(), ((8, 0.05), (8, 0.05), (32, 0.05), (16, 0.1))
    (journey,), reports = recorded(BranchJob("journey", 9, course), tmp_path, task)
    assert (journey.kind, journey.stopped_because, reports) == ("journey", "finished", [0.0, 0.25, 0.5, 0.75, 1.0])
    assert same_figures(journey, by_hand(task, course, 9))


def test_divergence_is_kept_and_the_trunk_goes_on(tmp_path: Path) -> None:
    task = tiny_task(learning_rates=[0.05, 0.1, 1e6])
    job = BranchJob("branch", 7, ((16, 0.1),) * 2, {1: ((8, 1e6), (8, 0.1)), 2: ((8, 0.1),)}, 2, 4)
    branches, _ = recorded(job, tmp_path, task)
    assert [journey.stopped_because.partition(":")[0] for journey in branches] == ["diverged", "finished", "finished"]
    assert len(branches[0].rows["epoch"]) == 2
    assert same_figures(branches[1], by_hand(task, [(16, 0.1), (8, 0.1), (8, 0.1)], 7))

    job = BranchJob("branch", 8, ((8, 1e6),) * 2, {2: ((8, 0.1),)}, 2, 4)
    (journey,), _ = recorded(job, tmp_path, task)
    assert (journey.kind, journey.origin) == ("journey", BeaconKey(8, 1e6, 8))
    assert journey.stopped_because.startswith("diverged")


def test_a_recording_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = tiny_task()
    library = tiny_library(task)

    def record(observer: Watcher, task: TaskSpec = task) -> RecordingResult:
        grid: dict[str, Any] = {"batch_sizes": (8, 32), "learning_rates": (0.1,), "targets": 1, "length": 1}
        return record_task_branches(task, tmp_path, library, **grid, journeys=1, command="how", observer=observer)

    watcher = Watcher(interrupt_at=1)
    with pytest.raises(KeyboardInterrupt):
        record(watcher)
    (first,) = watcher.finished
    assert "s8" not in first
    (part,) = (tmp_path / "branches").glob("*.parquet")
    kept = part.read_bytes()

    with monkeypatch.context() as patch:
        patch.setattr(BranchRecorder, "config", no_space)
        watcher = Watcher()
        result = record(watcher)
    assert (result.recorded, result.found) == (0, 1)
    assert result.failed == watcher.failed == dict.fromkeys(watcher.failed, "no space left")
    assert len(watcher.failed) == 2
    file = tmp_path / "branches.parquet"
    assert told(Branches.load(file)) == told(loaded(kept, tmp_path))  # what there is, is gathered all the same

    watcher = Watcher()
    result = record(watcher)
    assert (result.recorded, result.found, result.failed) == (2, 1, {})
    assert first not in watcher.finished
    assert (watcher.progress[0].done, watcher.progress[-1].done, watcher.progress[-1].total) == (1, 3, 3)
    assert watcher.progress[-1].seconds_left == 0.0
    assert not list((tmp_path / "branches").iterdir())
    branches = Branches.load(tmp_path)
    trunks = {journey.origin for journey in branches.journeys if journey.kind == "branch"}
    assert trunks == {BeaconKey(8, 0.1, 1001), BeaconKey(32, 0.1, 1005)}  # one seed for each configuration of the task
    assert [journey.seed for journey in branches.journeys if journey.kind == "journey"] == [1006]
    assert branches.info.commands == ("how",)

    content = file.read_bytes()
    assert record(Watcher()).recorded == 0
    assert file.read_bytes() == content
    with pytest.raises(LibraryError, match="'epochs' is 4 in the library and 3 here"):
        record(Watcher(), task.model_copy(update={"epochs": 3}))
    with pytest.raises(LibraryError, match="'sampling_interval' is 50 and 7"):
        record(Watcher(), tiny_task(measuring={"interval": 7, "floor": 2, "budget": 0.3}))


def no_space(*_: object) -> None:
    raise OutputError("no space left")


def loaded(content: bytes, folder: Path) -> Branches:
    file = folder / "kept.parquet"
    file.write_bytes(content)
    return Branches.load(file)


def told(branches: Branches) -> list[object]:
    return [(one.name, {name: values.tolist() for name, values in one.rows.items()}) for one in branches.journeys]


def test_what_is_drawn_is_near_and_always_the_same() -> None:
    assert usual_switch_epochs(load_task("digits-resnet8")) == (2, 8, 19, 21, 31)
    assert usual_switch_epochs(tiny_task()) == (1, 3)
    assert usual_switch_epochs(tiny_task(epochs=2, schedule={"name": "constant"})) == (1,)
    distances = []
    for batch_size in DIGITS.batch_sizes:
        for epoch in range(1, 40):
            trunk = (batch_size, 0.1)
            drawn = branch_targets(DIGITS, trunk, 1000, epoch, 6)
            assert branch_targets(DIGITS, trunk, 1000, epoch, 2) == drawn[:2]
            assert len({trunk, *drawn}) == 7
            (batch, rate), (own_batch, own_rate) = DIGITS.rungs(*drawn[0]), DIGITS.rungs(*trunk)
            distances.append(max(abs(batch - own_batch), abs(rate - own_rate)))
    shares = [distances.count(distance) / len(distances) for distance in (0, 1, 2)]
    assert shares == [0.0, pytest.approx(0.5, abs=0.07), pytest.approx(0.3, abs=0.07)]
    assert len(branch_targets(Moves((8, 16), (0.1,)), (8, 0.1), 0, 1, 9)) == 1
    assert branch_targets(Moves((8,), (0.1,)), (8, 0.1), 0, 1, 9) == ()

    courses = [journey_course(DIGITS, seed, 40) for seed in range(1035, 1065)]
    assert courses == [journey_course(DIGITS, seed, 40) for seed in range(1035, 1065)]
    holds = [len(list(stretch)) for course in courses for _, stretch in groupby(course)]
    assert all(len(course) == 40 for course in courses)
    assert set(holds) == set(range(1, 13))
    assert journey_course(Moves((8,), (0.1,)), 0, 3) == ((8, 0.1),) * 3


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"jobs": -1}, "jobs: expected at least 0, got -1"),
        ({"length": 0}, "length: expected at least 1, got 0"),
        ({"targets": -1}, "targets: expected at least 0, got -1"),
        ({"journeys": -1}, "journeys: expected at least 0, got -1"),
        ({"seed": -1}, "seed: expected at least 0, got -1"),
        ({"seed": 2**62}, "seed: expected less than"),
        ({"targets": 0}, "nothing to record"),
        ({"batch_sizes": (8, 24)}, "batch size of the trunks: expected values of the task's, 8, 16, 32, got 24"),
        ({"learning_rates": (0.3,)}, "learning rate of the trunks: expected values of the task's, 0.05, 0.1, got 0.3"),
        ({"epochs_at": (2, 4)}, "expected finished epochs from 1 to 3, task 'tiny' having 4, got 4"),
        ({"epochs_at": (0,)}, "expected finished epochs from 1 to 3"),
        ({"epochs_at": ()}, "expected at least one"),
        ({"doubts": len}, "least sure: it chooses among journeys at random"),
        ({"doubts": len, "journeys": 1, "follow": fixed(16)}, "expected some, and no policy to follow"),
        ({"batch_sizes": ()}, "expected at least one"),
    ],
)
def test_impossible_plans_are_refused(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    task = tiny_task()
    with pytest.raises(ConfigError) as caught:
        record_task_branches(task, tmp_path, make_library(), **changes)
    assert complaint in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_tasks_in_which_nothing_can_change_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to record"):
        record_task_branches(tiny_task(batch_sizes=[8], learning_rates=[0.1]), tmp_path, make_library())
    with pytest.raises(ConfigError, match="task 'tiny' has one epoch"):
        record_task_branches(tiny_task(epochs=1), tmp_path, make_library())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the env ``tiny`` and its library."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AUTOBATCH_PATH", raising=False)
    task = tiny_task()
    env = tmp_path / "envs" / "tiny"
    env.mkdir(parents=True)
    (env / "env.yaml").write_text(yaml.safe_dump(task.model_dump(mode="json", exclude_defaults=True)))
    tiny_library(task).save(env)
    return tmp_path


def test_the_command_records_in_processes(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["beacons", "branch", "--env", "tiny", "--out", "here", "--batch-sizes", "16", "--lrs", "0.1"]
    assert main([*command, "--epochs-at", "1,2", "--targets", "1", "--journeys", "1", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "2 trunks and journeys, 0 of them are there already" in said
    assert "trunk b16-lr0.1-s1003: 2 branches" in said
    assert "2 trunks and journeys recorded in" in said
    assert [journey.kind for journey in Branches.load(home / "here").journeys] == ["branch"] * 2 + ["journey"]
    assert main(["beacons", "compact", "here"]) == 0
    assert "3 branches and journeys" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "phrases"),
    [
        (["--env", "tinny"], ["unknown env 'tinny'", "did you mean 'tiny'?"]),
        (["--env", "tiny", "--batch-sizes", "24"], ["expected values of the task's, 8, 16, 32, got 24"]),
        (["--env", "tiny", "--epochs-at", "4"], ["from 1 to 3"]),
        (
            ["--env", "tiny", "--epochs-at", "soon"],
            ["--epochs-at", "expected whole numbers and ranges such as 2,8,19, got 'soon'"],
        ),
        (["--env", "tiny", "--out", "file"], ["file", "cannot be written"]),
        (["--env", "tiny", "--out", "damaged"], ["branches.parquet", "not a readable Parquet file"]),
        (["--env", "bare"], ["envs/bare: no beacons are recorded here", "autobatch beacons record --env bare"]),
    ],
)
def test_mistakes_are_named(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], phrases: list[str]
) -> None:
    (home / "file").write_text("not a folder")
    (home / "damaged").mkdir()
    (home / "damaged" / "branches.parquet").write_text("PAR1")
    (home / "envs" / "bare").mkdir()
    shutil.copy(home / "envs" / "tiny" / "env.yaml", home / "envs" / "bare")
    assert main(["beacons", "branch", *arguments, "--device", "cpu"]) == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert all(phrase in said for phrase in phrases), said
    assert "Traceback" not in said


def test_the_journeys_of_which_least_is_known_are_chosen(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[int, Any]] = []

    def doubts(courses: dict[int, Any]) -> list[float]:
        asked.append(courses)
        return [float(seed in {2013, 2008}) for seed in courses]

    monkeypatch.setattr("autobatch.envs.surrogate.doubts_of", lambda *_: doubts)
    command = ["beacons", "branch", "--env", "tiny", "--targets", "0", "--journeys", "2", "--least-sure"]
    assert main([*command, "--seed", "2000", "--device", "cpu"]) == 0
    task = tiny_task()
    moves = Moves(task.batch_sizes, task.learning_rates)
    assert asked == [{seed: journey_course(moves, seed, 4) for seed in range(2006, 2026)}]
    assert [journey.seed for journey in Branches.load(home / "envs" / "tiny").journeys] == [2008, 2013]
    assert main([*command, "--seed", "2000", "--device", "cpu"]) == 0
    assert "0 trunks and journeys recorded" in capsys.readouterr().out


def test_journeys_follow_a_policy_but_for_some_epochs(tmp_path: Path) -> None:
    task = tiny_task(epochs=12)
    jobs = _journeys(task, tiny_library(task), 4, 5000, fixed(16))
    assert len({job.origin for job in jobs}) == 4
    courses = []
    for job in jobs:
        (journey,), _ = recorded(job, tmp_path, task)
        assert journey.origin == job.origin
        courses.append(list(zip(journey.rows["batch_size"].tolist(), journey.rows["lr"].tolist(), strict=True)))
    away = [configuration for course in courses for configuration in course if configuration != (16, 0.1)]
    assert 1 <= len(away) <= 24
    assert courses[0] != courses[1]
    assert [own.rows["batch_size"].tolist() for own in recorded(jobs[0], tmp_path, task)[0]] == [
        [size for size, _ in courses[0]]
    ]


def test_a_journey_ends_where_its_policy_does_and_keeps_the_schedule(tmp_path, monkeypatch) -> None:
    task = tiny_task(epochs=6)
    steer = PolicySpec(name="steer", kind="steer", parameters={})
    (job,) = _journeys(task, tiny_library(task), 1, 5000, steer)
    (journey,), _ = recorded(job, tmp_path, task)
    usual = [task.schedule.schedule_factor(epoch / 6) for epoch in range(6)]
    np.testing.assert_allclose(journey.rows["lr_effective"] / journey.rows["lr"], usual)
    decide = FixedPolicy.decide
    monkeypatch.setattr(FixedPolicy, "decide", lambda own, seen: replace(decide(own, seen), stop=seen.epoch in {0, 3}))
    (job,) = _journeys(task, tiny_library(task), 1, 5100, fixed(16))
    (journey,), _ = recorded(job, tmp_path, task)
    assert (len(journey.rows["epoch"]), journey.finished) == (3, True)

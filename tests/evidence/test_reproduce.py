"""The paper's experiments: what is shipped says what the paper says, and a tiny one is carried out whole."""

import json
import math
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from matplotlib.figure import Figure

from autobatch import ConfigError, LibraryError, OutputError, UnknownNameError
from autobatch.beacons import BeaconLibrary
from autobatch.evidence import BenchObserver
from autobatch.evidence._reproduce import (
    PaperExperiment,
    PaperTask,
    ReproductionObserver,
    _take_shipped,
    experiment_names,
    load_paper_experiment,
    plan_experiment,
    reproduce,
)
from autobatch.evidence.bench._tables import load_epochs_table
from tests.conftest import say_so
from tests.training.tiny import tiny_task

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "paper"
SHIPPED = sorted(CONFIGS.glob("*.yaml"))
TO_512 = (8, 16, 32, 64, 128, 256, 512)
RATES = (0.025, 0.05, 0.1, 0.2, 0.4)

# Table 1 of the paper: the best dynamic sampling models.
TABLE_1 = {
    "cifar10-resnet": {"s32-to-128", "s32-to-128-ms"},
    "cifar10-densenet": {"s64-to-256", "s32-to-128-ms"},
    "cifar100-resnet": {"s32-to-128", "s32-to-128-ms"},
    "cifar100-densenet": {"s32-to-128", "s32-to-128-ms"},
    "svhn-resnet": {"s128-to-512", "s32-to-512-ms"},
    "svhn-densenet": {"s64-to-256", "s64-to-256-ms"},
    "mnist-resnet": {"s16-to-64", "s16-to-64-ms"},
    "mnist-densenet": {"s32-to-128", "s16-to-64-ms"},
}


class Watcher(ReproductionObserver):
    """Takes down what happens; stops after so many runs."""

    def __init__(self, stop_after: float = math.inf) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []
        self.trained: list[str] = []
        self.stop_after = stop_after

    def stage(self, number, stages, what):
        self.stages.append(f"{number}/{stages} {what}")

    def note(self, message):
        self.notes.append(message)

    def comparing(self):
        outer = self

        class Runs(BenchObserver):
            def run_finished(self, name, summary, progress):
                outer.trained.append(name)
                if len(outer.trained) >= outer.stop_after:
                    raise KeyboardInterrupt

        return Runs()


def experiment(**changes):
    settings = {
        "name": "tiny-mlp",
        "section": "4.3",
        "full": PaperTask(env="tiny"),
        "reduced": PaperTask(env="tiny"),
        "policies": ("s8-to-16",),
        "seeds": (100, 101),
    }
    return PaperExperiment(**(settings | changes))


def write_env(home: Path, name: str = "tiny", **changes) -> None:
    grid = {"batch_sizes": [8, 16], "learning_rates": [0.1], "epochs": 5, "seeds": [0]}
    own = tiny_task(name=name, **(grid | changes)).model_dump(mode="json")
    (home / "envs" / name).mkdir(parents=True)
    (home / "envs" / name / "env.yaml").write_text(yaml.safe_dump(own))


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory):
    """A working directory where the tiny experiment was stopped after its first run and given again, and both tales."""
    home = tmp_path_factory.mktemp("paper")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        patch.delenv("AUTOBATCH_PATH", raising=False)
        patch.setattr(Figure, "savefig", say_so)
        write_env(home)
        plan, watchers = plan_experiment(experiment(), "reduced"), (Watcher(stop_after=1), Watcher())
        with pytest.raises(KeyboardInterrupt):
            reproduce(plan, "out", device="cpu", observer=watchers[0])
        return home, watchers, reproduce(plan, "out", device="cpu", observer=watchers[1])


@pytest.fixture
def home(carried_out, monkeypatch):
    monkeypatch.chdir(carried_out[0])
    monkeypatch.setenv("XDG_CACHE_HOME", str(carried_out[0] / "cache"))
    return carried_out[0]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_experiment_resolves_and_its_note_is_true(path):
    loaded = load_paper_experiment(path)
    assert loaded.name == path.stem
    assert loaded == load_paper_experiment(path.stem)
    lines = path.read_text(encoding="utf-8").splitlines()
    for size in ("full", "reduced"):
        plan = plan_experiment(loaded, size)
        (note,) = (line for line in lines if line.startswith(f"# {size}: "))
        counts = {unit: int(number) for number, unit in re.findall(r"(\d+) (beacons|runs|epochs)", note)}
        expected = {"beacons": plan.beacons, "epochs": plan.task.epochs} | ({"runs": plan.runs} if plan.runs else {})
        assert counts == expected
        subset = plan.task.dataset.subset
        assert subset is None or f"{subset:,} images" in note


def test_the_experiments_cover_the_paper():
    assert set(TABLE_1) | {"mnist-mlp"} == {path.stem for path in SHIPPED} <= set(experiment_names())
    for name, policies in TABLE_1.items():
        assert policies <= set(load_paper_experiment(name).policies)


@pytest.mark.parametrize("name", [path.stem for path in SHIPPED])
def test_a_full_task_is_the_papers(name):
    task = plan_experiment(load_paper_experiment(name), "full").task
    data, _, model = name.partition("-")
    assert (task.dataset.name, task.model.name, task.dataset.subset) == (data, model, None)
    assert task.model.depth == (None if model == "mlp" else 8 if data == "mnist" else 110)
    assert task.epochs == (320 if data.startswith("cifar") else 40)
    optimizer, schedule = task.optimizer, task.schedule
    assert (optimizer.name, optimizer.momentum, optimizer.base_lr) == ("sgd", 0.9, 0.1)
    assert (schedule.name, schedule.milestones, schedule.factor) == ("multistep", (0.5, 0.75), 0.1)
    assert set(task.batch_sizes) >= set(TO_512[:-1])
    assert (512 in task.batch_sizes) == (data == "mnist" or model == "resnet")
    assert set(task.learning_rates) >= set(RATES)
    assert (len(task.seeds), task.measuring.interval) == (5, 50)


def test_everything_is_made(carried_out, home):
    _, (_, watcher), result = carried_out
    assert result.failed == {}
    assert [stage.split(" ")[0] for stage in watcher.stages] == ["1/3", "2/3", "3/3"]
    out = result.out
    assert (out / "envs/tiny/env.yaml").read_bytes() == (home / "envs/tiny/env.yaml").read_bytes()
    library = BeaconLibrary.load(out / "envs/tiny")
    assert library.configurations == ((8, 0.1), (16, 0.1))
    assert library.info.commands == ()
    table = load_epochs_table(out / "compare/tiny/epochs.parquet")
    rows = table.to_pylist()
    best = library.best_fixed()
    assert Counter(row["policy"] for row in rows) == {"s8-to-16": 10, f"s{best.batch_size}-lr0.1": 10}
    assert all(math.isfinite(row["c_bar"]) for row in rows), "blind policies are measured too"
    assert result.figures
    assert all(path.parent == out / "figures" and path.stat().st_size > 0 for path in result.figures)
    assert [claim["name"] for claim in json.loads((out / "claims.json").read_text())] == [c.name for c in result.claims]
    assert all(claim.name in (out / "claims.md").read_text() for claim in result.claims)


@pytest.mark.usefixtures("unpainted")
def test_a_stopped_experiment_goes_on(carried_out, home):
    _, (before, after), _ = carried_out
    assert len(before.trained) == 1
    assert len(after.trained) == 3
    assert not set(before.trained) & set(after.trained)
    again = Watcher()
    assert reproduce(plan_experiment(experiment(), "reduced"), "out", device="cpu", observer=again).failed == {}
    assert again.trained == []


def test_a_directory_is_of_one_experiment_at_one_size(home):
    for other, size in ((experiment(), "full"), (experiment(name="other"), "reduced")):
        with pytest.raises(OutputError, match="found another experiment or size in it"):
            reproduce(plan_experiment(other, size), "out", device="cpu")
    with pytest.raises(OutputError, match="found 'tiny' in it"):
        reproduce(plan_experiment(experiment(), "reduced"), "envs", device="cpu")
    longer = plan_experiment(experiment(), "reduced")
    task = longer.task.model_copy(update={"epochs": 6})
    with pytest.raises(OutputError, match=r"env.yaml: is another task"):
        reproduce(plan_of(longer, task), "out", device="cpu")


def plan_of(plan, task):
    from dataclasses import replace

    return replace(plan, task=task)


def test_beacons_of_the_same_data_are_taken_and_others_are_not(carried_out, home, tmp_path):
    plan = plan_experiment(experiment(reduced=PaperTask(env=str(carried_out[2].out / "envs/tiny"))), "reduced")
    watcher = Watcher()
    _take_shipped(plan, tmp_path, None, watcher)
    assert watcher.notes == ["2 beacons come with the task"]
    assert len(BeaconLibrary.load(tmp_path).beacons) == 2
    _take_shipped(plan, tmp_path, None, watcher)
    assert len(watcher.notes) == 1, "what is there stays"
    split = plan.task.dataset.model_copy(update={"split_seed": 1})
    other = plan_of(plan, plan.task.model_copy(update={"dataset": split}))
    (tmp_path / "empty").mkdir()
    _take_shipped(other, tmp_path / "empty", None, watcher)
    assert "not taken" in watcher.notes[-1]
    assert "split_seed" in watcher.notes[-1]
    with pytest.raises(LibraryError):
        BeaconLibrary.load(tmp_path / "empty")


def test_mistakes_are_named(home, tmp_path):
    with pytest.raises(UnknownNameError, match=r"unknown experiment 'mnist-resnt'.*did you mean 'mnist-resnet'"):
        load_paper_experiment("mnist-resnt")
    path = tmp_path / "mine.yaml"
    text = (CONFIGS / "mnist-resnet.yaml").read_text()
    for old, new, message in (
        ("policies:", "polices:", r"mine.yaml:\d+: .*polices.*did you mean 'policies'"),
        ("{env: mnist-resnet8}", "{env: 3}", r"mine.yaml:\d+: key 'full.env': expected text"),
        ("[100, 101, 102, 103, 104]", "[]", r"mine.yaml:\d+: key 'seeds': expected a non-empty list"),
        ("[100, 101, 102, 103, 104]", "[1, 1]", r"mine.yaml:\d+: key 'seeds': expected each once"),
    ):
        path.write_text(text.replace(old, new))
        with pytest.raises(ConfigError, match=message):
            load_paper_experiment(path)
    with pytest.raises(UnknownNameError, match="did you mean 'tiny'"):
        plan_experiment(experiment(reduced=PaperTask(env="tinny")), "reduced")
    with pytest.raises(UnknownNameError, match="unknown policy 's8-too-16'"):
        plan_experiment(experiment(policies=("s8-too-16",)), "reduced")
    with pytest.raises(
        ConfigError, match=r"policy 's8-to-32' uses batch size 32, which is not on the ladder of 'tiny'"
    ):
        plan_experiment(experiment(policies=("s8-to-32",)), "reduced")
    with pytest.raises(ConfigError, match="expected 'full' or 'reduced', got 'half'"):
        plan_experiment(experiment(), "half")


def test_without_policies_the_grid_is_all(home):
    plan = plan_experiment(experiment(policies=()), "reduced")
    assert (plan.beacons, plan.runs) == (2, 0)

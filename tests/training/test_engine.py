"""A run from configuration to summary."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from autobatch._errors import CheckpointError, ConfigError, LibraryError, OutputError
from autobatch._files import alone_in
from autobatch.control import DecisionRecord, batch_bounds, permutation
from autobatch.control.run import CHECKPOINT
from autobatch.policies import PolicySpec
from autobatch.training import (
    EpochRow,
    RunInfo,
    RunObserver,
    Summary,
    TaskSpec,
    load_data,
    load_decisions,
    load_epochs,
    load_run_config,
    load_summary,
    normalise,
    run,
)
from autobatch.training._checkpoint import read_checkpoint
from autobatch.training._engine import EXPLODED, Engine, divergence, reproducible, resolve_device
from autobatch.training.running import _carry_out as session
from tests.training.tiny import COSTS, dropout_task, fixed, stages, timeless, tiny_config, tiny_task


class Watcher(RunObserver):
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def started(self, info: RunInfo) -> None:
        self.calls.append(info)

    def decided(self, record: DecisionRecord) -> None:
        self.calls.append(record)

    def step(self, step: int, steps: int) -> None:
        self.calls.append((step, steps))

    def epoch_finished(self, row: EpochRow) -> None:
        self.calls.append(row)

    def finished(self, summary: Summary) -> None:
        self.calls.append(summary)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(out / CHECKPOINT).tensors


def assert_same_weights(one: Path, other: Path) -> None:
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_run_directory_holds_what_the_design_says(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    config = tiny_config()
    summary = run(config, out)
    assert sorted(path.name for path in out.iterdir()) == [
        "checkpoint",
        "config.yaml",
        "decisions.jsonl",
        "epochs.jsonl",
        "measurements.jsonl",
        "summary.json",
    ]
    assert [path.name for path in (out / "checkpoint").iterdir()] == ["latest.safetensors"]
    keys = "epoch batch_size lr c_bar l_cum train_loss validation_loss validation_error examples seconds"
    assert {*keys.split(), "measuring_seconds"} <= json.loads((out / "epochs.jsonl").read_text().splitlines()[0]).keys()
    keys = "test_error validation_error validation_loss examples optimizer_steps seconds measuring_seconds"
    assert {*keys.split(), "stopped_because", "best_beacon"} <= json.loads((out / "summary.json").read_text()).keys()
    assert load_run_config(out) == config
    assert load_summary(out) == summary
    rows = load_epochs(out)
    assert [row.batch_size for row in rows] == [8, 32, 16, 8]
    assert [row.progress for row in rows] == [0.25, 0.5, 0.75, 1.0]
    assert [row.examples for row in rows] == [84, 168, 252, 336]
    assert [row.lr_effective for row in rows] == pytest.approx([0.1, 0.1, 0.01, 0.001])
    assert (summary.epochs, summary.stopped_because, summary.examples) == (4, "finished", 336)
    assert summary.optimizer_steps == rows[-1].steps == 11 + 3 + 5 + 11
    assert summary.batch_sizes == {8: 2, 16: 1, 32: 1}
    assert summary.samples == rows[-1].samples == len(timeless(out / "measurements.jsonl"))
    assert summary.validation_loss == rows[-1].validation_loss
    assert summary.c_bar == rows[-1].c_bar >= 1
    assert summary.best_beacon is None
    assert "no env folder" in str(summary.best_beacon_missing)
    decisions = load_decisions(out)
    assert [record.epoch for record in decisions] == [0, 1, 2, 3]
    assert decisions[2].c_bar == rows[1].c_bar


def test_an_observer_hears_of_everything_in_order(tmp_path: Path) -> None:
    watcher = Watcher()
    summary = run(tiny_config(fixed(32)), tmp_path / "run", watcher)
    info, first, *middle, last = watcher.calls
    assert (info.train_size, info.validation_size, info.test_size, info.predicted) == (84, 36, 399, "10 classes")
    assert info.parameters == 64 * 16 + 16 + 16 * 10 + 10
    assert first.epoch == 0
    assert last == summary
    assert middle[:3] == [(1, 3), (2, 3), (3, 3)]
    assert [type(call).__name__ for call in middle[3:5]] == ["EpochRow", "DecisionRecord"]
    assert len(middle) == 4 * 3 + 4 + 3


def test_the_loop_is_the_loop_that_anyone_would_write(tmp_path: Path) -> None:
    task = tiny_task(dataset={"name": "digits", "subset": 120, "validation": 0.3}, epochs=3)
    run(tiny_config(fixed(16), task, measure=False), tmp_path / "run")
    data = load_data(task)
    with reproducible(torch.device("cpu"), 1):
        engine = Engine(task, data, torch.device("cpu"), seed=1, trust_code=False)
        model, optimizer = engine.model, engine.optimizer
        for epoch, rate in enumerate([0.1, 0.1, 0.01]):  # the milestones are at 50 % and 75 %
            order = permutation(84, 1, epoch)
            for group in optimizer.param_groups:
                group["lr"] = rate
            model.train()
            for start, stop in batch_bounds(84, 16):
                indices = order[start:stop]
                images = normalise(data.train_inputs[indices], data.mean, data.std)
                F.cross_entropy(model(images), data.train_labels[indices]).backward()
                optimizer.step()
                optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            outputs = model(normalise(data.validation_inputs, data.mean, data.std))
    stored = weights(tmp_path / "run")
    assert all(torch.equal(value, stored["model/" + name]) for name, value in model.state_dict().items())
    row = load_epochs(tmp_path / "run")[-1]
    assert row.validation_loss == pytest.approx(float(F.cross_entropy(outputs, data.validation_labels)), rel=1e-6)
    assert row.validation_error == float((outputs.argmax(1) != data.validation_labels).double().mean())


def with_reuse(task: TaskSpec, reuse: bool) -> TaskSpec:
    return task.model_copy(update={"measuring": task.measuring.model_copy(update={"reuse_weight_gradient": reuse})})


@pytest.mark.parametrize("task", [tiny_task(), dropout_task()], ids=["mlp", "dropout"])
def test_measuring_and_the_global_seed_do_not_change_training(tmp_path: Path, task: TaskSpec) -> None:
    task = with_reuse(task, False)
    torch.manual_seed(11)
    run(tiny_config(task=task, trust_code=True), tmp_path / "on")
    torch.manual_seed(12)
    state = torch.get_rng_state()
    run(tiny_config(task=task, trust_code=True, measure=False), tmp_path / "off")
    assert torch.equal(torch.get_rng_state(), state)
    assert_same_weights(tmp_path / "on", tmp_path / "off")
    assert load_epochs(tmp_path / "on")[-1].samples > 0
    off = load_epochs(tmp_path / "off")[-1]
    assert (off.samples, off.measuring_seconds) == (0, 0.0)
    assert math.isnan(off.c_bar)


@pytest.mark.parametrize("task", [tiny_task(), dropout_task()], ids=["mlp", "dropout"])
def test_gradients_taken_from_measuring_change_training_by_round_off(tmp_path: Path, task: TaskSpec) -> None:
    measured = []
    for name, reuse in (("own", False), ("reused", True)):
        config = tiny_config(fixed(8), with_reuse(task, reuse), trust_code=True, recording=True, costs=None)
        run(config, tmp_path / name)
        measured.append([row["trace"] for row in timeless(tmp_path / name / "measurements.jsonl")])
    assert measured[0] == pytest.approx(measured[1], rel=1e-3)
    mine, theirs = weights(tmp_path / "own"), weights(tmp_path / "reused")
    for key in mine:
        torch.testing.assert_close(mine[key], theirs[key], rtol=1e-3, atol=1e-4)


def test_the_summary_states_the_share_that_the_budget_bounds(tmp_path: Path) -> None:
    summary = run(tiny_config(), tmp_path / "run")
    rows = load_epochs(tmp_path / "run")
    samples = [row.samples - before for row, before in zip(rows, [0, *(row.samples for row in rows)], strict=False)]
    measuring = sum(COSTS.measuring(row.batch_size) * count for row, count in zip(rows, samples, strict=True))
    training = sum(COSTS.training_seconds(size, steps, 1) for size, steps in ((8, 11), (32, 3), (16, 5), (8, 11)))
    assert summary.measuring_share_modelled == pytest.approx(measuring / training)
    assert summary.measuring_share_modelled <= 0.3 == summary.measuring_budget
    spent = [json.loads(line)["seconds"] for line in (tmp_path / "run" / "measurements.jsonl").read_text().splitlines()]
    assert summary.measuring_seconds == pytest.approx(sum(spent))
    assert len(spent) == summary.samples
    recorded = run(tiny_config(fixed(8), recording=True, costs=None), tmp_path / "recorded")
    assert (recorded.measuring_share_modelled, recorded.measuring_budget) == (None, None)


def test_a_run_repeats_and_another_seed_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(tiny_config(seed=seed), tmp_path / name)
    for file in ("epochs.jsonl", "measurements.jsonl", "decisions.jsonl"):
        assert timeless(tmp_path / "a" / file) == timeless(tmp_path / "b" / file)
    assert_same_weights(tmp_path / "a", tmp_path / "b")
    assert timeless(tmp_path / "a" / "epochs.jsonl") != timeless(tmp_path / "c" / "epochs.jsonl")


def test_recording_measures_by_the_tasks_floor(tmp_path: Path) -> None:
    run(tiny_config(fixed(8), recording=True, costs=None), tmp_path / "run")
    assert [row.samples for row in load_epochs(tmp_path / "run")] == [2, 4, 6, 8]


def test_a_diverged_run_ends_cleanly(tmp_path: Path) -> None:
    watcher = Watcher()
    config = tiny_config(fixed(8, 1e6), tiny_task(learning_rates=[1e6]))
    summary = run(config, tmp_path / "run", watcher)
    assert summary.stopped_because.startswith("diverged: the training loss")
    assert summary.epochs < 4
    assert summary.test_error is None
    assert watcher.calls[-1] == load_summary(tmp_path / "run") == summary
    assert "NaN" not in (tmp_path / "run" / "epochs.jsonl").read_text()
    assert run(config, tmp_path / "run", resume=True) == summary


@pytest.mark.parametrize(
    ("train_loss", "validation_loss", "seen"),
    [
        (math.nan, 1.0, "training loss became nan"),
        (math.inf, 1.0, "training loss became inf"),
        (EXPLODED * math.log(10) * 1.01, 1.0, "exceeds 23.03, 10 times that of guessing"),
        (1.0, math.nan, "validation loss became nan"),
    ],
)
def test_divergence(train_loss: float, validation_loss: float, seen: str) -> None:
    assert seen in str(divergence(train_loss, validation_loss, 10))


def test_a_large_validation_loss_is_no_divergence() -> None:
    assert divergence(EXPLODED * math.log(10) * 0.99, 1e6, 10) is None


def test_threads_and_settings_are_given_back(tmp_path: Path) -> None:
    before = torch.get_num_threads(), torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.set_num_threads(2)
    try:
        run(tiny_config(fixed(32), tiny_task(epochs=1)), tmp_path / "run")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before[0])
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == before[1:]


@pytest.mark.parametrize("name", ["config.yaml", "epochs.jsonl", "checkpoint", "summary.json"])
def test_a_directory_that_holds_a_run_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(OutputError, match="holds a run already"):
        run(tiny_config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"


def test_one_process_at_a_time_trains_a_run(tmp_path: Path) -> None:
    with alone_in(tmp_path), pytest.raises(OutputError, match="another process is training this run"):
        run(tiny_config(), tmp_path)
    assert not list(tmp_path.iterdir())
    assert run(tiny_config(), tmp_path).stopped_because == "finished"


def test_a_machine_that_is_much_slower_than_its_cost_table_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []

    class Watching(RunObserver):
        def note(self, message: str) -> None:
            notes.append(message)

    monkeypatch.setattr("autobatch.training.running._session.SLOW_SECONDS", 1e-6)
    fast = dict.fromkeys(COSTS.step_seconds, 1e-9)
    slow = dict.fromkeys(COSTS.step_seconds, 1e9)
    config = tiny_config(costs=replace(COSTS, step_seconds=fast, epoch_seconds=1e-9))
    run(config, tmp_path / "a", Watching())
    assert len([note for note in notes if "times as long here as the cost table" in note]) == 1
    notes.clear()
    run(tiny_config(costs=replace(COSTS, step_seconds=slow)), tmp_path / "b", Watching())
    assert not notes


@pytest.mark.parametrize("others", [6, 4])
def test_a_run_that_came_and_went_meanwhile_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    """The directory was free when it was first looked at, and the lock is free again."""
    out, load = tmp_path / "run", session.load_data

    def slow(*args: Any) -> Any:
        monkeypatch.setattr(session, "load_data", load)
        run(tiny_config(), out)
        return load(*args)

    monkeypatch.setattr(session, "load_data", slow)
    with pytest.raises(OutputError, match="holds a run already"):
        run(tiny_config(task=tiny_task(epochs=others)), out)
    assert load_run_config(out).task.epochs == tiny_config().task.epochs
    assert load_summary(out).epochs == tiny_config().task.epochs


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("precious")
    with pytest.raises(OutputError, match="expected a directory, found a file"):
        run(tiny_config(), tmp_path / "run")
    with pytest.raises(OutputError, match="cannot be written"):
        run(tiny_config(), tmp_path / "run" / "below")
    assert (tmp_path / "run").read_text() == "precious"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": tiny_task(batch_sizes=[8, 85])}, "at most 84"),
        ({"policy": fixed(64)}, "64"),
        ({"device": "gpu"}, "device"),
        ({"device": "meta"}, "device"),
        ({"task": dropout_task()}, "trust"),
    ],
)
def test_what_cannot_be_carried_out_leaves_no_run_behind(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(
            tiny_config(stages(8, 16), **changes) if "policy" not in changes else tiny_config(**changes), tmp_path / "r"
        )
    assert not (tmp_path / "r").exists()


def test_a_policy_that_needs_beacons_says_so(tmp_path: Path) -> None:
    policy = PolicySpec(name="best-beacon-stopped", kind="best-beacon-stopped")
    with pytest.raises(LibraryError, match="needs beacons"):
        run(tiny_config(policy), tmp_path / "a")
    with pytest.raises(LibraryError, match="no beacons are recorded"):
        run(tiny_config(policy, task_path=tmp_path / "env"), tmp_path / "b")
    summary = run(tiny_config(fixed(), task_path=tmp_path / "env"), tmp_path / "c")
    assert "no beacons are recorded" in str(summary.best_beacon_missing)


def test_devices_are_checked() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match="'cuda:63' is not there"):
        resolve_device("cuda:63")


@pytest.mark.parametrize("content", ["{", "[]", '{"task": 3}'])
def test_a_damaged_summary_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"summary\.json"):
        load_summary(tmp_path)


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    for load in (load_run_config, load_summary):
        with pytest.raises(CheckpointError, match="holds no"):
            load(tmp_path)
    assert load_epochs(tmp_path) == []

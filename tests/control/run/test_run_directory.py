"""The run directory of a loop of one's own: what is in it, who may write it, and that it is read like any other."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autobatch._errors import CheckpointError, OutputError
from autobatch._files import alone_in
from autobatch.cli import main
from autobatch.control import AutoBatchController, BatchPlan, MeasureAtInterval, NeverMeasure
from autobatch.control.run import load_decisions, load_epochs, load_loop_config, load_summary
from autobatch.policies import Decision, Observation
from autobatch.report import load_run_facts, read_run, save_html
from autobatch.report._follow import RunLines, RunWatch
from autobatch.report._summary import paste_words
from autobatch.training import load_run_config
from tests.control.loops import Data, Returns, Scripted, new_model, sgd

DATA = Data(24)


class Loop:
    """A loop that writes a run directory."""

    def __init__(self, out: Path | None, script: Any = (4, 8, 8), **arguments: Any) -> None:
        self.model = new_model()
        self.optimizer = sgd(self.model)
        self.controller = AutoBatchController(
            self.model,
            self.optimizer,
            **{
                "policy": Scripted(script),
                "dataset_size": len(DATA),
                "epochs": 3,
                "batch_sizes": (4, 8),
                "measuring": MeasureAtInterval(2, 2),
                "out": out,
                **arguments,
            },
        )

    def train(self, epochs: int = 3, **figures: float) -> AutoBatchController:
        """Train some epochs."""
        for _ in range(epochs):
            for indices in self.controller.batches():
                with self.controller.step() as step:
                    step.backward(F.cross_entropy(self.model(DATA.x[indices]), DATA.y[indices]))
                self.optimizer.step()
                self.optimizer.zero_grad()
            self.controller.end_epoch(**({"val_loss": 0.5, "val_error": 0.25} | figures))
        return self.controller


def test_a_loops_log_is_a_run(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "mine"
    controller = Loop(out, seed=3).train()
    rows, summary, config = load_epochs(out), load_summary(out), load_loop_config(out)
    assert [row.batch_size for row in rows] == [4, 8, 8]
    assert [row.steps for row in rows] == [6, 9, 12]
    assert (rows[-1].c_bar, rows[-1].l_cum, rows[-1].samples) == (
        controller.c_bar,
        controller.l_cum,
        controller.samples,
    )
    assert [one.reason for one in load_decisions(out)] == ["s4", "s8", "s8"]
    assert len((out / "measurements.jsonl").read_text().splitlines()) == controller.samples == 7
    assert (summary.epochs, summary.stopped_because, summary.ended_early) == (3, "finished", None)
    assert (summary.validation_error, summary.optimizer_steps, summary.batch_sizes) == (0.25, 12, {4: 1, 8: 2})
    assert (config.task.epochs, config.task.batch_sizes, config.seed, config.policy.name) == (3, (4, 8), 3, "Scripted")
    assert config.task.facts["optimizer"]["name"] == "SGD"


def test_a_policy_by_name_is_told_as_such(tmp_path: Path) -> None:
    Loop(tmp_path / "run", policy="s4-to-8", measuring=NeverMeasure()).train(1)
    assert load_loop_config(tmp_path / "run").policy.name == "s4-to-8"


@pytest.mark.parametrize("command", ["explain", "watch", "plot", "report", "runs"])
def test_every_command_that_looks_reads_it(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Loop(Path("runs/mine")).train()
    assert main([command, "runs/mine"]) == 0
    told = capsys.readouterr().out
    if command == "report":
        told = (tmp_path / "runs/mine/report.html").read_text()
    expected = "plane.png" if command == "plot" else "Scripted"
    assert expected in told
    assert "--resume" not in told


def test_a_run_under_way_is_told_too(tmp_path: Path) -> None:
    out = tmp_path / "run"
    loop = Loop(out)
    loop.train(2)
    (facts,) = load_run_facts(tmp_path)
    assert (facts.state, facts.epochs, facts.planned_epochs, facts.batch_sizes) == ("running", 2, 3, "4 ×1 → 8 ×1")
    watch = RunWatch(out)
    assert "epoch 2/3" in RunLines().new(watch.look(), 0.0)[3]
    loop.controller.close()
    assert load_run_facts(tmp_path)[0].state == "interrupted"
    record = read_run(out)
    assert record.how_to_go_on == "its loop goes on by load_state_dict()"
    save_html(tmp_path / "page.html", [record])


def test_decisions_within_an_epoch_are_kept_and_can_be_pasted(tmp_path: Path) -> None:
    Loop(tmp_path / "run", (4, 8, 4, 8, 8, 8), plan=BatchPlan(decide_every=0.5)).train()
    record = read_run(tmp_path / "run")
    assert [one.batch_size for one in record.decisions] == [4, 8, 4, 8, 8, 8]
    assert [row.epoch for row in record.epochs] == [1, 2, 3]
    assert paste_words(record) == (
        "'0:4 12:8 24:4 36:8' (from example:batch size, as for Megatron-LM); by epochs '0:4 0.5e:8 1e:4 1.5e:8'"
    )


def test_what_was_trained_in_vain_is_not_pasted(tmp_path: Path) -> None:
    Loop(tmp_path / "run", policy=Returns([4, 4, 4, 8]), epochs=4).train(4)
    record = read_run(tmp_path / "run")
    assert [(one.batch_size, one.example, one.back_to) for one in record.decisions] == [
        (4, 0, None), (4, 24, None), (4, 48, None), (8, 72, 1),
    ]  # fmt: skip
    assert paste_words(record) == (
        "'0:4 24:8' (from example:batch size, as for Megatron-LM, without what was trained in vain); "
        "by epochs '0:4 1e:8'"
    )


class ReturnsTwice(Returns):
    """Has training go back once more, after the seventh epoch to the weights after the fifth."""

    def decide(self, observation: Observation) -> Decision:
        decision = super().decide(observation)
        self.best_period = 5 if observation.epoch >= 5 else self.best_period
        self.back_to = 5 if observation.epoch == 7 and self.asked < 20 else self.back_to
        return decision

    def gone_back(self) -> None:
        self.asked = 9 if self.asked < 9 else 20


def test_what_was_trained_in_vain_twice_is_not_pasted_either(tmp_path: Path) -> None:
    Loop(tmp_path / "run", policy=ReturnsTwice([4, 4, 4, 4, 4, 4, 4, 4, 4, 8, 8, 4]), epochs=9).train(9)
    record = read_run(tmp_path / "run")
    assert [one.back_to for one in record.decisions] == [None, None, None, 1, None, None, None, 5, None]
    # Kept are one epoch of 4, two of 8 (the fourth and fifth), and what came after the seventh.
    assert paste_words(record).startswith("'0:4 24:8 72:4' ")


def test_stopped_and_diverged_runs_say_so(tmp_path: Path) -> None:
    stopped = Loop(tmp_path / "a")
    stopped.train(1)
    stopped.controller.stop("enough")
    stopped.controller.close()
    assert load_summary(tmp_path / "a").ended_early == "enough"
    Loop(tmp_path / "b").train(val_loss=math.inf)
    assert load_summary(tmp_path / "b").stopped_because == "diverged: the validation loss is not finite"
    assert [facts.state for facts in load_run_facts(tmp_path)] == ["stopped", "diverged"]


def test_a_resumed_loop_leaves_what_an_uninterrupted_one_leaves(tmp_path: Path) -> None:
    Loop(tmp_path / "whole").train()
    loop = Loop(tmp_path / "run")
    loop.train(1)
    state = json.loads(json.dumps(loop.controller.state_dict()))
    weights, momentum = loop.model.state_dict(), loop.optimizer.state_dict()
    weights = {name: value.clone() for name, value in weights.items()}
    loop.train(1)  # what a kill throws away
    again = Loop(tmp_path / "run")
    again.model.load_state_dict(weights)
    again.optimizer.load_state_dict(momentum)
    again.controller.load_state_dict(state)
    again.train(2)
    for name in ("epochs.jsonl", "decisions.jsonl", "measurements.jsonl"):
        mine, whole = (
            [json.loads(line) for line in (tmp_path / run / name).read_text().splitlines()] for run in ("run", "whole")
        )
        timeless = [[{k: v for k, v in row.items() if "seconds" not in k} for row in rows] for rows in (mine, whole)]
        assert timeless[0] == timeless[1], name
    assert load_summary(tmp_path / "run").epochs == 3


def test_a_state_goes_on_in_an_empty_directory_too(tmp_path: Path) -> None:
    loop = Loop(None)
    loop.train(1)
    again = Loop(tmp_path / "run")
    again.controller.load_state_dict(loop.controller.state_dict())
    again.train(2)
    assert [row.epoch for row in load_epochs(tmp_path / "run")] == [2, 3]
    assert read_run(tmp_path / "run").summary is not None


def test_a_run_is_never_written_over(tmp_path: Path) -> None:
    out = tmp_path / "run"
    Loop(out).train(1).close()
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(OutputError, match=r"holds a run already \(config.yaml\); go on with it by load_state_dict"):
        Loop(out).train(1)
    other = Loop(None, seed=1)
    other.train(1)
    with pytest.raises(OutputError, match="holds a run with another seed; choose another directory"):
        Loop(out, seed=1).controller.load_state_dict(other.controller.state_dict())
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    with pytest.raises(CheckpointError, match="holds a run of a loop of its own"):
        load_run_config(out)


def test_two_processes_do_not_write_one_directory(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with alone_in(tmp_path / "run"), pytest.raises(OutputError, match="another process trains this run"):
        Loop(tmp_path / "run").train(1)


def test_a_directory_that_is_lost_does_not_end_the_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(tmp_path / "run")
    loop.train(1)
    for path in (tmp_path / "run").iterdir():
        path.unlink()
    (tmp_path / "run").rmdir()
    loop.train(2)
    assert loop.controller.finished
    assert caplog.text.count("its run directory is not complete") == 1


def test_nothing_is_written_before_the_first_batch(tmp_path: Path) -> None:
    Loop(tmp_path / "run").controller.close()
    assert not (tmp_path / "run").exists()


def test_the_beacons_of_a_loop_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).resolve().parents[3]
    (tmp_path / "envs").symlink_to(root / "envs")
    monkeypatch.chdir(tmp_path)
    Loop(Path("runs/mine"), library="envs/digits-mlp").train()
    config = load_loop_config(Path("runs/mine"))
    assert config.library == "../../envs/digits-mlp"
    record = read_run(Path("runs/mine"))
    assert record.library is not None
    assert load_summary(Path("runs/mine")).best_beacon is not None


def test_a_plain_network_needs_no_measuring(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    controller = AutoBatchController(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        policy="s4",
        dataset_size=8,
        epochs=1,
        batch_sizes=(4,),
        measuring=NeverMeasure(),
        out=str(tmp_path / "run"),
    )
    for indices in controller.batches():
        with controller.step() as step:
            step.backward(F.cross_entropy(model(DATA.x[indices]), DATA.y[indices]))
    controller.end_epoch()
    summary = load_summary(tmp_path / "run")
    assert (summary.validation_loss, summary.c_bar, summary.measuring_share) == (None, None, 0.0)

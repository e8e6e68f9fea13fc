"""Going back: a training that has only learnt its own examples goes on from the weights it had before."""

from pathlib import Path

import numpy as np
import pytest
import torch

from autobatch import CheckpointError
from autobatch.control.run import BEST_CHECKPOINT, CHECKPOINT
from autobatch.policies import PolicySpec
from autobatch.report._record import read_run
from autobatch.training import RunConfig, load_decisions, load_epochs, run
from autobatch.training._checkpoint import read_checkpoint
from autobatch.training.running._session import Session
from tests.training.kills import Killed, Killer, assert_same_run
from tests.training.tiny import tiny_config, tiny_task


@pytest.fixture
def overfitting(tmp_path: Path) -> RunConfig:
    """A table whose labels have nothing to do with its columns, so that what is learnt is learnt by heart."""
    rng = np.random.default_rng(0)
    rows = [",".join([*(f"{value:.3f}" for value in row), f"c{rng.integers(3)}"]) for row in rng.normal(size=(120, 8))]
    (tmp_path / "random.csv").write_text("\n".join([",".join([*"abcdefgh", "label"]), *rows]) + "\n")
    task = tiny_task(
        dataset={"name": "csv:random.csv", "target": "label", "validation": 0.3, "test": 0.1},
        model={"name": "mlp", "arguments": {"hidden": [64]}},
        score="validation_loss",
        epochs=40,
        batch_sizes=[8, 16],
        threads=1,
    )
    policy = PolicySpec(name="steer", kind="steer", parameters={"scouts": 0})
    return tiny_config(policy, task, data_dir=tmp_path, measure=False)


def test_a_training_goes_back_to_its_best_weights(
    overfitting: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[int, dict[str, torch.Tensor]] = {}
    save = Session._save

    def saved(session: Session) -> None:
        save(session)
        kept[session.controller.epoch] = dict(read_checkpoint(tmp_path / "run" / CHECKPOINT).tensors)

    monkeypatch.setattr(Session, "_save", saved)
    summary = run(overfitting, tmp_path / "run")
    rows = load_epochs(tmp_path / "run")
    last = load_decisions(tmp_path / "run")[-2]
    back = int(last.reason.split("from its weights after epoch ")[1].split(":")[0])
    losses = [row.validation_loss for row in rows]
    means = np.convolve(losses[:-1], np.ones(3) / 3, "valid")
    assert back == int(means.argmin()) + 2  # the middle one of the three, counted from 1
    assert all(torch.equal(kept[summary.epochs - 1][name], value) for name, value in kept[back].items())
    assert losses[-1] < 0.9 * losses[-2]
    assert summary.epochs < 28
    assert f"the last one from the weights after epoch {back}" in str(summary.ended_early)
    assert not (tmp_path / "run" / BEST_CHECKPOINT).exists()
    assert (last.end_moved, last.planned, last.turn) == (True, summary.epochs, True)
    assert read_run(tmp_path / "run").planned_epochs == summary.epochs


def patient(config: RunConfig, **parameters: float) -> RunConfig:
    """Return the run where nothing but its last epoch goes back."""
    own = {**config.policy.parameters, "patience": 1.0, **parameters}
    return config.model_copy(update={"policy": config.policy.model_copy(update={"parameters": own})})


@pytest.mark.parametrize(("length", "epochs"), [(0.7, 28), (1.0, 40)])
def test_the_planned_last_epoch_goes_back_too(
    overfitting: RunConfig, tmp_path: Path, length: float, epochs: int
) -> None:
    summary = run(patient(overfitting, length=length), tmp_path / "run")
    rows, decisions = load_epochs(tmp_path / "run"), load_decisions(tmp_path / "run")
    losses, last = [row.validation_loss for row in rows], next(one for one in decisions if one.epoch == epochs - 1)
    assert summary.epochs == len(rows) == epochs
    back = int(last.reason.split("goes on from its weights after epoch ")[1].split(":")[0])
    assert back == int(np.convolve(losses[:-1], np.ones(3) / 3, "valid").argmin()) + 2
    assert losses[-1] < 0.9 * losses[-2]
    assert last.lr_effective > rows[-2].lr_effective
    assert (last.turn, last.end_moved, last.planned) == (True, False, epochs)
    assert (f"the last one from the weights after epoch {back}" in str(summary.ended_early)) == (length < 1.0)


@pytest.mark.parametrize("late", [False, True])
def test_a_kill_at_any_write_changes_nothing(overfitting: RunConfig, tmp_path: Path, late: bool) -> None:
    if late:
        overfitting = patient(overfitting, length=0.35)
    run(overfitting, tmp_path / "whole")
    assert any("from its weights after epoch" in one.reason for one in load_decisions(tmp_path / "whole"))
    kills = 0
    for count in range(7, 46, 6):
        with pytest.MonkeyPatch.context() as patch:
            Killer(count, 0.5).arm(patch)
            try:
                run(overfitting, tmp_path / str(count))
            except Killed:
                kills += 1
        run(overfitting, tmp_path / str(count), resume=True)
        assert_same_run(tmp_path / "whole", tmp_path / str(count))
    assert kills >= 5


def test_weights_that_are_gone_cost_no_more_than_going_back(
    overfitting: RunConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autobatch.control.rewinding.Rewinding.begin", lambda *_: None)
        summary = run(overfitting, tmp_path / "run")
    assert "the last one from" not in str(summary.ended_early)
    assert "the weights to go back to are not at hand" in caplog.text
    assert summary.epochs < 28


def test_damaged_weights_are_named(overfitting: RunConfig, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Killer(30, 0.5).arm(patch)
        with pytest.raises(Killed):
            run(overfitting, tmp_path / "run")
    (tmp_path / "run" / BEST_CHECKPOINT).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"best\.pt: truncated, damaged"):
        run(overfitting, tmp_path / "run", resume=True)

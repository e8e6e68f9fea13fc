"""Runs of few epochs, which decide and scout within them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from autobatch.control.run import CHECKPOINT
from autobatch.policies import PolicySpec
from autobatch.policies.steer._plan import Plan
from autobatch.report import read_run
from autobatch.report._follow import RunLines
from autobatch.report._story import story
from autobatch.report._watch import watch_view
from autobatch.training import RunConfig, load_decisions, load_epochs, load_run_config, run
from autobatch.training._checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from tests.training.kills import Killed, Killer, assert_same_run, kill_and_resume
from tests.training.tiny import dropout_task, fixed, tiny_config

RATES = [0.05, 0.1, 0.2]


@pytest.fixture(scope="module", autouse=True)
def two_decisions() -> Iterator[None]:
    """84 examples in batches of 32 at most have two decisions an epoch, and few steps are enough for scouts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autobatch.policies.steer._search.STEPS", 0)
        patch.setattr("autobatch.policies.steer._search.DECISIONS", 6)
        yield


def few(epochs: int = 3, *, scouts: int = 3, **task: Any) -> RunConfig:
    policy = PolicySpec(name="steer", kind="steer", parameters={"hardly_begun": 2.0, "scouts": scouts})
    settings = {"epochs": epochs, "learning_rates": RATES, "threads": 1} | task
    return tiny_config(policy, dropout_task(**settings), trust_code=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing has disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(few(), out)
    return out


def weights(out: Path) -> dict[str, torch.Tensor]:
    return dict(read_checkpoint(out / CHECKPOINT).tensors)


def test_it_decides_and_validates_within_epochs(whole: Path) -> None:
    rows, decisions, record = load_epochs(whole), load_decisions(whole), read_run(whole)
    assert [row.epoch for row in rows] == [0.5, 1, 1.5, 2, 2.5, 3]
    assert [type(row.epoch) for row in rows] == [float, int] * 3
    assert [row.examples for row in rows] == [42, 84, 126, 168, 210, 252]
    assert len({row.validation_loss for row in rows}) == 6
    assert [decision.epoch for decision in decisions] == [0, 0.5, 1, 1.5, 2, 2.5]
    assert load_run_config(whole).periods == 2
    summary = record.summary
    assert summary is not None
    assert (summary.epochs, record.planned_epochs, sum(summary.batch_sizes.values())) == (3, 3, 3)
    plan = Plan.of(6, 1.0, 0.75, 2)
    assert [decision.fall_begins for decision in decisions].index(True) == plan.decay_from


def test_scouts_train_parts_of_an_epoch_and_the_best_goes_on(whole: Path) -> None:
    record = read_run(whole)
    assert record.summary is not None
    scouts = record.summary.scouts
    assert [scout["epochs"] for scout in scouts] == [0.5] * len(scouts)
    (winner,) = (scout for scout in scouts if scout["won"])
    first = load_epochs(whole)[0]
    assert (winner["train_loss"], winner["validation_loss"]) == (first.train_loss, first.validation_loss)
    thrown = sum(scout["examples"] for scout in scouts if not scout["won"])
    assert record.summary.examples == 252 + thrown == 252 + 42 * (len(scouts) - 1)


def test_the_winner_is_the_run_that_started_there_without_scouts(tmp_path: Path, whole: Path) -> None:
    """Data order, augmentation and dropout are those of a run that was never cut."""
    lr = load_epochs(whole)[0].lr
    run(few(scouts=0, learning_rates=[lr]), tmp_path / "run")
    mine, theirs = weights(whole), weights(tmp_path / "run")
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


def test_a_run_killed_at_any_write_continues_bit_by_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path
) -> None:
    struck = 0
    share = (0.0, 0.6, 1.0)
    while kill_and_resume(few(), out := tmp_path / str(struck), Killer(struck + 1, share[struck % 3]), monkeypatch):
        assert_same_run(whole, out)
        struck += 1
    assert struck > 40


def test_a_run_of_an_earlier_version_goes_on_between_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("autobatch.policies.steer._search.DECISIONS", 1)
        Killer(10, 1.0).arm(patch)
        with pytest.raises(Killed):
            run(few(scouts=0), out)
    kept = (out / "config.yaml").read_text()
    assert "\nperiods: 1\n" in kept
    (out / "config.yaml").write_text(kept.replace("\nperiods: 1\n", "\n"))
    checkpoint = read_checkpoint(out / CHECKPOINT)
    config = {key: value for key, value in checkpoint.record["config"].items() if key != "periods"}
    write_checkpoint(out / CHECKPOINT, Checkpoint(checkpoint.tensors, {**checkpoint.record, "config": config}))
    assert 0 < len(load_epochs(out)) < 3
    run(load_run_config(out), out, resume=True)
    assert [row.epoch for row in load_epochs(out)] == [1, 2, 3]


def test_other_policies_decide_between_epochs(tmp_path: Path) -> None:
    run(tiny_config(fixed(), dropout_task(epochs=2), trust_code=True), tmp_path / "run")
    assert [row.epoch for row in load_epochs(tmp_path / "run")] == [1, 2]


def test_a_training_that_diverges_within_an_epoch_ends_there(tmp_path: Path) -> None:
    out = tmp_path / "run"
    summary = run(few(scouts=0, learning_rates=[1e30]), out)
    assert summary.stopped_because.startswith("diverged: ")
    assert (summary.epochs, [row.epoch for row in load_epochs(out)]) == (0.5, [0.5])
    assert "after 0.50 epochs" in told(story(read_run(out)))


def told(view: Any) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(view)
    return captured.get()


def test_it_is_told_in_epochs(whole: Path) -> None:
    record = read_run(whole)
    words = told(story(record, figures=True))
    assert "the best of 3 scouts after 0.5 epochs" in words
    assert "Epochs 0 to 1: batch size 32" in words
    assert "finished after 3 epochs" in words
    lines = "\n".join(RunLines().new(record, 0.0))
    assert "epoch 0.50/3  batch" in lines
    assert "epoch 3/3  batch" in lines
    assert "epoch 3/3" in told(watch_view(record, 0.0, 40))
    for text in (words, lines):
        assert not any(ugly in text for ugly in ("0.5000", "1.5000", "nan", "3.0 "))

"""Forks: a larger batch tried on the run itself, of which one epoch is thrown away and charged."""

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from autobatch._errors import CheckpointError
from autobatch.beacons import Branches, CostTable, Journey
from autobatch.control.run import BRANCH_RUNS, CHECKPOINT, FORKS, EpochRow
from autobatch.policies import PolicySpec, SteerPolicy
from autobatch.policies.steer import Fork, _forks
from autobatch.report._comparison import modelled_course
from autobatch.report._follow import RunLines
from autobatch.report._record import read_run
from autobatch.report._story import story
from autobatch.report._watch import standing_view
from autobatch.report.page._page import html_page
from autobatch.training import RunConfig, RunObserver, load_data, load_decisions, load_epochs, run
from autobatch.training._checkpoint import read_checkpoint
from autobatch.training._engine import reproducible
from autobatch.training._recorded import recording_info
from autobatch.training._trial import Trial
from tests.training.forker import in_place_of_any
from tests.training.kills import Killed, Killer, assert_same_run
from tests.training.tiny import fixed, timeless, tiny_config, tiny_task

STEPS = CostTable(
    device="steps",
    step_seconds={8: 1.0, 16: 1.0, 32: 1.0},
    measuring_seconds={8: 0.1, 16: 0.1, 32: 0.1},
    epoch_seconds=0.0,
)
"""A step takes as long at every size, so that larger batches are worth a try."""

EPOCHS = 24


def forking(**changes: Any) -> RunConfig:
    parameters = {"scouts": 0, "length": 1.0, "decay": 0.1, "fork_share": 0.2} | changes
    task = tiny_task(epochs=EPOCHS, learning_rates=[0.05], batch_sizes=[8, 16], threads=1)
    return tiny_config(PolicySpec(name="steer", kind="steer", parameters=parameters), task, costs=STEPS)


def take(monkeypatch: pytest.MonkeyPatch, taken: bool) -> None:
    monkeypatch.setattr(_forks, "TOLERANCE", 1e9 if taken else -1e9)


@pytest.fixture(autouse=True)
def starting_at_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autobatch.policies.steer._search.SIZE", 8)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return dict(read_checkpoint(out / CHECKPOINT).tensors)


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


class Noted(RunObserver):
    """Remembers the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_a_fork_that_is_not_taken_leaves_the_training_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(monkeypatch, taken=False)
    noted = Noted()
    tried = run(forking(), tmp_path / "tried", noted)
    alone = run(forking(forks=0), tmp_path / "alone")
    assert_equal(weights(tmp_path / "tried"), weights(tmp_path / "alone"))
    assert [fork["epoch"] for fork in tried.forks] == [1, 2]  # after a fork that is not taken twice as many epochs
    assert [fork["taken"] for fork in tried.forks] == [False, False]
    assert tried.batch_sizes == alone.batch_sizes
    before, after, *_ = (note for note in noted.notes if "s16 at lr 0.1" in note)
    assert before == "fork: the coming epoch is trained as decided, and as s16 at lr 0.1"
    assert "s8 at lr 0.05 stays" in after
    assert load_decisions(tmp_path / "tried")[2].reason.startswith(after)
    ours, theirs = timeless(tmp_path / "tried" / "epochs.jsonl"), timeless(tmp_path / "alone" / "epochs.jsonl")
    assert ours == theirs


def test_forks_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take(monkeypatch, taken=False)
    run(forking(), tmp_path / "run")
    record = read_run(tmp_path / "run")
    assert [fork.epoch for fork in record.forks] == [1, 2]
    console = Console(record=True, width=150, file=io.StringIO())
    console.print(story(record))
    console.print(standing_view(record, 0.0))
    told = console.export_text()
    assert told.count("s16-lr0.1   s8-lr0.05") == 2
    assert re.search(r"Last fork +in epoch 3: s16 at lr 0.1 was tried for an epoch beside s8 at lr 0.05", told)
    assert sum("→ s16 at lr 0.1 was tried" in line for line in RunLines().new(record, 0.0)) == 2
    assert html_page([record]).count('<td data-head="Beside">s8-lr0.05</td>') == 2
    (tmp_path / "run" / FORKS).write_text("[{}]")
    with pytest.raises(CheckpointError, match=r"forks.json: damaged"):
        read_run(tmp_path / "run")


def test_what_is_thrown_away_is_charged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take(monkeypatch, taken=False)
    tried, alone = run(forking(), tmp_path / "tried"), run(forking(forks=0), tmp_path / "alone")
    thrown = [fork["optimizer_steps"] for fork in tried.forks]
    assert thrown == [5, 5]  # 84 examples in batches of 16
    assert tried.optimizer_steps - alone.optimizer_steps == sum(thrown)
    assert tried.examples - alone.examples == 2 * 84
    assert tried.samples - alone.samples == sum(fork["samples"] for fork in tried.forks) > 0
    assert tried.forking_seconds == pytest.approx(sum(fork["seconds"] for fork in tried.forks))
    assert 0.0 < tried.forking_seconds < tried.seconds
    rows = load_epochs(tmp_path / "tried")
    assert rows[-1].seconds <= tried.seconds
    cost, without = (
        modelled_course(load_epochs(tmp_path / name), STEPS, summary.scouts, summary.forks)
        for summary, name in ((tried, "tried"), (alone, "alone"))
    )
    charged = sum(thrown) + 0.1 * sum(fork["samples"] for fork in tried.forks)
    assert cost[-1] - without[-1] == pytest.approx(charged)
    assert cost[0] == without[0]
    assert cost[1] > without[1] + 5


def test_a_fork_that_is_taken_goes_on_as_if_it_had_been_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(monkeypatch, taken=True)
    summary = run(forking(), tmp_path / "run")
    assert [(fork["epoch"], fork["taken"]) for fork in summary.forks] == [(1, True)]  # 16 is the ladder's top
    rows, decisions = load_epochs(tmp_path / "run"), load_decisions(tmp_path / "run")
    assert [row.batch_size for row in rows] == [8] + 23 * [16]
    assert [row.lr for row in rows] == [0.05] + 23 * [0.1]
    assert [one.epoch for one in decisions] == list(range(EPOCHS)) + [EPOCHS] * (len(decisions) - EPOCHS)
    assert [one.batch_size for one in decisions[:EPOCHS]] == [row.batch_size for row in rows]
    assert decisions[1].reason == summary.forks[0]["reason"]  # why, and not only that it was tried
    assert "it goes on" in decisions[2].reason
    assert summary.forks[0]["optimizer_steps"] == 11  # the epoch at 8 that was thrown away
    # The same by hand, without any fork.
    config, device = forking(), torch.device("cpu")
    with reproducible(device, threads=1):
        by_hand = Trial(config, data=load_data(config.task, None, device), device=device, costs=STEPS)
        for row in rows[:5]:
            by_hand.decide(row.batch_size, row.lr)
            assert by_hand.period().validation_loss == row.validation_loss


@pytest.mark.parametrize(("taken", "share"), [(True, 0.5), (False, 1.0)])
def test_a_run_killed_at_any_write_continues_bit_by_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: bool, share: float
) -> None:
    take(monkeypatch, taken)
    config = forking()
    whole = tmp_path / "whole"
    run(config, whole)
    for at in range(7 + taken, 21, 2):  # the writes around the forks of the second and third epoch
        out = tmp_path / f"killed-{at}"
        with monkeypatch.context() as patch:
            Killer(at, share).arm(patch)
            with pytest.raises(Killed):
                run(config, out)
        run(config, out, resume=True)
        assert_same_run(out, whole)


def test_a_fork_that_diverges_costs_no_more_than_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_forks.ForkRule, "proposed", lambda *_: None if _[-1] or not _[1] else Fork(16, 1e9))
    summary = run(forking(), tmp_path / "tried")
    (fork,) = summary.forks
    assert "and diverged: " in fork["reason"]
    assert fork["reason"].endswith("s8 at lr 0.05 stays")
    assert (summary.stopped_because, summary.epochs, fork["taken"]) == ("finished", EPOCHS, False)
    assert fork["difference"] is None
    stay, tried = Branches.load(tmp_path / "tried").journeys
    assert (stay.finished, tried.finished) == (True, False)
    assert tried.stopped_because.startswith("diverged: ")
    json.dumps(summary.model_dump(), allow_nan=False)


def test_a_fork_that_does_not_fit_into_memory_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = Trial.period

    def short_of_memory(self: Trial, after_step: Any) -> Any:
        if self.controller.batch_size == 16 and self.controller.epoch < 10:
            raise torch.OutOfMemoryError("none left")
        return train(self, after_step)

    monkeypatch.setattr(Trial, "period", short_of_memory)
    summary = run(forking(), tmp_path / "run")
    assert [fork["taken"] for fork in summary.forks] == [False, False]
    assert "did not fit into memory: s8 at lr 0.05 stays" in summary.forks[0]["reason"]
    assert summary.forks[0]["optimizer_steps"] == 0
    assert [one.rows["batch_size"].tolist() for one in Branches.load(tmp_path / "run").journeys] == [[8, 8]] * 2
    assert summary.stopped_because == "finished"
    assert math.isfinite(summary.test_loss or math.nan)


@pytest.mark.parametrize("taken", [True, False])
def test_both_epochs_are_kept_as_branches_of_one_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    take(monkeypatch, taken)
    config, device = forking(), torch.device("cpu")
    run(config, tmp_path)
    rows, branches = load_epochs(tmp_path), Branches.load(tmp_path)
    assert [(int(one.rows["epoch"][0]), one.kind, one.seed) for one in branches.journeys] == [
        (epoch, "branch", config.seed) for epoch in ([1] if taken else [1, 2]) for _ in range(2)
    ]
    for stay, fork in zip(branches.journeys[::2], branches.journeys[1::2], strict=True):
        epoch = int(stay.rows["epoch"][0])
        assert same(stay, 0, rows[epoch - 1])
        assert same(fork, 0, rows[epoch - 1])
        assert same(fork if taken else stay, 1, rows[epoch])
        assert stay.stopped_because == fork.stopped_because == "finished"
        assert [one.rows["batch_size"].tolist() for one in (stay, fork)] == [[8, 8], [8, 16]]
        with reproducible(device, threads=1):  # the one that was thrown away
            data = load_data(config.task, None, device)
            by_hand = Trial(config, data=data, device=device, costs=STEPS)
            for size, lr in [(8, 0.05)] * epoch + [(8, 0.05) if taken else (16, 0.1)]:
                by_hand.decide(size, lr)
                row = by_hand.period()
        assert same(stay if taken else fork, 1, row)
    assert branches.info == recording_info(config.task, data)


def same(journey: Journey, place: int, row: EpochRow) -> bool:
    return all(values[place] == row.to_dict()[name] for name, values in journey.rows.items() if "seconds" not in name)


def test_a_run_that_does_not_measure_keeps_no_branches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take(monkeypatch, taken=False)
    summary = run(forking().model_copy(update={"measure": False}), tmp_path)
    assert len(summary.forks) == 2
    assert not (tmp_path / BRANCH_RUNS).exists()


def test_any_policy_that_forks_keeps_branches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_place_of_any(monkeypatch)
    summary = run(tiny_config(fixed(16, 0.1)), tmp_path)
    assert [fork["epoch"] for fork in summary.forks] == [0, 1]
    first, second = Branches.load(tmp_path).journeys  # before the first epoch there is no state that a branch leaves
    assert [one.rows["batch_size"].tolist() for one in (first, second)] == [[16, 16], [16, 32]]


def test_a_fork_under_a_falling_rate_is_no_branch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The surrogate would take its epochs for some of the task's own schedule."""
    monkeypatch.setattr(
        SteerPolicy, "fork", lambda policy, observation: Fork(16, 0.1) if observation.epoch > 2 else None
    )
    summary = run(forking(decay=1.0), tmp_path)
    assert summary.forks
    assert not (tmp_path / BRANCH_RUNS).exists()


def test_another_error_in_a_fork_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = Trial.period

    def broken(self: Trial, after_step: Any) -> Any:
        if self.controller.batch_size == 16:
            raise RuntimeError("something else")
        return train(self, after_step)

    monkeypatch.setattr(Trial, "period", broken)
    with pytest.raises(RuntimeError, match="something else"):
        run(forking(), tmp_path / "run")

"""Runs whose batches do not fit into memory: scouts and the run go on with those that do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from autobatch import ConfigError
from autobatch.training import RunConfig, Summary, load_decisions, load_epochs, load_run_config, run
from autobatch.training._engine import Engine
from tests.training.test_scouting import Told, assert_cuts_change_nothing, scouted, steer
from tests.training.tiny import COSTS, fixed, stages, tiny_config, tiny_task


@pytest.fixture(autouse=True)
def long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scouts of a few steps have taken enough; an epoch has one decision."""
    monkeypatch.setattr("autobatch.policies.steer._search.STEPS", 0)
    monkeypatch.setattr("autobatch.policies.steer._search.DECISIONS", 1)


class Memory:
    """Holds batches of so many examples; counts those that it did not hold, by their size."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
        self.most = most
        self.refused: list[int] = []
        passed = Engine.passed

        def short(engine: Engine, inputs: Tensor, targets: Tensor) -> Any:
            if len(inputs) > self.most:
                self.refused.append(len(inputs))
                raise torch.OutOfMemoryError("none left")
            return passed(engine, inputs, targets)

        monkeypatch.setattr(Engine, "passed", short)


class Noted(Told):
    """Remembers notes, too."""

    def note(self, text: str) -> None:
        self.lines.append(text)


LADDER = [8, 16, 32]


def grows(*batch_sizes: int) -> RunConfig:
    """A run that starts with batches of 32, and whose batches grow as the rate falls where there are larger ones."""
    costs = replace(
        COSTS,
        step_seconds=COSTS.step_seconds | {64: 0.006},
        measuring_seconds=COSTS.measuring_seconds | {64: 0.03},
    )
    config = scouted(12, steer(length=1.0, forks=0), batch_sizes=list(batch_sizes))
    return config.model_copy(update={"costs": costs})


def test_scouts_go_on_with_a_smaller_batch_where_theirs_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(monkeypatch, 20)
    told = Noted()
    summary = run(scouted(8, batch_sizes=LADDER), tmp_path / "run", told)
    first, *others = summary.scouts
    assert (first["batch_size"], first["ended"], first["won"]) == (32, "did not fit into memory", False)
    assert {scout["batch_size"] for scout in others} <= {8, 16}
    assert others[0]["batch_size"] == 16
    assert [scout["won"] for scout in summary.scouts].count(True) == 1
    assert len(memory.refused) == 1  # nor did anything try it again, while the rate fell
    assert summary.stopped_because == "finished"
    assert {row.batch_size for row in load_epochs(tmp_path / "run")} <= {8, 16}
    assert any("scout s32" in line and "did not fit into memory" in line for line in told.lines)


def test_that_is_kept_when_a_run_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Memory(monkeypatch, 20)
    config = scouted(8, batch_sizes=LADDER)
    run(config, out := tmp_path / "run")
    assert_cuts_change_nothing(config, out, monkeypatch, 3, 9, 20)


def test_where_the_smallest_does_not_fit_that_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(monkeypatch, 4)
    with pytest.raises(ConfigError, match="no scout fits into memory, the smallest at batch size 8; give smaller"):
        run(scouted(8, batch_sizes=LADDER), tmp_path / "run")
    assert max(memory.refused) == 32


def finished(config: RunConfig, out: Path, told: Noted | None = None) -> Summary:
    summary = run(config, out, told) if told is not None else run(config, out)
    assert summary.stopped_because == "finished"
    return summary


def test_a_run_that_grows_too_large_goes_on_with_what_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = grows(32, 64)
    finished(config, tmp_path / "free")
    assert 64 in {row.batch_size for row in load_epochs(tmp_path / "free")}
    finished(grows(32), tmp_path / "small")
    memory, told = Memory(monkeypatch, 40), Noted()
    summary = finished(config, out := tmp_path / "run", told)
    assert memory.refused == [84]  # 64 of 84 examples leave a batch too small to be one of its own
    assert {row.batch_size for row in load_epochs(out)} == {32}
    note = "batches of 64 do not fit into memory: the epoch is trained again with 32"
    assert told.lines.count(note) == 1
    # It is the training that it would have been without the larger size.
    mine, theirs = load_epochs(out), load_epochs(tmp_path / "small")
    assert [row.validation_loss for row in mine] == [row.validation_loss for row in theirs]
    assert [one.epoch for one in load_decisions(out)] == [one.epoch for one in load_decisions(tmp_path / "small")]
    assert summary.seconds > 0.0


def test_who_says_the_size_gets_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(monkeypatch, 20)
    task = tiny_task(threads=1)
    for number, policy in enumerate((fixed(32, 0.1), stages(32, 8))):  # of the latter, nothing was trained before
        with pytest.raises(torch.OutOfMemoryError):
            run(tiny_config(policy, task), tmp_path / str(number))
    assert memory.refused == [32, 32]


def untimed(**task: Any) -> RunConfig:
    """A run that has this machine timed first."""
    return scouted(8, **task).model_copy(update={"costs": None})


def test_sizes_that_nobody_has_named_are_left_out_where_they_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    memory, told = Memory(monkeypatch, 20), Noted()
    config = untimed(batch_sizes=[8, 16, 32, 64])  # which are the usual ones, as far as there are examples
    finished(config, out := tmp_path / "run", told)
    left_out = "batches of {} do not fit into memory: none of them or larger is used"
    assert [line for line in told.lines if "do not fit" in line] == [left_out.format(32)]
    assert load_run_config(out).task.batch_sizes == (8, 16)
    assert {row.batch_size for row in load_epochs(out)} <= {8, 16}
    assert memory.refused == [32]
    again = run(load_run_config(out), out, resume=True)
    assert again.stopped_because == "finished"


def test_sizes_that_are_named_are_an_error_where_they_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Memory(monkeypatch, 20)
    with pytest.raises(ConfigError, match="batches of 32 do not fit into memory; leave 32 out of batch_sizes"):
        run(untimed(batch_sizes=[16, 32]), tmp_path / "run")
    assert not (tmp_path / "run").exists()

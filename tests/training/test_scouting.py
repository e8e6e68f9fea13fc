"""Runs that begin with scouts, let the rate fall as the policy says, and end early."""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from autobatch import CheckpointError, ConfigError, OutputError
from autobatch._files import alone_in
from autobatch.beacons import Branches
from autobatch.control.run import BRANCH_RUNS, CHECKPOINT
from autobatch.policies import PolicySpec, SteerParameters, SteerPolicy
from autobatch.policies.steer._plan import Plan
from autobatch.policies.steer._search import STEPS, usual_rates
from autobatch.training import (
    EpochRow,
    RunConfig,
    RunObserver,
    Summary,
    TaskSpec,
    load_decisions,
    load_epochs,
    load_run_config,
    load_scouting,
    run,
)
from autobatch.training._checkpoint import read_checkpoint
from autobatch.training._trial import Trial
from autobatch.training.running import scout_directory
from autobatch.training.running._scout_words import most_cost
from autobatch.training.running._session import Session
from tests.policies.cases import make_task
from tests.processes import FORKED
from tests.training.kills import RECORDS, Killer, assert_same_run, kill_and_resume
from tests.training.tiny import COSTS, fixed, timeless, tiny_config, tiny_task

RATES = [0.05, 0.1, 0.2]


def steer(**parameters: Any) -> PolicySpec:
    """The policy; what a tiny task has learnt after an epoch does not lengthen its training unless that is asked."""
    return PolicySpec(name="steer", kind="steer", parameters={"hardly_begun": 2.0} | parameters)


def scouted(epochs: int = 6, policy: PolicySpec | None = None, **task: Any) -> RunConfig:
    """A run of six epochs with three scouts of one epoch, which ends after four epochs unless told otherwise."""
    return tiny_config(
        policy or steer(), tiny_task(**({"epochs": epochs, "learning_rates": RATES, "threads": 1} | task))
    )


@pytest.fixture(scope="module", autouse=True)
def long_enough() -> Iterator[None]:
    """Scouts of a few steps have taken enough to be compared by their training losses; an epoch has one decision."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autobatch.policies.steer._search.STEPS", 0)
        patch.setattr("autobatch.policies.steer._search.DECISIONS", 1)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with scouts that nothing has disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(scouted(), out)
    return out


def summary_of(out: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return summary


def weights(out: Path) -> dict[str, torch.Tensor]:
    return dict(read_checkpoint(out / CHECKPOINT).tensors)


def assert_equal_weights(one: Path, other: Path) -> None:
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


class Told(RunObserver):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def scouting(self, plan: str) -> None:
        self.lines.append(plan)

    def scouted(self, scout: str) -> None:
        self.lines.append(scout)


# The plan ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scouts", [0, 3])
def test_the_rates_are_those_of_the_plan_and_the_run_ends_early(tmp_path: Path, scouts: int) -> None:
    config = scouted(8, steer(scouts=scouts), batch_sizes=[16])  # one size, so that the factor is the plan's own
    summary = run(config, tmp_path / "run")
    rows, decisions = load_epochs(tmp_path / "run"), load_decisions(tmp_path / "run")
    plan = Plan.of(8, 0.7, 0.75)
    assert plan.end == len(rows) == summary.epochs == 6
    lr = rows[0].lr
    assert [row.lr_effective for row in rows] == pytest.approx([lr * plan.factor(epoch) for epoch in range(6)])
    assert [decision.epoch for decision in decisions] == list(range(7))
    assert [decision.stop for decision in decisions] == [False] * 6 + [True]
    assert summary.stopped_because == "finished"
    assert summary.ended_early == decisions[-1].reason
    assert "after 6 of 8 epochs: stop" in decisions[-1].reason
    assert len(summary.scouts) == scouts
    assert summary.test_error is not None
    assert 0.0 <= summary.test_error <= 1.0
    assert summary.test_loss is not None


def test_the_optimizer_trains_at_the_rates_of_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[float] = []
    step = torch.optim.SGD.step

    def spied(self: torch.optim.SGD, *arguments: Any) -> Any:
        used.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    # The step itself, within the hooks that set the rate.
    monkeypatch.setattr(torch.optim.SGD, "step", torch.optim.Optimizer.profile_hook_step(spied))
    run(scouted(6, steer(scouts=0), batch_sizes=[16]), tmp_path / "run")
    rows = load_epochs(tmp_path / "run")
    steps = rows[0].steps
    assert [used[epoch * steps] for epoch in range(4)] == pytest.approx([row.lr_effective for row in rows])
    assert len(used) == 4 * steps


def test_a_kept_schedule_keeps_its_rates_and_its_length(tmp_path: Path) -> None:
    schedule = {"name": "multistep", "milestones": [0.5], "factor": 0.1, "keep": True}
    summary = run(scouted(schedule=schedule), tmp_path / "run")
    rows = load_epochs(tmp_path / "run")
    lr = rows[0].lr
    assert [row.lr_effective for row in rows] == pytest.approx([lr] * 3 + [0.1 * lr] * 3)
    assert {row.batch_size for row in rows} == {32}
    assert (summary.epochs, summary.ended_early) == (6, None)
    assert len(summary.scouts) == 3
    assert not any(decision.stop for decision in load_decisions(tmp_path / "run"))


def test_a_policy_that_does_not_steer_follows_a_steered_schedule(tmp_path: Path) -> None:
    run(tiny_config(fixed(), tiny_task(epochs=5, schedule={"name": "steered"})), tmp_path / "run")
    rates = [row.lr_effective for row in load_epochs(tmp_path / "run")]
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.05])  # falls over the last 40 %, from progress 0.6 on


@pytest.mark.parametrize(("epochs", "scouts", "trained"), [(1, 0, 1), (2, 0, 2), (3, 0, 3)])
def test_the_shortest_trainings(tmp_path: Path, epochs: int, scouts: int, trained: int) -> None:
    summary = run(scouted(epochs), tmp_path / "run")
    assert (len(summary.scouts), summary.epochs) == (scouts, trained)
    assert summary.test_error is not None
    assert not load_decisions(tmp_path / "run")[-1].stop  # the task's own end


def test_scouts_longer_than_the_plan_leave_nothing_to_train(tmp_path: Path) -> None:
    # Scouts take two epochs, and the plan ends after one: the winner is the run, and is tested.
    summary = run(scouted(8, steer(scout_share=0.25, length=0.1)), tmp_path / "run")
    assert summary.epochs == 2
    assert "after 1 of 8 epochs: stop" in (summary.ended_early or "")
    assert summary.test_error is not None
    assert [decision.stop for decision in load_decisions(tmp_path / "run")] == [False, False, True]


# The scouts ----------------------------------------------------------------------------------------------------------


def test_the_scout_with_the_least_training_loss_goes_on(whole: Path) -> None:
    scouting = load_scouting(whole)
    assert scouting is not None
    assert [scout.lr for scout in scouting.scouts] == [0.1, 0.2, 0.05]
    (winner,) = (scout for scout in scouting.scouts if scout.won)
    assert winner.train_loss == min(scout.train_loss for scout in scouting.scouts)
    rows, decisions = load_epochs(whole), load_decisions(whole)
    assert {row.lr for row in rows} == {winner.lr}
    assert rows[0].train_loss == winner.train_loss
    assert decisions[0].reason == f"as a scout; {scouting.reason}"
    assert f"s32 at lr {winner.lr:g}: the best of 3 scouts after 1 epoch" in scouting.reason


def test_scouts_of_few_steps_are_compared_by_their_validation_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autobatch.policies.steer._search.STEPS", STEPS)
    run(scouted(), tmp_path / "run")
    scouting = load_scouting(tmp_path / "run")
    assert scouting is not None
    assert "after 1 epoch by validation, " in scouting.reason
    (winner,) = (scout for scout in scouting.scouts if scout.won)
    losses = [scout.validation_loss for scout in scouting.scouts if scout.validation_loss is not None]
    assert winner.validation_loss == min(losses)


def test_losers_are_charged_and_the_winner_is_not_charged_twice(whole: Path) -> None:
    summary, rows, scouting = summary_of(whole), load_epochs(whole), load_scouting(whole)
    assert scouting is not None
    losers = [scout for scout in scouting.scouts if not scout.won]
    assert len(losers) == 2
    last = rows[-1]
    assert summary["examples"] == last.examples + 2 * 84
    assert summary["optimizer_steps"] == last.steps + 2 * 3
    assert summary["samples"] == last.samples + sum(scout.samples for scout in losers)
    assert summary["scouting_seconds"] == pytest.approx(sum(scout.seconds for scout in losers))
    assert summary["seconds"] >= last.seconds > summary["scouting_seconds"] > 0.0
    charged = last.measuring_seconds + sum(scout.measuring_seconds for scout in losers)
    assert summary["measuring_seconds"] == pytest.approx(charged)
    assert [scout["won"] for scout in summary["scouts"]].count(True) == 1
    assert len(summary["scouts"]) == 3


def test_the_winner_is_the_run_that_started_there_without_scouts(whole: Path, tmp_path: Path) -> None:
    # With one rate there is nothing to scout, and the start is the winner's.
    winner = load_epochs(whole)[0].lr
    run(scouted(learning_rates=[winner]), tmp_path / "alone")
    assert not (tmp_path / "alone" / "scouts").exists()
    assert_equal_weights(whole, tmp_path / "alone")
    for file in ("epochs.jsonl", "measurements.jsonl"):
        assert timeless(whole / file) == timeless(tmp_path / "alone" / file)
    # What differs is what the records say of the beginning: the words, and a plan that a scout did not have.
    with_scouts, without = (load_decisions(out) for out in (whole, tmp_path / "alone"))
    assert [(one.epoch, one.batch_size, one.lr, one.lr_effective, one.changed, one.stop) for one in with_scouts] == [
        (one.epoch, one.batch_size, one.lr, one.lr_effective, one.changed, one.stop) for one in without
    ]
    assert with_scouts[0].reason != without[0].reason
    mine, theirs = summary_of(whole), summary_of(tmp_path / "alone")
    assert {key for key in mine if mine[key] != theirs[key] and "seconds" not in key} == {
        "examples", "optimizer_steps", "samples", "measuring_share", "measuring_share_modelled", "scouts"
    }  # fmt: skip


def test_measuring_keeps_to_its_share_of_a_training_that_ends_early_its_scouts_included(tmp_path: Path) -> None:
    # Measuring so cheap that no scout has its one sample by exception.
    costs = replace(COSTS, measuring_seconds=dict.fromkeys(COSTS.measuring_seconds, 0.001))
    config = scouted(40, measuring={"budget": 0.1}).model_copy(update={"costs": costs})
    summary = run(config, tmp_path / "run")
    rows, losers = load_epochs(tmp_path / "run"), [scout for scout in summary.scouts if not scout["won"]]
    # By hand, with the cost table: what is measured, over all that is trained, by the run and by the losers.
    trained = sum(costs.training_seconds(one["batch_size"], one["optimizer_steps"], one["epochs"]) for one in losers)
    measured = sum(one["samples"] * costs.measuring(one["batch_size"]) for one in losers)
    for before, row in pairwise([None, *rows]):
        assert row is not None
        steps, samples = (
            (row.steps - before.steps, row.samples - before.samples) if before else (row.steps, row.samples)
        )
        trained += costs.training_seconds(row.batch_size, steps, 1)
        measured += samples * costs.measuring(row.batch_size)
    assert summary.measuring_share_modelled == pytest.approx(measured / trained)
    assert 0.05 < measured / trained <= 0.1
    assert summary.epochs == 28


def test_the_observer_is_told_what_is_tried_and_what_came_of_it(tmp_path: Path) -> None:
    told = Told()
    run(scouted(), tmp_path / "run", told)
    assert told.lines[0].startswith("3 scouts of 1 epoch each at most: s32 at lr 0.1 first, then rates towards where ")
    assert "those that lose take at most about" in told.lines[0]
    assert "% of a whole training at s32" in told.lines[0]
    assert [line.partition(": ")[0] for line in told.lines[1:4]] == [f"scout s32 at lr {lr}" for lr in (0.1, 0.2, 0.05)]
    assert "the best of 3 scouts" in told.lines[4]
    assert len(told.lines) == 5


@pytest.mark.parametrize(("scouts", "sizes"), [(3, (32, 32, 16)), (2, (32, 16)), (0, ())])
def test_the_cost_at_most_has_the_smaller_batch_in_that_may_come(scouts: int, sizes: tuple[int, ...]) -> None:
    facts = {"train_size": 2000, "batch_sizes": (16, 32), "learning_rates": tuple(RATES), "guessing": 2.3}
    task = make_task(epochs=40, costs=COSTS, steered=True, **facts)
    policy = SteerPolicy(SteerParameters(scouts=scouts))
    policy.reset(task, None)
    assert most_cost(policy, task) == pytest.approx(sum(COSTS.whole_epochs(size, 2000, 2) for size in sizes))
    assert most_cost(policy, replace(task, costs=None)) is None


def test_the_cost_at_most_has_all_rates_in_that_may_come_around_the_optimizers_own() -> None:
    facts = {"train_size": 2000, "batch_sizes": (16, 32), "learning_rates": usual_rates(0.1), "guessing": 2.3}
    task = make_task(epochs=40, costs=COSTS, steered=True, around=True, **facts)
    policy = SteerPolicy(SteerParameters())
    policy.reset(task, None)
    sizes = (32, 32, 32, 32, 16)  # five rates and half the batch, less the one that goes on
    assert most_cost(policy, task) == pytest.approx(sum(COSTS.whole_epochs(size, 2000, 2) for size in sizes))


def test_a_run_without_lists_walks_from_the_optimizers_own_rate(tmp_path: Path) -> None:
    task = TaskSpec.model_validate({
        key: value for key, value in tiny_task(epochs=6, threads=1).model_dump().items() if key != "learning_rates"
    })
    config = tiny_config(steer(), task)
    run(config, tmp_path / "run")
    first, *others = load_scouting(tmp_path / "run").scouts
    assert first.lr == task.optimizer.base_lr
    assert others[0].lr == pytest.approx(3 * first.lr)
    assert load_run_config(tmp_path / "run").task.around


def test_a_scout_that_diverges_loses_and_the_run_goes_on(tmp_path: Path) -> None:
    summary = run(scouted(learning_rates=[0.1, 1e8, 2e8]), tmp_path / "run")
    scouts = {scout["lr"]: scout for scout in summary.scouts}
    assert list(scouts) == [1e8, 0.1]  # a middle that diverges sends the others down
    assert [lr for lr, scout in scouts.items() if scout["won"]] == [0.1]
    assert scouts[1e8]["ended"].startswith("diverged: ")
    assert (summary.stopped_because, summary.epochs) == ("finished", 4)
    json.dumps(summary.model_dump(), allow_nan=False)


def test_a_hopeless_scout_ends_early_and_says_so(tmp_path: Path) -> None:
    # Two epochs a scout; at the highest rate the loss grows, yet not so far that it has diverged.
    config = scouted(12, steer(scout_share=0.17), learning_rates=[0.05, 0.1, 1.0], batch_sizes=[8])
    summary = run(config, tmp_path / "run")
    (hopeless,) = (scout for scout in summary.scouts if scout["lr"] == 1.0)
    assert hopeless["epochs"] == 1
    assert "is more than 1.5 times the best scout's" in hopeless["ended"]
    assert {scout["epochs"] for scout in summary.scouts if scout["lr"] != 1.0} == {2}


def test_where_every_scout_diverges_the_run_starts_at_the_lowest_rate_and_says_why(tmp_path: Path) -> None:
    config = scouted(policy=steer(scouts=2), learning_rates=[0.1, 1e4, 1e8, 1e16], batch_sizes=[8])
    out = tmp_path / "run"
    summary = run(config, out)
    assert [scout["ended"].split(":")[0] for scout in summary.scouts] == ["diverged"] * 2
    assert not any(scout["won"] for scout in summary.scouts)
    rows, decisions = load_epochs(out), load_decisions(out)
    assert {row.lr for row in rows} == {0.1}
    assert [decision.epoch for decision in decisions] == list(range(5))
    assert "below every rate that was tried, as no scout came to its end" in decisions[0].reason
    assert (summary.stopped_because, summary.epochs) == ("finished", 4)
    # Both scouts are charged.
    assert summary.examples == rows[-1].examples + sum(scout["examples"] for scout in summary.scouts)
    assert summary.seconds > summary.scouting_seconds == pytest.approx(sum(one["seconds"] for one in summary.scouts))
    # But for the scouts it is the run that starts there.
    run(config.model_copy(update={"task": config.task.model_copy(update={"learning_rates": (0.1,)})}), tmp_path / "one")
    assert_equal_weights(out, tmp_path / "one")


def test_where_the_lowest_rate_diverges_too_the_run_ends_and_says_so(tmp_path: Path) -> None:
    summary = run(scouted(learning_rates=[1e8, 2e8, 4e8]), tmp_path / "run")
    assert summary.stopped_because.startswith("diverged: ")
    assert summary.ended_early is None
    assert summary.epochs == 1
    assert not any(scout["won"] for scout in summary.scouts)


def short_of_memory(monkeypatch: pytest.MonkeyPatch, *rates: float, error: Exception | None = None) -> None:
    """Have memory run out in the first epoch at some rates, or another error be raised."""
    epoch = Trial.period

    def short(trial: Trial, after_step: Callable[[int, int], None] = lambda step, steps: None) -> EpochRow:
        if trial.controller.lr in rates:
            raise error or torch.OutOfMemoryError("none left")
        return epoch(trial, after_step)

    monkeypatch.setattr(Trial, "period", short)


def test_a_scout_that_does_not_fit_into_memory_loses_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_of_memory(monkeypatch, 0.1)
    told = Told()
    config = scouted(batch_sizes=[32])  # there is no smaller size to go over to
    summary = run(config, out := tmp_path / "run", told)
    # That the middle rate does not fit says nothing of the others: both are tried.
    assert [(scout["lr"], scout["ended"]) for scout in summary.scouts] == [
        (0.1, "did not fit into memory"), (0.2, None), (0.05, None)
    ]  # fmt: skip
    assert told.lines[1] == "scout s32 at lr 0.1: did not fit into memory"
    assert [scout["won"] for scout in summary.scouts].count(True) == 1
    assert (summary.stopped_because, summary.epochs) == ("finished", 4)
    assert summary.scouts[0]["seconds"] > 0.0
    assert "nan" not in load_decisions(out)[0].reason
    assert_cuts_change_nothing(config, out, monkeypatch, 2, 5, 8)  # in either of the other scouts, and in the run


def test_where_no_scout_fits_into_memory_that_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short_of_memory(monkeypatch, *RATES)
    with pytest.raises(ConfigError, match="no scout fits into memory, the smallest at batch size 32; give smaller"):
        run(scouted(batch_sizes=[32]), tmp_path / "run")


def test_another_error_in_a_scout_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short_of_memory(monkeypatch, 0.1, error=RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        run(scouted(), tmp_path / "run")


def test_scouts_that_know_no_score_are_judged_by_their_training_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path
) -> None:
    from autobatch.training.running import _scout_runs

    class Unvalidated(Session):
        def period(self) -> EpochRow:
            self.rows[-1:] = [replace(super().period(), validation_loss=math.nan, validation_error=math.nan)]
            return self.rows[-1]

    monkeypatch.setattr(_scout_runs, "Session", Unvalidated)
    told = Told()
    summary = run(scouted(), tmp_path / "run", told)
    assert_equal_weights(whole, tmp_path / "run")
    assert all(scout["validation_loss"] is None for scout in summary.scouts)
    assert "nan" not in load_decisions(tmp_path / "run")[0].reason
    assert "nan" not in " ".join(told.lines)


@pytest.mark.parametrize("wrong", [{"task": {"name": "tests.training.tiny:dropout_net"}}, {"device": "meta"}])
def test_what_cannot_be_carried_out_leaves_no_run_behind(tmp_path: Path, wrong: dict[str, Any]) -> None:
    config = scouted(model=wrong["task"]) if "task" in wrong else scouted().model_copy(update=wrong)
    with pytest.raises(ConfigError):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_ladder_beyond_the_training_set_is_refused_before_any_scout(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="128"):
        run(scouted(batch_sizes=[128]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_scout_whose_batch_is_nearly_the_training_set(tmp_path: Path) -> None:
    costs = COSTS.__class__(device="test", step_seconds={64: 0.01}, measuring_seconds={64: 0.02}, epoch_seconds=0.01)
    summary = run(scouted(batch_sizes=[64]).model_copy(update={"costs": costs}), tmp_path / "run")
    assert [scout["optimizer_steps"] for scout in summary.scouts] == [1] * 3


# Sudden ends ---------------------------------------------------------------------------------------------------------


def test_a_run_killed_at_any_write_continues_bit_by_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path
) -> None:
    struck = 0
    share = (0.0, 0.6, 1.0)
    while kill_and_resume(scouted(), out := tmp_path / str(struck), Killer(struck + 1, share[struck % 3]), monkeypatch):
        assert_same_run(whole, out)
        for scout in (whole / "scouts").iterdir():
            for file in RECORDS:
                assert timeless(scout / file) == timeless(out / "scouts" / scout.name / file)
        struck += 1
    # The configuration; three scouts of scouts.json, a configuration, a decision, three appends and a checkpoint;
    # the branch runs, scouts.json, three files and a checkpoint of the winner; the configuration again, three files cut
    # and a decision;
    # three epochs, of which two find the one before them the best so far and keep its checkpoint; the summary.
    assert struck == 1 + 3 * 7 + 6 + 5 + 3 * 4 + 2 + 1


class Fuse:
    """Raises in the given training step of all that are taken, scouts included."""

    def __init__(self, patch: pytest.MonkeyPatch, steps: int) -> None:
        epoch, self.left = Trial.period, steps

        def burning(trial: Trial, after_step: Callable[[int, int], None] = lambda step, steps: None) -> EpochRow:
            def after(step: int, steps: int) -> None:
                self.left -= 1
                if self.left == 0:
                    raise KeyboardInterrupt
                after_step(step, steps)

            return epoch(trial, after)

        patch.setattr(Trial, "period", burning)


def interrupted(
    out: Path, monkeypatch: pytest.MonkeyPatch, steps: int, *, resume: bool = False, config: RunConfig | None = None
) -> None:
    with monkeypatch.context() as patch:
        Fuse(patch, steps)
        with pytest.raises(KeyboardInterrupt):
            run(load_run_config(out) if resume else config or scouted(), out, resume=resume)


def assert_cuts_change_nothing(config: RunConfig, out: Path, monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Cut the run of ``out`` in each of these training steps, and compare what it comes to once it has gone on."""
    for number, count in enumerate(steps):
        cut = out.parent / str(number)
        interrupted(cut, monkeypatch, count, config=config)
        run(load_run_config(cut), cut, resume=True)
        assert_same_run(out, cut)


def test_a_run_interrupted_in_the_middle_of_scouts_and_later_continues_bit_by_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path
) -> None:
    # An epoch of 84 examples has three steps at 32: in the first scout, in the second and in the run's second epoch.
    out = tmp_path / "run"
    interrupted(out, monkeypatch, 2)
    assert not (out / "epochs.jsonl").exists()
    interrupted(out, monkeypatch, 5, resume=True)
    interrupted(out, monkeypatch, 2 + 3 + 2, resume=True)
    assert (out / "scouts.json").exists()
    run(load_run_config(out), out, resume=True)
    assert_same_run(whole, out)


def test_scouts_are_kept_as_journeys_that_ended_early(whole: Path, tmp_path: Path) -> None:
    scouting = load_scouting(whole)
    assert scouting is not None
    journeys = Branches.load(whole).journeys
    assert {one.origin[:2] for one in journeys} == {(scout.batch_size, scout.lr) for scout in scouting.scouts}
    for one in journeys:
        assert (one.kind, one.stopped_because, one.finished) == ("journey", "ended as a scout", False)
        (row,) = load_epochs(scout_directory(whole, *one.origin))
        assert all(values.tolist() == [row.to_dict()[name]] for name, values in one.rows.items())
    run(scouted(learning_rates=[0.1, 1e8, 2e8]), tmp_path / "wild")
    because = {one.origin.lr: one.stopped_because for one in Branches.load(tmp_path / "wild").journeys}
    assert because[1e8].startswith("diverged: ")
    run(scouted().model_copy(update={"measure": False}), tmp_path / "unmeasured")
    assert not (tmp_path / "unmeasured" / BRANCH_RUNS).exists()


def test_a_failed_scouting_continues_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = scouted(policy=steer(scouts=2), learning_rates=[0.1, 1e4, 1e8, 1e16], batch_sizes=[8])
    run(config, tmp_path / "whole")
    for number, steps in enumerate((25, 36)):  # eleven a scout: in the run's first epoch, and in its second
        out = tmp_path / str(number)
        with monkeypatch.context() as patch:
            Fuse(patch, steps)
            with pytest.raises(KeyboardInterrupt):
                run(config, out)
        run(load_run_config(out), out, resume=True)
        assert_same_run(tmp_path / "whole", out)


def test_kill_minus_nine_in_the_middle_of_a_scout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autobatch.policies.steer._search.STEPS", STEPS)  # as in the other process
    run(scouted(40), tmp_path / "whole")
    out = tmp_path / "run"
    process = FORKED.Process(target=run, args=(scouted(40), out))
    process.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list(out.glob("scouts/*/checkpoint/latest.safetensors"))) < 2:
        time.sleep(0.002)
    process.kill()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not (out / CHECKPOINT).exists()
    run(load_run_config(out), out, resume=True)
    assert_same_run(tmp_path / "whole", out)


# Run directories -----------------------------------------------------------------------------------------------------


def test_a_directory_with_scouts_alone_is_refused_and_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path
) -> None:
    out = tmp_path / "run"
    interrupted(out, monkeypatch, 2)
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == [
        "config.yaml", "scouts", "scouts.json"
    ]  # fmt: skip
    with pytest.raises(OutputError, match=r"holds a run already \(config.yaml\); continue it with --resume"):
        run(scouted(), out)
    run(scouted(), out, resume=True)
    assert_same_run(whole, out)
    alone = tmp_path / "alone"
    (alone / "scouts").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"holds a run already \(scouts\)"):
        run(scouted(), alone)
    with pytest.raises(CheckpointError, match="holds no run"):
        run(scouted(), alone, resume=True)


def test_another_configuration_is_refused_while_there_are_only_scouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    interrupted(out, monkeypatch, 5)
    with pytest.raises(CheckpointError, match=r"'policy\.parameters\.scouts'"):
        run(scouted(policy=steer(scouts=2)), out, resume=True)
    with pytest.raises(CheckpointError, match=r"'task\.schedule\.keep' was false and is true"):
        run(scouted(schedule={"keep": True}), out, resume=True)


def test_a_directory_that_another_process_trains_in_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    interrupted(out, monkeypatch, 2)
    before = {path: path.read_bytes() for path in out.rglob("*.jsonl")}
    with alone_in(out, busy="busy"), pytest.raises(OutputError, match="another process is training this run"):
        run(scouted(), out, resume=True)
    assert {path: path.read_bytes() for path in out.rglob("*.jsonl")} == before


@pytest.mark.parametrize("damage", ["", "{}", '{"reason": "", "scouts": [{}]}', '{"reason": "", "scouts": 3}'])
def test_damaged_records_of_scouts_are_told(tmp_path: Path, damage: str) -> None:
    (tmp_path / "scouts.json").write_text(damage)
    with pytest.raises(CheckpointError, match=r"scouts\.json: damaged"):
        load_scouting(tmp_path)


def test_records_of_scouts_hold_unknown_figures(tmp_path: Path) -> None:
    run(scouted(learning_rates=[0.1, 1e8, 2e8]), tmp_path / "run")
    text = (tmp_path / "run" / "scouts.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    scouting = load_scouting(tmp_path / "run")
    assert scouting is not None
    assert scouting.scouts[0].lr == 1e8
    assert math.isnan(scouting.scouts[0].validation_loss) or scouting.scouts[0].validation_loss > 0.0


def test_a_summary_of_before_there_were_scouts_loads(whole: Path) -> None:
    old = summary_of(whole)
    for key in ("ended_early", "scouting_seconds", "scouts"):
        del old[key]
    summary = Summary.model_validate(old)
    assert (summary.ended_early, summary.scouting_seconds, summary.scouts) == (None, 0.0, [])


# Tasks ---------------------------------------------------------------------------------------------------------------


def test_keep_does_not_make_another_task() -> None:
    prints = [
        tiny_task(schedule={"name": "cosine", "keep": keep}).fingerprint_payload("data", 10) for keep in (False, True)
    ]
    assert prints[0] == prints[1]
    assert prints[0]["schedule"].keys() == {"name", "milestones", "factor"}


def test_a_steered_schedule_cannot_be_kept() -> None:
    with pytest.raises(ValueError, match="'keep' is for the others"):
        tiny_task(schedule={"name": "steered", "keep": True})


def test_the_default_parameters_are_those_of_these_tests() -> None:
    assert SteerParameters() == SteerParameters(scouts=3, scout_share=0.05, length=0.7, decay=0.75)


def test_a_run_that_has_hardly_begun_is_trained_to_its_whole_length(tmp_path: Path) -> None:
    summary = run(scouted(policy=steer(hardly_begun=0.0)), tmp_path / "run")
    assert (summary.epochs, summary.ended_early) == (6, None)
    scouting = load_scouting(tmp_path / "run")
    assert scouting is not None
    assert scouting.planned == 6
    assert "keeps its whole length" in str(scouting.reason)
    assert load_scouting(tmp_path / "run") == scouting


def test_where_nothing_has_begun_half_the_batch_is_tried_and_goes_on_bit_by_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A tiny task's first loss is no better than that of guessing, and two batch sizes' are close.
    monkeypatch.setattr("autobatch.policies.steer._scouts.LEARNT_NOTHING", 2.0)
    monkeypatch.setattr("autobatch.policies.steer._policy.CLEARLY_BETTER", 1.0)
    config = scouted(12, steer(hardly_begun=0.0), learning_rates=[0.01, 0.05, 0.3], batch_sizes=[8, 16])
    summary = run(config, tmp_path / "whole")
    *others, smaller = summary.scouts
    assert ({one["batch_size"] for one in others}, smaller["batch_size"]) == ({16}, 8)
    assert smaller["lr"] not in config.task.learning_rates  # the floor of a parabola, halved
    assert smaller["won"]
    assert (summary.epochs, summary.ended_early) == (12, None)
    rows = load_epochs(tmp_path / "whole")
    assert (rows[0].batch_size, rows[0].lr) == (8, smaller["lr"])
    assert summary.examples == rows[-1].examples + 3 * 84
    with monkeypatch.context() as patch:
        Fuse(patch, 3 * 6 + 2)  # three scouts of six steps, then in the middle of the smaller batch's
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "cut")
    scouting = load_scouting(tmp_path / "cut")
    assert scouting is not None
    assert scouting.waiting == ((8, smaller["lr"]),)
    run(load_run_config(tmp_path / "cut"), tmp_path / "cut", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")

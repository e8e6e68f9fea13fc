"""A training in memory: steered by hand, put back, and the same as a run on disk."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from autobatch._errors import AutoBatchError, ConfigError
from autobatch.beacons._columns import FINISHED
from autobatch.policies import make_policy
from autobatch.training import EpochRow, load_data, load_epochs, run
from autobatch.training._engine import reproducible
from autobatch.training._trial import Trial
from autobatch.training.running._known import info_of
from tests.training.tiny import COSTS, dropout_task, fixed, stages, tiny_config, tiny_task

CPU = torch.device("cpu")
COURSE = [(8, 0.1), (32, 0.05), (32, 0.1), (16, 0.1)]


@pytest.fixture(autouse=True)
def _reproducible() -> Iterator[None]:
    with reproducible(CPU, 1):
        yield


def make(task: Any = None, policy: Any = None, **changes: Any) -> Trial:
    config = tiny_config(policy=policy, task=task or tiny_task(), **changes)
    own = None if policy is None else make_policy(policy)
    return Trial(config, data=load_data(config.task), device=CPU, policy=own, costs=COSTS)


def timeless(row: EpochRow) -> dict[str, Any]:
    return {key: repr(value) for key, value in asdict(row).items() if "seconds" not in key}


def train(trial: Trial, course: list[tuple[int, float]]) -> list[dict[str, Any]]:
    rows = []
    for size, lr in course:
        trial.decide(size, lr)
        rows.append(timeless(trial.period()))
    return rows


def weights(trial: Trial) -> list[torch.Tensor]:
    return [value.clone() for value in trial.engine.model.state_dict().values()]


def test_its_policy_knows_of_the_task_what_scouts_are_told() -> None:
    trial = make()
    assert trial.controller.task == info_of(trial.config, trial.engine.data, COSTS)


@pytest.mark.parametrize("policy", [fixed(16), stages(8, 32, 16, 8)], ids=["fixed", "stages"])
def test_it_is_the_run_on_disk(tmp_path, policy) -> None:
    config = tiny_config(policy)
    run(config, tmp_path / "run")
    trial = make(policy=policy)
    mine = []
    while not trial.finished:
        mine.append(timeless(trial.period()))
    assert mine == [timeless(row) for row in load_epochs(tmp_path / "run")]
    assert trial.stopped_because == FINISHED
    steered = make()
    by_hand = train(steered, [(int(row["batch_size"]), float(row["lr"])) for row in mine])
    assert by_hand == mine
    assert all(torch.equal(one, other) for one, other in zip(weights(steered), weights(trial), strict=True))


def test_it_starts_in_the_middle_of_the_ladder() -> None:
    row = make().period()
    assert (row.batch_size, row.lr) == (16, 0.05)


@pytest.mark.parametrize("task", [tiny_task(), dropout_task()], ids=["plain", "dropout"])
@pytest.mark.parametrize("cut", [0, 2])
def test_put_back_it_goes_on_the_same_as_often_as_wanted(task, cut: int) -> None:
    changes = {"trust_code": True} if task.model.name.startswith("tests.") else {}
    trial = make(task, **changes)
    train(trial, COURSE[:cut])
    state = trial.state()
    expected = train(trial, COURSE[cut:])
    ends = weights(trial)
    others = [(32, 0.1)] * 2
    for _ in range(2):
        trial.restore(state)
        assert (trial.controller.epoch, trial.finished) == (cut, False)
        train(trial, others)
        trial.restore(state)
        assert train(trial, COURSE[cut:]) == expected
        assert all(torch.equal(one, other) for one, other in zip(weights(trial), ends, strict=True))
    another = make(task, **changes)
    another.restore(state)
    assert train(another, COURSE[cut:]) == expected
    assert another.finished


def test_a_decision_of_before_the_cut_holds_after_it() -> None:
    trial = make()
    train(trial, [(8, 0.1)])
    trial.decide(32, 0.05)
    state = trial.state()
    rows = [timeless(trial.period()) for _ in range(2)]
    assert [(row["batch_size"], row["lr"]) for row in rows] == [("32", "0.05")] * 2
    trial.restore(state)
    assert [timeless(trial.period()) for _ in range(2)] == rows


def test_seconds_go_back_with_the_training() -> None:
    trial = make()
    trial.period()
    trial.controller.seconds = 100.0
    state = trial.state()
    trial.period()
    trial.restore(state)
    assert 100.0 <= trial.controller.seconds < 110.0
    assert trial.period().seconds > 100.0


def test_once_a_batch_is_handed_out_it_is_too_late() -> None:
    trial, refused = make(), []

    def late(step: int, steps: int) -> None:
        if step == 1:
            with pytest.raises(AutoBatchError, match="too late"):
                trial.decide(32, 0.05)
            refused.append(step)

    trial.decide(8, 0.1)
    first = trial.period(late)
    second = trial.period()
    assert refused == [1]
    assert (first.batch_size, first.lr) == (second.batch_size, second.lr) == (8, 0.1)
    trial.period()
    trial.period()
    with pytest.raises(AutoBatchError, match="finished"):
        trial.decide(8, 0.1)


@pytest.mark.parametrize("lr", [0.0, -0.1, float("nan")])
def test_what_cannot_be_decided_leaves_nothing_behind(lr: float) -> None:
    trial = make()
    trial.decide(8, 0.1)
    with pytest.raises(ConfigError, match="learning rate"):
        trial.decide(32, lr)
    rows = [trial.period(), trial.period()]
    assert [(row.batch_size, row.lr) for row in rows] == [(8, 0.1)] * 2


def test_decisions_say_what_was_asked_and_what_holds() -> None:
    trial = make()
    record = trial.decide(20, 0.07, "for a change")
    assert (record.requested_batch_size, record.batch_size, record.lr) == (20, 16, 0.07)
    assert record.reason == "for a change"
    assert record.limit is not None
    assert trial.decide(8, 0.1).batch_size == 8
    row = trial.period()
    assert (row.batch_size, row.lr) == (8, 0.1)


def test_a_training_with_a_policy_cannot_be_steered() -> None:
    trial = make(policy=fixed())
    with pytest.raises(ConfigError, match="has a policy"):
        trial.decide(8, 0.1)


def test_a_training_that_diverges_says_so_and_can_be_put_back() -> None:
    trial = make(tiny_task(learning_rates=[0.1, 1e6]))
    state = trial.state()
    trial.decide(8, 1e6)
    trial.period()
    assert trial.finished
    assert trial.stopped_because.startswith("diverged: ")
    trial.restore(state)
    assert (trial.finished, trial.stopped_because) == (False, FINISHED)
    assert train(trial, [(8, 0.1)]) == train(make(tiny_task(learning_rates=[0.1, 1e6])), [(8, 0.1)])


def test_a_task_chooses_a_sketch(tmp_path) -> None:
    def positions(**measuring: Any) -> list[tuple[float, float]]:
        task = tiny_task(measuring={"interval": 50, "floor": 2, "budget": 0.3, **measuring})
        out = tmp_path / f"sketch-{measuring.get('sketch_rows')}"
        run(tiny_config(task=task), out)
        return [(row.c_bar, row.l_cum) for row in load_epochs(out)]

    exact = positions()
    sketched = positions(measure="sketched", sketch_rows=512)
    assert sketched != exact
    assert np.array(sketched) == pytest.approx(np.array(exact), rel=0.1)
    with pytest.raises(ValidationError, match="expected at least 64, 2 for each example of the largest batch, got 16"):
        positions(measure="sketched", sketch_rows=16)

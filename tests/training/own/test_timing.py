"""What examples take in a loop at two batch sizes, where it sees so many that larger batches come in question."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autobatch import AutoBatchController, scout
from autobatch._errors import CheckpointError
from autobatch.control import BatchPlan, TaskFacts
from autobatch.policies._wording import figure
from autobatch.policies.steer._search import many_steps
from tests.beacons.synthetic import make_costs

EXAMPLES, EPOCHS = 12_000, 20
SIZES = (16, 32, 64, 128)


class Loop:
    """A loop whose steps take what a clock is told, and whose validation takes long."""

    def __init__(self, clock: list[float], seconds: Callable[[int], float], examples: int = EXAMPLES) -> None:
        self.clock, self.seconds, self.examples = clock, seconds, examples
        self.calls = 0
        self.sizes: list[list[int]] = []
        self.fails: int | None = None
        self.only_one = self.goes_on = False
        self.ahead = 0

    def __call__(self, controller: AutoBatchController) -> AutoBatchController:
        self.calls += 1
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        x = torch.randn(self.examples, 3)
        y = (x[:, 0] > 0).long()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
        controller.attach(model, optimizer, dataset_size=self.examples, epochs=EPOCHS)
        if self.calls == self.fails:
            raise RuntimeError("no such luck")
        self.sizes.append([])
        for _ in controller.each_epoch():
            for indices in self.fetched(controller):
                self.sizes[-1].append(len(indices))
                self.clock[0] += self.seconds(len(indices)) / 4
                for part in controller.micro_batches(torch.as_tensor(indices)):
                    self.clock[0] += self.seconds(len(indices)) * 0.75 * len(part) / len(indices)
                    with controller.step() as step:
                        step.backward(F.cross_entropy(model(x[part]), y[part]))
                optimizer.step()
                optimizer.zero_grad()
            self.clock[0] += 100.0  # which is no part of a step
            controller.end_epoch(val_loss=F.cross_entropy(model(x), y).item())
            if self.only_one:
                break
        if self.goes_on:
            controller.end_epoch(val_loss=0.0)
        return controller

    def fetched(self, controller: AutoBatchController) -> Iterator[list[int]]:
        """Yield the batches, some fetched ahead as by a loader's workers."""
        queue: list[list[int]] = []
        for batch in controller.batch_sampler:
            queue.append(batch)
            if len(queue) > self.ahead:
                yield queue.pop(0)
        yield from queue


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def constant(size: int) -> float:
    return 1e-3


def by_size(size: int) -> float:
    return 1e-4 * size


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(("seconds", "times", "size"), [(constant, 2.0, 64), (by_size, 1.0, 32)])
@pytest.mark.parametrize("plan", [None, BatchPlan(micro_batch=16), BatchPlan(decide_every=0.5)])
def test_scouts_of_many_examples_take_larger_batches_where_an_example_then_takes_less(
    tmp_path: Path,
    clock: list[float],
    named: bool,
    seconds: Callable[[int], float],
    times: float,
    size: int,
    plan: BatchPlan | None,
) -> None:
    loop = Loop(clock, seconds)
    ladder: dict[str, Any] = {"batch_sizes": SIZES, "learning_rates": (0.01, 0.1, 1.0)} if named else {}
    report = scout(loop, rates="steered", out=tmp_path, plan=plan, **ladder)
    taken = dict(report.timed.seconds)
    # A period's last batch is a little larger, which is fetched within the interval of the one before.
    assert taken == pytest.approx({32: seconds(32) / 32, 64: seconds(64) / 64}, rel=0.03)
    assert report.trained[0].scout.batch_size == size
    assert taken[32] / taken[64] == pytest.approx(times, rel=0.01)
    assert str(report).count(f"an example takes {figure(taken[32] / taken[64])} times as long") == 1
    assert ("so no larger ones are needed" in report.note) == (size == 32)
    assert loop.calls == 2 + len(report.trained), "the first says that it has to be timed, the second times it"
    timed = loop.sizes[0]
    assert sum(timed) < 6000
    assert timed.count(32) >= 4 * 14
    assert timed.count(64) >= 4 * 7
    assert report.seconds == pytest.approx(sum(one.seconds for one in report.trained) + report.timed.took)

    again = scout(loop, rates="steered", out=tmp_path, plan=plan, **ladder)
    assert again.timed == report.timed
    assert str(again) == str(report)

    loop.only_one = True
    controller = loop(AutoBatchController(policy="steer", scouts=report, rates="steered", plan=plan))
    assert loop.sizes[-1][0] == report.batch_size <= size
    assert many_steps(controller._training.task) == (size == 64)


def test_few_examples_are_not_timed_nor_those_of_a_cost_table(tmp_path: Path, clock: list[float]) -> None:
    loop = Loop(clock, constant, examples=9_000)
    report = scout(loop, batch_sizes=SIZES, learning_rates=(0.01, 0.1), out=tmp_path / "few")
    assert loop.calls == len(report.trained)
    assert report.timed.seconds == ()
    loop = Loop(clock, constant)
    costs = make_costs(SIZES)
    known: dict[str, Any] = {"out": tmp_path / "known", "task": TaskFacts(costs=costs)}
    report = scout(loop, batch_sizes=SIZES, learning_rates=(0.01, 0.1), **known)
    assert loop.calls == len(report.trained)
    assert str(scout(loop, batch_sizes=SIZES, learning_rates=(0.01, 0.1), **known)) == str(report)
    assert loop.calls == len(report.trained)
    assert "an example takes" not in str(report).replace(report.note, "")


def test_a_loop_that_fails_while_it_is_timed_is_scouted_all_the_same(
    tmp_path: Path, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    loop = Loop(clock, by_size)
    loop.fails = 2
    with caplog.at_level(logging.WARNING, "autobatch"):
        report = scout(loop, batch_sizes=SIZES, learning_rates=(0.01, 0.1, 1.0), out=tmp_path)
    assert report.timed.seconds == ()
    assert report.trained[0].scout.batch_size == 64
    assert not report.failed
    assert "the loop could not be timed: RuntimeError: no such luck" in caplog.text
    assert scout(loop, batch_sizes=SIZES, learning_rates=(0.01, 0.1, 1.0), out=tmp_path).timed == report.timed


def test_what_was_timed_is_kept_with_the_scouts(tmp_path: Path, clock: list[float]) -> None:
    arguments: dict[str, Any] = {"batch_sizes": SIZES, "learning_rates": (0.01, 0.1, 1.0), "out": tmp_path}
    first = scout(Loop(clock, by_size), **arguments)
    for path in list(tmp_path.glob("b*.json"))[1:]:
        path.unlink()
    slower = Loop(clock, constant)  # another machine's: the scouts of before are gone on with
    assert scout(slower, **arguments).timed == first.timed
    assert slower.calls == len(first.trained) - 1
    kept = json.loads((tmp_path / "timed.json").read_text())
    for damaged in (
        {**kept, "seconds": [[32, 1.0]]},
        {**kept, "seconds": [[32, -1.0], [64, 1.0]]},
        {**kept, "took": -5.0},
        {**kept, "took": None},
        {"seconds": []},
    ):
        (tmp_path / "timed.json").write_text(json.dumps(damaged))
        with pytest.raises(CheckpointError, match=r"timed\.json: damaged: .*; delete the folder to scout anew"):
            scout(Loop(clock, by_size), **arguments)
    (tmp_path / "timed.json").unlink()  # as an older version left it: nothing was timed
    assert math.isclose(scout(Loop(clock, by_size), **arguments).timed.took, 0.0)


def test_a_loop_without_scouts_is_not_timed(tmp_path: Path, clock: list[float]) -> None:
    loop = Loop(clock, by_size)
    report = scout(loop, batch_sizes=SIZES, learning_rates=(0.01, 0.1), scouts=0, out=tmp_path)
    assert (loop.calls, report.timed.took, report.batch_size) == (1, 0.0, 64)


@pytest.mark.parametrize("sizes", [(32, 64, 8192), (16, 32, 64)])
def test_few_batches_are_trained_for_that_whatever_the_ladder(
    tmp_path: Path, clock: list[float], sizes: tuple[int, ...]
) -> None:
    loop = Loop(clock, by_size)
    report = scout(loop, batch_sizes=sizes, learning_rates=(0.01, 0.1, 1.0), out=tmp_path)
    assert len(report.timed.seconds) == 2
    assert sum(loop.sizes[0]) < 6000


def test_a_loop_that_goes_on_after_its_end_or_hides_errors_is_timed(tmp_path: Path, clock: list[float]) -> None:
    loop = Loop(clock, by_size)
    loop.goes_on = True
    arguments: dict[str, Any] = {"batch_sizes": SIZES, "learning_rates": (0.01, 0.1, 1.0)}
    with pytest.warns(UserWarning, match="after the scout's end"):
        report = scout(loop, **arguments, out=tmp_path / "on")
    assert len(report.timed.seconds) == 2

    hidden = Loop(clock, by_size)

    def hiding(controller: AutoBatchController) -> None:
        try:
            hidden(controller)
        except Exception:
            return

    report = scout(hiding, **arguments, out=tmp_path / "hidden")
    assert len(report.timed.seconds) == 2
    assert [one.scout.batch_size for one in report.trained][:2] == [32, 32]


def test_what_is_fetched_ahead_tells_no_time(tmp_path: Path, clock: list[float]) -> None:
    loop = Loop(clock, by_size)
    loop.ahead = 4
    report = scout(loop, batch_sizes=SIZES, learning_rates=(0.01, 0.1, 1.0), out=tmp_path)
    assert report.timed.seconds == ()
    assert report.timed.took > 0.0
    assert "could not be found out" in str(report)
    assert report.trained[0].scout.batch_size == 64

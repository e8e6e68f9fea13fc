"""The controller as a user embeds it."""

import copy
import io
import json
import math
import pickle
from dataclasses import fields, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autobatch._errors import AutoBatchError, CheckpointError, ConfigError
from autobatch.control import (
    AutoBatchController,
    BatchPlan,
    DecisionRecord,
    MeasureAtInterval,
    Measuring,
    NeverMeasure,
    Processes,
    Rates,
    TaskFacts,
)
from autobatch.control._controller import ARGUMENTS
from autobatch.control.measuring._samples import Samples
from autobatch.control.measuring._timing import EpochTimer
from autobatch.control.settings import MOVED
from autobatch.fisher import FisherProbe
from autobatch.policies import Candidate, Decision, Observation, TaskInfo
from tests.control.loops import inside_steps

SIZE = 26


class Scripted:
    """A policy that follows a list and remembers what it saw."""

    needs_library = False

    def __init__(self, *decisions: Decision) -> None:
        self.decisions = decisions
        self.seen: list[Observation] = []
        self.task: TaskInfo | None = None

    def reset(self, task: TaskInfo, library: object) -> None:
        self.task = task

    def decide(self, observation: Observation) -> Decision:
        self.seen.append(observation)
        return self.decisions[min(observation.epoch, len(self.decisions) - 1)]

    def state_dict(self) -> dict[str, Any]:
        return {"asked": len(self.seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = [None] * state["asked"]  # type: ignore[list-item]


def decision(batch_size: int, lr: float, **more: Any) -> Decision:
    return Decision(batch_size, lr, reason=f"{batch_size} at {lr}", **more)


class Bench:
    """A tiny training with a controller."""

    def __init__(self, policy: Any, **arguments: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(SIZE, 3, generator=generator)
        self.y = torch.randint(2, (SIZE,), generator=generator)
        self.model = nn.Linear(3, 2)
        with torch.no_grad():
            self.model.weight.copy_(torch.arange(6.0).reshape(2, 3) / 10)
            self.model.bias.zero_()
        groups = [{"params": [self.model.weight]}, {"params": [self.model.bias], "lr": 0.02}]
        self.optimizer = torch.optim.SGD(groups, lr=0.01)
        self.batches: list[torch.Tensor] = []
        settings = {"dataset_size": SIZE, "epochs": 4, "batch_sizes": (4, 8, 16), **arguments}
        self.controller = AutoBatchController(self.model, self.optimizer, policy=policy, **settings)

    def rates(self) -> list[float]:
        """The rates of a step taken now; the groups themselves keep theirs."""
        seen: list[float] = []
        inside_steps(self.optimizer, lambda: seen.extend(group["lr"] for group in self.optimizer.param_groups))
        self.optimizer.zero_grad()
        self.optimizer.step()
        inside_steps(self.optimizer, lambda: None)
        assert [group["lr"] for group in self.optimizer.param_groups] == [0.01, 0.02]
        return seen

    def epoch(self, **figures: Any) -> DecisionRecord | None:
        for indices in self.controller.batches():
            self.batches.append(indices)
            with self.controller.step():
                F.cross_entropy(self.model(self.x[indices]), self.y[indices]).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return self.controller.end_epoch(**figures)


def test_the_docstrings_loop_trains_by_name_of_a_policy() -> None:
    bench = Bench("s4-to-16", epochs=5, measuring=NeverMeasure())
    sizes = []
    while not bench.controller.finished:
        sizes.append(bench.controller.batch_size)
        bench.epoch(val_loss=0.5, val_error=0.5)
    assert sizes == [4, 4, 8, 8, 16]
    seen = torch.cat(bench.batches).reshape(5, SIZE)
    assert torch.equal(seen.sort(dim=1).values, torch.arange(SIZE).expand(5, SIZE))


def test_the_policy_sees_where_the_run_stands() -> None:
    policy = Scripted(decision(8, 0.1), decision(4, 0.2))
    bench = Bench(policy, measuring=NeverMeasure())
    first = policy.seen[0]
    assert (first.epoch, first.progress, first.batch_size, first.steps) == (0, 0.0, 0, 0)
    assert all(math.isnan(v) for v in (first.lr, first.c_bar, first.train_loss, first.validation_loss))
    bench.epoch(train_loss=3.0, val_loss=2.0, val_error=0.25)
    second = policy.seen[1]
    assert (second.epoch, second.progress, second.batch_size, second.lr, second.steps) == (1, 0.25, 8, 0.1, 3)
    assert (second.train_loss, second.validation_loss, second.validation_error) == (3.0, 2.0, 0.25)
    for _ in range(3):
        last = bench.epoch()
    assert last is None
    assert bench.controller.finished
    assert len(policy.seen) == 4
    assert policy.task is not None
    assert policy.task.learning_rates == (0.01,)


def test_rates_come_from_references_and_never_drift() -> None:
    policy = Scripted(decision(8, 0.1), decision(8, 0.3), decision(8, 0.1))
    bench = Bench(
        policy, measuring=NeverMeasure(), rates=Rates(schedule=lambda progress: 0.1 if progress >= 0.75 else 1.0)
    )
    rates = [bench.rates()]
    for _ in range(3):
        bench.epoch()
        rates.append(bench.rates())
    assert rates == [[0.1, 0.2], [0.3, 0.6], [0.1, 0.2], [0.1 * 0.1, 0.1 * 0.1 * 2]]
    assert bench.controller.lr == 0.1
    assert bench.controller.lr_effective == 0.1 * 0.1


def test_a_request_off_the_ladder_is_recorded_beside_what_is_applied() -> None:
    bench = Bench(Scripted(decision(11, 0.1), decision(1000, 0.1), decision(16, 0.1)), measuring=NeverMeasure())
    record = bench.controller.decision
    assert (record.requested_batch_size, record.batch_size, record.changed) == (11, 8, True)
    assert record.limit == "11 is not on the ladder; 8 is the nearest rung"
    after = bench.epoch()
    assert after is not None
    assert (after.requested_batch_size, after.batch_size, after.epoch) == (1000, 16, 1)
    same = bench.epoch()
    assert same is not None
    assert (same.limit, same.changed) == (None, False)


def test_measured_steps_enter_the_position_with_the_steps_they_stand_for() -> None:
    bench = Bench(Scripted(decision(8, 0.1)), measuring=MeasureAtInterval(50, floor=2))
    before = {name: value.clone() for name, value in bench.model.state_dict().items()}
    bench.epoch()
    controller = bench.controller
    assert [(m.epoch, m.step, m.batch_size, m.lr) for m in controller.measurements] == [(1, 1, 8, 0.1), (1, 2, 8, 0.1)]
    assert (controller.steps, controller.samples) == (3, 2)
    bench.model.load_state_dict(before)
    with FisherProbe(bench.model) as probe:
        F.cross_entropy(bench.model(bench.x[bench.batches[0]]), bench.y[bench.batches[0]]).backward()
    bench.optimizer.zero_grad()
    assert controller.measurements[0].trace == probe.spectrum().trace
    first, second = controller.measurements
    # Two samples in three steps: the first stands for one of them, the second for two.
    assert controller.c_bar == pytest.approx((first.condition_number + 2 * second.condition_number) / 3)
    energies = [0.1 / 8 * math.sqrt(m.trace) for m in (first, second)]
    assert controller.l_cum == pytest.approx(energies[0] + 2 * energies[1])


def test_an_epoch_that_could_not_be_measured_is_carried() -> None:
    bench = Bench(Scripted(decision(8, 0.1)), measuring=MeasureAtInterval(50, floor=1))
    bench.epoch()
    c_bar, l_cum = bench.controller.c_bar, bench.controller.l_cum
    with torch.no_grad():
        bench.model.weight.fill_(math.nan)
    bench.epoch()
    (measurement,) = bench.controller.measurements
    assert not measurement.usable
    assert bench.controller.c_bar == c_bar
    assert bench.controller.l_cum == pytest.approx(2 * l_cum)
    assert bench.controller.samples == 1


def test_measuring_does_not_change_training() -> None:
    weights = []
    for plan in (NeverMeasure(), MeasureAtInterval(1)):
        bench = Bench(Scripted(decision(4, 0.3), decision(16, 0.1)), measuring=plan)
        for _ in range(3):
            bench.epoch()
        weights.append(torch.cat([p.detach().flatten() for p in bench.model.parameters()]))
    assert torch.equal(*weights)


class Eigenvalues:
    """Counts decompositions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.computed = 0
        original = torch.linalg.eigvalsh

        def counting(matrix: torch.Tensor) -> torch.Tensor:
            self.computed += 1
            return original(matrix)

        monkeypatch.setattr(torch.linalg, "eigvalsh", counting)


def measured_epochs(bench: Bench, eigenvalues: Eigenvalues) -> tuple[list[Any], list[int]]:
    """Return an epoch's measurements without what a clock says, and the decompositions after each step."""
    computed = []
    for indices in bench.controller.batches():
        with bench.controller.step() as step:
            step.backward(F.cross_entropy(bench.model(bench.x[indices]), bench.y[indices]))
        computed.append(eigenvalues.computed)
        bench.optimizer.step()
        bench.optimizer.zero_grad()
    bench.controller.end_epoch()
    return [replace(measurement, seconds=0.0) for measurement in bench.controller.measurements], computed


def test_eigenvalues_wait_for_the_end_of_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    expected = {64 * 1024**2: [0] * 7, 2 * 8 * 4**2: [0, 0, 3, 3, 3, 6, 6], 0: [1, 2, 3, 4, 5, 6, 6]}
    for held_bytes, computed in expected.items():
        with monkeypatch.context() as patch:
            patch.setattr("autobatch.control.measuring._period.Samples", partial(Samples, held_bytes))
            bench = Bench(Scripted(decision(4, 0.1)), measuring=MeasureAtInterval(1))
            measurements, seen = measured_epochs(bench, Eigenvalues(patch))
        assert seen == computed
        assert len(measurements) == 6
        results.append((measurements, bench.controller.c_bar, bench.controller.l_cum))
    assert results[0] == results[1] == results[2]


def test_a_step_that_cannot_be_measured_ends_the_measuring_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(Scripted(decision(8, 0.1)), measuring=MeasureAtInterval(1))
    for indices in bench.controller.batches():
        with bench.controller.step() as step:
            twice = bench.model(bench.x[indices]) + bench.model(bench.x[indices])
            step.backward(F.cross_entropy(twice, bench.y[indices]))
    bench.controller.end_epoch()
    assert bench.controller.samples == 0
    (message,) = [record.getMessage() for record in caplog.records if "cannot be measured" in record.getMessage()]
    assert message.startswith("step 1 cannot be measured: the model was called twice")
    assert "measuring=NeverMeasure()" in message


def test_gradients_that_are_changed_on_the_way_end_the_measuring(caplog: pytest.LogCaptureFixture) -> None:
    """Found when the samples are decomposed, at the end of the epoch."""
    bench = Bench(Scripted(decision(8, 0.1)), measuring=MeasureAtInterval(1))
    bench.model.weight.register_hook(lambda gradient: 2 * gradient)
    for indices in bench.controller.batches():
        with bench.controller.step() as step:
            step.backward(F.cross_entropy(bench.model(bench.x[indices]), bench.y[indices]))
    bench.controller.end_epoch()
    assert caplog.text.count("cannot be measured: parameter 'weight'") == 1


@pytest.mark.parametrize(("refused", "measured"), [((2,), 5), ((1, 2, 4), 3), ((1, 2, 3), 0)])
def test_a_coincidence_in_one_step_does_not_end_the_measuring(
    refused: tuple[int, ...], measured: int, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(Scripted(decision(4, 0.1)), measuring=MeasureAtInterval(1))
    for number, indices in enumerate(bench.controller.batches(), 1):
        with bench.controller.step() as step:
            output = bench.model(bench.x[indices])
            output = output + bench.model(bench.x[indices]) if number in refused else output
            step.backward(F.cross_entropy(output, bench.y[indices]))
        bench.optimizer.step()
    bench.controller.end_epoch()
    assert bench.controller.samples == measured
    assert caplog.text.count("cannot be measured: the model was called twice") == 1
    assert caplog.text.count("nothing is measured from step 3 on: 3 in a row") == (measured == 0)


def test_examples_of_several_rows() -> None:
    bench = Bench(Scripted(decision(8, 0.1)), measuring=MeasureAtInterval(1))
    for indices in bench.controller.batches():
        views = torch.cat([bench.x[indices], bench.x[indices] + 1])
        with bench.controller.step(samples=torch.arange(len(indices)).repeat(2)) as step:
            step.backward(F.cross_entropy(bench.model(views), bench.y[indices].repeat(2)))
        bench.optimizer.step()
    bench.controller.end_epoch()
    assert bench.controller.samples > 0


def test_examples_of_several_rows_that_nothing_was_said_of() -> None:
    bench = Bench(Scripted(decision(8, 0.1)), measuring=MeasureAtInterval(1))

    def train() -> None:
        for indices in bench.controller.batches():
            with bench.controller.step() as step:
                step.backward(bench.model(bench.x[indices].repeat(2, 1)).square().mean())
        bench.controller.end_epoch()

    with pytest.raises(AutoBatchError, match=r"step\(samples=\.\.\.\), or measure nothing with measuring=NeverMeasure"):
        train()


def test_a_steps_backward_pass_is_that_of_the_loss() -> None:
    gradients = []
    for plan, reuse in ((NeverMeasure(), False), (MeasureAtInterval(1), False), (MeasureAtInterval(1), True)):
        bench = Bench(
            Scripted(decision(8, 0.1)),
            measuring=Measuring(steps=plan, reuse_weight_gradient=reuse),
        )
        indices = next(bench.controller.batches())
        with bench.controller.step() as step:
            step.backward(F.cross_entropy(bench.model(bench.x[indices]), bench.y[indices]))
        gradients.append(bench.model.weight.grad)
    assert torch.equal(gradients[0], gradients[1])
    torch.testing.assert_close(gradients[0], gradients[2])


def test_a_grad_scaler_is_undone() -> None:
    traces = []
    for scale in (None, 1024.0):
        scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
        bench = Bench(
            Scripted(decision(8, 0.1)),
            measuring=Measuring(steps=MeasureAtInterval(50), grad_scaler=scaler),
        )
        for indices in bench.controller.batches():
            with bench.controller.step() as step:
                loss = F.cross_entropy(bench.model(bench.x[indices]), bench.y[indices])
                step.backward(loss if scaler is None else scaler.scale(loss))
            bench.optimizer.zero_grad()
        bench.controller.end_epoch()
        traces.append(bench.controller.measurements[0].trace)
    assert traces[0] == pytest.approx(traces[1])


def test_by_default_the_loop_is_timed_and_measured_within_two_percent() -> None:
    clock = iter(range(10**6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "autobatch.control.measuring._timing.time", SimpleNamespace(perf_counter=lambda: float(next(clock)))
        )
        first = Bench(Scripted(decision(4, 0.1)), epochs=8)
        first.epoch()
        state = json.loads(json.dumps(first.controller.state_dict()))
        second = Bench(Scripted(decision(4, 0.1)), epochs=8)
        second.controller.load_state_dict(state)
        second.epoch()
    assert first.controller.task.measuring_budget == 0.02
    assert first.controller.samples == 2
    assert second.controller.samples == 2  # no more: the two are dear, and a resumed loop is not timed again
    kept = second.controller.state_dict()["measuring"]["costs"]
    assert kept == state["measuring"]["costs"]
    assert list(kept["step_seconds"]) == ["4"]
    share = first.controller.measuring_share_modelled
    assert share is not None
    assert share > 0.02


def test_a_timer_tells_steps_from_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("autobatch.control.measuring._timing.time", SimpleNamespace(perf_counter=lambda: now))
    timer = EpochTimer(torch.device("cpu"), 10, (3, 7))
    for step in range(11):
        timer.mark(step)
        now += {0: 50.0, 3: 11.0, 7: 7.0}.get(step, 2.0)  # the first step and the first sample warm up
    assert timer.seconds(1.0) == pytest.approx((2.0, 5.0))
    alone = EpochTimer(torch.device("cpu"), 1, (0,))
    alone.mark(0)
    now += 8.0
    alone.mark(1)
    assert alone.seconds(6.0) == (2.0, 6.0)


def test_a_training_can_be_stopped() -> None:
    bench = Bench(Scripted(decision(8, 0.1)), measuring=NeverMeasure())
    assert bench.epoch(stop=True) is None
    assert bench.controller.finished
    with pytest.raises(AutoBatchError, match="finished after 1 of 4 epochs"):
        bench.controller.batches()


def test_a_decision_that_stops_ends_each_epoch() -> None:
    script = (decision(8, 0.1), decision(4, 0.1), decision(4, 0.1, stop=True))
    bench = Bench(Scripted(*script), measuring=NeverMeasure())
    epochs = []
    for epoch in bench.controller.each_epoch():
        epochs.append(epoch)
        bench.epoch()
    assert epochs == [0, 1]
    assert bench.controller.stopped_because == "4 at 0.1"
    assert list(bench.controller.each_epoch()) == []
    for call in (bench.controller.batches, bench.controller.step, bench.controller.end_epoch):
        with pytest.raises(AutoBatchError, match=r"finished after 2 of 4 epochs \(4 at 0.1\).*each_epoch\(\)"):
            call()
    assert len(bench.batches) == 3 + 7


def test_each_epoch_goes_on_where_a_training_stands_and_wants_epochs_ended() -> None:
    bench, other = (Bench(Scripted(decision(8, 0.1)), measuring=NeverMeasure()) for _ in range(2))
    epochs = bench.controller.each_epoch()
    assert next(epochs) == 0
    with pytest.raises(AutoBatchError, match=r"epoch 1 was not ended: call end_epoch\(\)"):
        next(epochs)
    bench.epoch()
    other.controller.load_state_dict(bench.controller.state_dict())
    assert [epoch for epoch in other.controller.each_epoch() if other.epoch() or True] == [1, 2, 3]
    with pytest.raises(AutoBatchError, match="has no model yet"):
        next(AutoBatchController(policy="s4-to-16", batch_sizes=(4, 8, 16)).each_epoch())


def test_a_factor_is_applied_only_where_the_schedule_is_the_policys() -> None:
    script = (decision(8, 0.1, factor=0.5),)
    rates = {}
    for steered in (False, True):
        bench = Bench(Scripted(*script), measuring=NeverMeasure(), rates=Rates(steered=steered))
        rates[steered] = bench.rates()[0]
        assert ("the schedule is the loop's" in str(bench.controller.decision.limit)) is not steered
    assert rates == {False: pytest.approx(0.1), True: pytest.approx(0.05)}


def test_advice_to_stop_stops_nothing() -> None:
    bench = Bench(Scripted(decision(8, 0.1, stop=True)), measuring=NeverMeasure(), advise=4)
    epochs = []
    for epoch in bench.controller.each_epoch():
        epochs.append(epoch)
        bench.epoch()
    assert epochs == [0, 1, 2, 3]
    assert "advice: stop" in str(bench.controller.decision.limit)


def test_a_restart_continues_as_if_nothing_had_happened() -> None:
    target = (2.0, 3.0)
    candidate = Candidate(8, 0.1, 1.0, 2.0, 0.5, math.nan, 3.0, known=False)
    script = (decision(4, 0.3), decision(16, 0.1, target=target, alternatives=(candidate,)), decision(8, 0.2))
    whole = Bench(Scripted(*script), measuring=MeasureAtInterval(2))
    first = Bench(Scripted(*script), measuring=MeasureAtInterval(2))
    for bench in (whole, first):
        bench.epoch(val_loss=0.7)
    state = json.loads(json.dumps(first.controller.state_dict()))
    policy = Scripted(*script)
    second = Bench(policy, measuring=MeasureAtInterval(2))
    second.controller.load_state_dict(state)
    second.model.load_state_dict(first.model.state_dict())
    assert repr(second.controller.decision) == repr(whole.controller.decision)
    assert len(policy.seen) == 2
    for _ in range(3):
        whole.epoch(val_loss=0.6)
        second.epoch(val_loss=0.6)
    assert torch.equal(torch.cat(whole.batches), torch.cat([*first.batches, *second.batches]))
    assert torch.equal(whole.model.weight, second.model.weight)
    for name in ("c_bar", "l_cum", "steps", "samples", "lr_effective", "examples"):
        assert getattr(whole.controller, name) == getattr(second.controller, name)


def test_a_state_of_another_training_is_refused() -> None:
    state = Bench(Scripted(decision(8, 0.1)), epochs=3).controller.state_dict()
    with pytest.raises(CheckpointError, match="'epochs' was 3 and is 4"):
        Bench(Scripted(decision(8, 0.1))).controller.load_state_dict(state)


@pytest.mark.parametrize(
    "key", ["identity", "decisions", "position", "measuring", "figures", "steps", "course", "period", "micro_batches"]
)
def test_a_damaged_state_is_refused(key: str) -> None:
    bench = Bench(Scripted(decision(8, 0.1)))
    state = bench.controller.state_dict()
    with pytest.raises(CheckpointError):
        bench.controller.load_state_dict({**state, key: "nonsense"})
    del state[key]
    with pytest.raises(CheckpointError, match="damaged"):
        bench.controller.load_state_dict(state)


def test_another_version_is_refused() -> None:
    bench = Bench(Scripted(decision(8, 0.1)))
    with pytest.raises(CheckpointError, match="version"):
        bench.controller.load_state_dict({**bench.controller.state_dict(), "version": 99})


def test_calls_out_of_order_are_clear_errors() -> None:
    bench = Bench(Scripted(decision(8, 0.1)), measuring=NeverMeasure())
    controller = bench.controller
    with pytest.raises(AutoBatchError, match="without an epoch"):
        controller.end_epoch()
    with pytest.raises(AutoBatchError, match="outside of a loop"):
        controller.step()
    batches = controller.batches()
    next(batches)
    with pytest.raises(AutoBatchError, match="was not trained"):
        next(batches)
    with pytest.raises(AutoBatchError, match="middle of an epoch: 0 of 26"):
        controller.end_epoch()
    for _ in controller.batches():  # goes on where the other iteration was left
        with controller.step():
            with pytest.raises(AutoBatchError, match="inside of a step"):
                controller.state_dict()
            with pytest.raises(AutoBatchError, match="middle of a step"):
                controller.end_epoch()
            with pytest.raises(AutoBatchError, match="inside of another step"), controller.step():
                pass
        bench.optimizer.step()
    assert controller.steps == 3
    with pytest.raises(AutoBatchError, match=r"call end_epoch\(\)"):
        next(controller.batches())
    controller.end_epoch()
    with pytest.raises(AutoBatchError, match="without an epoch"):
        controller.end_epoch()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_sizes": (4, 32)}, "reaches 32, but the training set has only 26"),
        ({"batch_sizes": ()}, "ascending positive"),
        ({"batch_sizes": (8, 4)}, "ascending positive"),
        ({"batch_sizes": (0, 4)}, "whole number of at least 1, got 0"),
        ({"epochs": 0}, "at least 1"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Bench(Scripted(decision(8, 0.1)), **arguments)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (Rates, {"learning_rates": (0.1, math.nan)}, "positive finite number, got nan"),
        (Rates, {"learning_rates": (-0.1,)}, "positive finite number, got -0.1"),
        (Rates, {"learning_rates": (0.0,)}, "positive finite number, got 0.0"),
        (Rates, {"milestone_factor": 0.0}, "milestone_factor: expected a number in"),
        (Rates, {"rule": "liner"}, "did you mean 'linear'"),
        (Measuring, {"steps": 50}, "steps: expected a plan"),
        (Measuring, {"loss_reduction": "men"}, "did you mean 'mean'"),
        (Measuring, {"bn": "row"}, "did you mean 'rows'"),
        (Processes, {"measured": "globl"}, "did you mean 'global'"),
        (TaskFacts, {"score": "validation_los"}, "did you mean 'validation_loss'"),
        (TaskFacts, {"guessing": -1.0}, "guessing: expected a finite loss of at least 0, got -1.0"),
        (TaskFacts, {"guessing": "2.3"}, "guessing: expected a number, got '2.3'"),
        (TaskFacts, {"shares_loss": float("nan")}, "shares_loss: expected a finite loss of at least 0, got nan"),
        (BatchPlan, {"decide_every": 1.5}, "share of an epoch"),
        (BatchPlan, {"decide_every": True}, "share of an epoch"),
    ],
)
def test_impossible_settings_are_refused(kind: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**values)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ({"lr_rule": "linear"}, r"'lr_rule' is now rates=Rates\(rule=\.\.\.\)"),
        ({"decide_every": 0.5}, r"'decide_every' is now plan=BatchPlan\(decide_every=\.\.\.\)"),
        ({"mode": "advise"}, r"'mode' is now advise=\.\.\."),
        ({"batch_size": 8}, r"'batch_size' is now advise=\.\.\."),
        ({"polcy": "s8"}, "no argument is called 'polcy'; did you mean 'policy'"),
    ],
)
def test_an_argument_of_before_says_where_it_is_now(argument: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Bench(Scripted(decision(8, 0.1)), **argument)


def test_every_argument_of_before_is_somewhere() -> None:
    kinds = {"rates": Rates, "measuring": Measuring, "plan": BatchPlan, "processes": Processes, "task": TaskFacts}
    for argument, attribute in MOVED.values():
        assert argument in ARGUMENTS
        assert not attribute or attribute in {field.name for field in fields(kinds[argument])}
    assert not MOVED.keys() & ARGUMENTS


@pytest.mark.parametrize("bad", [decision(8, math.nan), decision(8, -1.0), decision(8, 0.0), decision(0, 0.1)])
def test_impossible_requests_of_a_policy_are_refused(bad: Decision) -> None:
    with pytest.raises(ConfigError, match="asked for"):
        Bench(Scripted(bad))


def test_a_step_whose_gradients_overflow_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """As under a GradScaler: the per-sample gradients are finite, what the parameters get is not."""
    bench = Bench(Scripted(decision(8, 0.0001)), measuring=MeasureAtInterval(1))
    hook = bench.model.weight.register_hook(lambda gradient: gradient * math.inf)
    indices = next(bench.controller.batches())
    with bench.controller.step() as step:
        step.backward(F.cross_entropy(bench.model(bench.x[indices]), bench.y[indices]))
    bench.optimizer.zero_grad()  # the scaler skips the step
    hook.remove()
    bench.epoch()
    assert [sample.usable for sample in bench.controller.measurements] == [False, True]
    assert "no finite gradients in step 1:" in caplog.text
    assert bench.controller.samples == 1


def test_a_policy_can_be_asked_again_before_a_period() -> None:
    policy = Scripted(decision(8, 0.1), decision(8, 0.1), decision(16, 0.3))
    controller = (bench := Bench(policy, measuring=NeverMeasure())).controller
    policy.decisions = (decision(4, 0.2), decision(8, 0.1), decision(16, 0.3))
    first = controller.redecide()
    assert (first.batch_size, first.lr, first.epoch, first.example, first.changed) == (4, 0.2, 0, 0, True)
    assert bench.rates() == [0.2, 0.4]
    bench.epoch(val_loss=0.5)
    assert {len(own) for own in bench.batches} == {4, SIZE % 4}
    asked = len(policy.seen)
    assert controller.redecide() == controller.redecide() == controller.decision
    assert len(policy.seen) == asked + 2
    assert (policy.seen[-1].epoch, policy.seen[-1].validation_loss) == (1, 0.5)
    bench.epoch()
    assert [own.requested_lr for own in (controller.decision, first)] == [0.3, 0.2]


def test_asked_again_a_change_is_one_against_the_period_before() -> None:
    policy = Scripted(decision(8, 0.1), decision(16, 0.1))
    bench = Bench(policy, measuring=NeverMeasure())
    after = bench.epoch()
    assert after is not None
    assert after.changed
    assert bench.controller.redecide().changed
    state = json.loads(json.dumps(bench.controller.state_dict()))
    policy.decisions = (decision(8, 0.1), decision(8, 0.1))
    assert not bench.controller.redecide().changed
    assert not bench.controller.redecide().changed
    bench.batches.clear()
    bench.epoch()
    assert [len(own) for own in bench.batches] == [8, 8, 10]
    other = Bench(Scripted(decision(8, 0.1), decision(16, 0.1)), measuring=NeverMeasure())
    other.controller.load_state_dict(state)
    assert other.controller.redecide().changed
    assert other.controller.batch_size == 16


def test_asked_again_too_late_is_refused() -> None:
    policy = Scripted(decision(8, 0.1))
    bench = Bench(policy, measuring=NeverMeasure(), epochs=1)
    controller = bench.controller
    batches = controller.batches()
    next(batches)
    with pytest.raises(AutoBatchError, match="too late"):
        controller.redecide()
    batches.close()
    whole = Bench(policy, measuring=NeverMeasure(), epochs=1)
    whole.epoch()
    with pytest.raises(AutoBatchError, match="finished"):
        whole.controller.redecide()
    assert len(policy.seen) == 2


def test_zero_gradients_are_told_as_what_they_are(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(Scripted(decision(8, 0.1)), measuring=MeasureAtInterval(1))
    for indices in bench.controller.batches():
        with bench.controller.step() as step:
            step.backward(0.0 * F.cross_entropy(bench.model(bench.x[indices]), bench.y[indices]))
        bench.optimizer.step()
    bench.controller.end_epoch()
    assert "every gradient is zero in step 1, 2" in caplog.text
    assert "finite" not in caplog.text
    assert math.isnan(bench.controller.c_bar)


def test_what_users_keep_can_be_pickled_or_says_why_not() -> None:
    bench = Bench(Scripted(decision(8, 0.1)), measuring=MeasureAtInterval(1))
    bench.epoch()
    controller = bench.controller
    kept = (controller.decision, controller.observation, controller.task, controller.measurements, controller.plan)
    assert repr(pickle.loads(pickle.dumps(kept))) == repr(kept)
    pickle.loads(pickle.dumps((controller.state_dict(), bench.optimizer.state_dict(), bench.model, bench.optimizer)))
    for keep in (pickle.dumps, copy.deepcopy, copy.copy, lambda one: torch.save(one, io.BytesIO())):
        with pytest.raises(pickle.PicklingError, match=r"keep controller.state_dict\(\)"):
            keep(controller)
        with pytest.raises(pickle.PicklingError, match="make the loader anew"):
            keep(controller.batch_sampler)
    unattached = AutoBatchController(policy="s8", batch_sizes=(4, 8), dataset_size=26, epochs=1)
    again = pickle.loads(pickle.dumps(unattached)).attach(bench.model, bench.optimizer)
    assert again.batch_size == 8

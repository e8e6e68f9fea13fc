"""Scouts of a loop of one's own: which goes on, what they cost, and what becomes of loops that do as they like."""

import json
import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from autobatch import AutoBatchController, ScoutReport, scout
from autobatch._errors import AutoBatchError, CheckpointError, ConfigError, OutputError
from autobatch.control import BatchPlan, NeverMeasure
from autobatch.policies import SteerParameters, SteerPolicy
from autobatch.report import load_run_facts, read_run
from autobatch.report._story import story
from autobatch.report._summary import run_facts
from tests.training.own.own_loops import EXAMPLES, data, train, validate

EPOCHS = 12
GRID: dict[str, Any] = {"batch_sizes": (12, 16), "learning_rates": (0.01, 0.1, 0.5, 2.0), "rates": "steered"}


def resumable(
    controller: AutoBatchController, state: Any = None, backward: str = "step", off: float = 10.0
) -> dict[str, Any]:
    """Train; go on from a state where there is one."""
    torch.manual_seed(controller.seed)
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))
    nn.init.constant_(model[2].bias[:1], off)  # far off at first, so that scouts are past that by their end
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = data()
    controller.attach(model, optimizer, dataset_size=len(x), epochs=EPOCHS)
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        controller.load_state_dict(state["controller"])
    loader = DataLoader(TensorDataset(x, y), batch_sampler=controller.batch_sampler)
    epochs = []
    for epoch in controller.each_epoch():
        epochs.append(epoch)
        for inputs, targets in loader:
            with controller.step() as step:
                loss = F.cross_entropy(model(inputs), targets)
                step.backward(loss) if backward == "step" else loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        controller.end_epoch(**validate(model, ("val_loss",)))
    states = {"model": model, "optimizer": optimizer, "controller": controller}
    return {"epochs": epochs, "model": model, "state": {name: each.state_dict() for name, each in states.items()}}


def counting(loop: Callable[..., Any], seen: list[AutoBatchController]) -> Callable[[AutoBatchController], Any]:
    def counted(controller: AutoBatchController) -> Any:
        seen.append(controller)
        return loop(controller)

    return counted


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> ScoutReport:
    return scout(resumable, out=tmp_path_factory.mktemp("scouts") / "mine", **GRID)


def test_the_best_scout_is_chosen_and_told(report: ScoutReport) -> None:
    assert [(one.scout.batch_size, one.scout.lr) for one in report.trained] == [(16, 0.1), (16, 0.5), (16, 2.0)]
    assert (report.batch_size, report.lr) == (16, 0.5)
    assert report.winner is report.trained[1]
    judged = [one.scout.scores[0] for one in report.trained]  # as four steps are too few for a training loss
    assert judged[1] == min(judged)
    assert report.margin == pytest.approx(1 - judged[1] / sorted(judged)[1])
    assert "the best of 3 scouts after 1 epoch by validation, " in report.choice.reason
    assert [(one.steps, one.examples) for one in report.trained] == [(4, EXAMPLES)] * 3
    assert 0 < report.charged_seconds < report.seconds == sum(one.seconds for one in report.trained)
    assert report.epoch_seconds.keys() == {16}
    assert all(0 < one.training_seconds < one.seconds for one in report.trained)
    said = str(report)
    for part in ("start with s16 at lr 0.5", "* s16 at lr 0.5", "  s16 at lr 2", "how sure", "12 epochs"):
        assert part in said


def test_the_losses_that_backward_gets_are_the_training_loss(report: ScoutReport, tmp_path: Path) -> None:
    losses: list[float] = []

    def own(controller: AutoBatchController) -> None:
        controller.attach(model := nn.Linear(6, 2), torch.optim.SGD(model.parameters(), 0.1), dataset_size=48, epochs=9)
        for _ in controller.each_epoch():
            losses.clear()
            for indices in controller.batches():
                with controller.step() as step:
                    loss = F.cross_entropy(model(data()[0][indices]), data()[1][indices])
                    step.backward(loss)
                losses.append(loss.item() * len(indices))
            controller.end_epoch()

    found = scout(own, out=tmp_path, **GRID)
    assert found.trained[-1].scout.train_losses == (pytest.approx(sum(losses) / 48),)
    assert math.isnan(found.trained[-1].scout.scores[-1])
    assert found.winner is not None


def test_a_loop_that_calls_backward_itself_is_judged_by_validation(report: ScoutReport, tmp_path: Path) -> None:
    found = scout(partial(resumable, backward="own"), out=tmp_path, **GRID)
    assert all(math.isnan(one.scout.train_losses[-1]) for one in found.trained)
    assert found.winner is min(found.trained, key=lambda one: one.scout.scores[-1])
    found = scout(partial(train, epochs=EPOCHS, figures=("val_error",)), out=tmp_path / "error", **GRID)
    assert all(0 <= one.scout.scores[-1] <= 1 for one in found.trained)
    assert found.winner is not None
    assert " and validation error " in found.reason
    assert " training loss  validation error  " in str(found)
    assert " training loss  validation  " in str(report)


def test_the_controller_starts_from_the_winner_and_ends_as_planned(
    report: ScoutReport, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "autobatch")
    controller = AutoBatchController(policy="beacon-follow", scouts=report, rates="steered")
    trained = resumable(controller)
    assert trained["epochs"] == list(range(8))  # 70 % of 12 epochs
    assert controller.stopped_because is not None
    first = next(one for one in caplog.records if one.msg.startswith("epoch %d ("))
    assert first.args[2:4] == (16, 0.5)  # type: ignore[index]
    assert "the best of 3 scouts" in first.getMessage()
    kept = AutoBatchController(policy="steer", scouts=report)  # the loop's own schedule keeps its say
    assert resumable(kept)["epochs"] == list(range(EPOCHS))
    assert (kept.batch_size, kept.lr) == (16, 0.5)


def test_the_winner_goes_on_bit_identically(report: ScoutReport) -> None:
    runs = {}
    for name, state in (("whole", None), ("on", report.state)):
        controller = AutoBatchController(policy="beacon-follow", scouts=report, rates="steered")
        runs[name] = resumable(controller, state)
    assert runs["whole"]["epochs"] == list(range(8))
    assert runs["on"]["epochs"] == list(range(1, 8))
    for one, other in zip(runs["whole"]["model"].parameters(), runs["on"]["model"].parameters(), strict=True):
        assert torch.equal(one, other)
    whole, on = (runs[name]["state"]["controller"] for name in runs)
    assert whole["decisions"]["policy"] == on["decisions"]["policy"]
    assert whole["stopped"] == on["stopped"]


def test_a_scouting_that_is_cut_goes_on_with_those_that_miss(tmp_path: Path) -> None:
    seen: list[AutoBatchController] = []
    cut = [True]

    def loop(controller: AutoBatchController) -> Any:
        if len(seen) == 2 and cut.pop():
            raise KeyboardInterrupt
        return counting(resumable, seen)(controller)

    with pytest.raises(KeyboardInterrupt):
        scout(loop, out=tmp_path, **GRID)
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["b16-lr0.1-s0.json", "b16-lr0.5-s0.json"]
    cut.append(False)
    whole = scout(loop, out=tmp_path, **GRID)
    assert len(seen) == 3
    again = scout(loop, out=tmp_path, **GRID)
    assert len(seen) == 3
    assert again == whole
    assert torch.equal(again.state["model"]["0.weight"], whole.state["model"]["0.weight"])
    assert len(list(tmp_path.glob("*.pt"))) == 1  # of those that have lost nothing is needed
    scout(loop, out=tmp_path, scout_share=0.2, **GRID)  # longer ones: all anew
    assert len(seen) == 6


def test_scouts_of_what_has_changed_since_are_trained_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hidden = [4]

    def loop(controller: AutoBatchController) -> Any:
        return train(controller, epochs=EPOCHS, hidden=hidden[0])

    def other(controller: AutoBatchController) -> Any:
        return train(controller, epochs=EPOCHS, hidden=hidden[0], weight_decay=0.0)

    first = scout(loop, out=tmp_path, **GRID)
    for changed, options, why in (
        (loop, {}, None),
        (loop, {"batch_sizes": (11, 12, 16)}, "another 'batch_sizes'"),
        (other, {"batch_sizes": (11, 12, 16)}, "another code of the loop, or other values that it reads"),
        (other, {}, "another 'batch_sizes'"),
    ):
        caplog.clear()
        found = scout(changed, out=tmp_path, **{**GRID, **options})
        assert [one.scout for one in found.trained] == [one.scout for one in first.trained]
        anew = [own.getMessage() for own in caplog.records if "they are trained anew" in own.getMessage()]
        assert [f"of an earlier call with {why};" in one for one in anew] == ([] if why is None else [True])
    next(tmp_path.glob("b16-lr0.5-*.json")).unlink()
    hidden[0] = 8  # what cannot be seen in the code shows when a scout attaches
    caplog.clear()
    assert len(scout(other, out=tmp_path, **GRID).trained) == 3
    assert "'parameters' was 38 there and is 74 here" in caplog.text


def test_a_loop_that_is_another_in_each_scout_is_refused(tmp_path: Path) -> None:
    widths = iter((4, 8, 4))

    def loop(controller: AutoBatchController) -> Any:
        return train(controller, epochs=EPOCHS, hidden=next(widths))

    with pytest.raises(ConfigError, match=r"another loop: 'parameters' was 38 there and is 74 here"):
        scout(loop, out=tmp_path, **GRID)


def test_scouts_of_another_loop_are_refused(report: ScoutReport, tmp_path: Path) -> None:
    scout(partial(train, epochs=EPOCHS), out=tmp_path, scouts=2, **GRID)
    with pytest.raises(ConfigError, match=r"another loop: 'optimizer.groups.0.momentum' was 0.9 there and is 0 here"):
        train(AutoBatchController(policy="beacon-follow", scouts=report), epochs=EPOCHS)
    path = next(tmp_path.glob("*.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "steps": None, "more": 1}))
    with pytest.raises(CheckpointError, match="delete it to train this scout anew"):
        scout(partial(train, epochs=EPOCHS), out=tmp_path, **GRID)


def for_ever(controller: AutoBatchController) -> None:
    """Train all epochs, whatever the controller says."""
    x, y = data()
    model = nn.Linear(6, 2)
    controller.attach(model, torch.optim.SGD(model.parameters(), 0.1), dataset_size=len(x), epochs=EPOCHS)
    loader = DataLoader(TensorDataset(x, y), batch_sampler=controller.batch_sampler)
    for _ in range(EPOCHS):
        for inputs, targets in loader:
            with controller.step() as step:
                step.backward(F.cross_entropy(model(inputs), targets))
        controller.end_epoch(val_loss=1.0)


def test_a_loop_that_goes_on_after_the_end_is_told_and_its_scouts_count(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"after the scout's end: .*controller.each_epoch\(\)") as told:
        found = scout(for_ever, out=tmp_path, **GRID)
    assert len(told) == 3
    assert [len(one.scout.train_losses) for one in found.trained] == [1, 1, 1]
    assert found.winner is not None
    assert found.state is None
    assert found.charged_seconds == found.seconds


@pytest.mark.parametrize("call", ["step", "end_epoch", "batches"])
def test_what_is_called_after_the_end_says_what_to_do(call: str, tmp_path: Path) -> None:
    raised = []

    def loop(controller: AutoBatchController) -> None:
        resumable(controller)
        with pytest.raises(AutoBatchError, match=r"finished after 1 of 12 epochs \(this scout.*each_epoch") as error:
            getattr(controller, call)()
        raised.append(error)

    assert scout(loop, out=tmp_path, **GRID).winner is not None
    assert len(raised) == 3


def test_no_failure_of_a_scout_costs_the_run(tmp_path: Path) -> None:
    def some(controller: AutoBatchController) -> Any:
        def accident(model: nn.Module, figures: dict[str, float]) -> None:
            if controller.lr == 0.1:
                raise ValueError("an accident")

        return train(controller, epochs=EPOCHS, at_end=accident)

    with pytest.warns(UserWarning, match=r"1 scout came to nothing:\n  s16 at lr 0.1: ValueError: an accident"):
        found = scout(some, out=tmp_path, **GRID)
    assert [(one.scout.lr, one.scout.ended) for one in found.trained] == [(0.5, None), (2.0, None)]
    assert found.seconds > sum(one.seconds for one in found.trained)
    assert "an accident" in found.failed["s16 at lr 0.1"]
    assert found.winner is not None
    assert found.winner.scout.lr != 0.1
    assert not (tmp_path / "b16-lr0.1-s0.json").exists()  # tried again the next time


@pytest.mark.parametrize(("steps", "calls"), [(0, 2), (1, 3)])
def test_a_loop_that_fails_before_its_first_step_is_tried_twice(steps: int, calls: int, tmp_path: Path) -> None:
    called: list[AutoBatchController] = []

    def failing(controller: AutoBatchController) -> None:
        model = nn.Linear(6, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        controller.attach(model, optimizer, dataset_size=48, epochs=12)
        for _ in controller.each_epoch():
            for _, indices in zip(range(steps), controller.batches(), strict=False):
                with controller.step() as step:
                    step.backward(model(torch.ones(len(indices), 6)).mean())
                optimizer.step()
            error = RuntimeError("no room")
            error.add_note("a note on it")
            raise error

    with pytest.warns(UserWarning, match=f"{calls} scouts came to nothing:\n  s16 at lr 0.1: RuntimeError: no room\n"):
        scout(counting(failing, called), out=tmp_path, **GRID)
    assert len(called) == calls


@pytest.mark.parametrize(
    ("loop", "message"),
    [
        (lambda controller: None, "never attached the controller: call controller.attach"),
        (lambda controller: 1 / 0, "ZeroDivisionError"),
        (
            lambda controller: controller.attach(
                model := nn.Linear(6, 2), torch.optim.SGD(model.parameters()), dataset_size=48, epochs=12
            ),
            "returned after 0 of this scout's 1 epoch: write the loop as",
        ),
    ],
)
def test_with_no_sound_scout_the_report_says_so_and_the_run_starts_in_the_middle(
    loop: Callable[[AutoBatchController], Any], message: str, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match=message):
        found = scout(loop, out=tmp_path, **GRID)
    assert found.winner is None
    assert (found.batch_size, found.lr) == (16, 0.1)
    assert "how sure: not at all" in str(found)
    controller = AutoBatchController(policy="beacon-follow", scouts=found, rates="steered", measuring=NeverMeasure())
    if not found.loop:
        resumable(controller)
        assert controller.stopped_because is not None
        assert controller.lr == 0.1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"learning_rates": 0.1}, r"learning_rates: expected several values, such as a tuple, got 0.1"),
        ({"learning_rates": ("0.1", 0.2)}, r"learning_rates: expected a number, got '0.1'"),
        ({"learning_rates": iter(())}, r"learning_rates: expected at least one value"),
        ({"learning_rates": (0.1, 0.1)}, r"learning_rates: expected each value once"),
        ({"batch_sizes": 32}, r"batch_sizes: expected several values"),
        ({"batch_sizes": (8, 8)}, r"batch_sizes: expected each value once"),
        ({"scout_share": "0.1"}, r"scout_share: expected a number, got '0.1'"),
        ({"score": "val_loss"}, r"score='val_loss': .*validation_loss"),
    ],
)
def test_arguments_that_cannot_be_used(wrong: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        scout(resumable, out=tmp_path, **{**GRID, **wrong})


def test_what_is_no_report_is_refused() -> None:
    with pytest.raises(ConfigError, match="scouts: expected ScoutReport, got 'x'"):
        AutoBatchController(policy="steer", scouts="x")  # type: ignore[arg-type]


def test_a_scout_that_diverges_is_ended_and_loses(tmp_path: Path) -> None:
    def loop(controller: AutoBatchController) -> Any:
        def spoil(model: nn.Module, figures: dict[str, float]) -> None:
            if controller.lr == 0.5:
                with torch.no_grad():
                    next(model.parameters()).fill_(math.nan)

        return train(controller, epochs=EPOCHS, at_end=spoil)

    found = scout(loop, out=tmp_path, **GRID)
    assert "no longer finite" in str(found.trained[1].scout.ended)
    assert found.lr != 0.5
    alone = replace(found, trained=found.trained[:2], choice=replace(found.choice, scout=0, margin=None))
    assert "how sure: every other scout was ended before, so there is none to compare with" in str(alone)


def test_where_all_scouts_diverge_report_and_controller_start_below_them(tmp_path: Path) -> None:
    def spoil(model: nn.Module, figures: dict[str, float]) -> None:
        with torch.no_grad():
            next(model.parameters()).fill_(math.nan)

    found = scout(partial(train, epochs=EPOCHS, at_end=spoil), out=tmp_path, **GRID)
    assert found.winner is None
    controller = AutoBatchController(policy="beacon-follow", scouts=found)
    train(controller, epochs=EPOCHS)
    assert controller.lr == found.lr == pytest.approx(0.001)  # 0.01 has diverged too


def test_scouts_within_an_epoch(tmp_path: Path) -> None:
    """A training of one epoch has scouts of a part of it; their loops validate at the stop."""
    found = scout(
        partial(train, epochs=1), out=tmp_path, plan=BatchPlan(decide_every=4), **{**GRID, "batch_sizes": (4, 8)}
    )
    assert {len(one.scout.train_losses) for one in found.trained} == {2}
    assert all(one.examples == 8 for one in found.trained)
    assert all(math.isfinite(one.scout.scores[-1]) for one in found.trained)
    assert found.state is None


def few_epochs(controller: AutoBatchController, epochs: int = 2) -> list[set[int]]:
    """Train on much data for few epochs; return each epoch's batch sizes."""
    torch.manual_seed(0)
    model = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(16_000, 6)
    y = x.sum(1, keepdim=True)
    controller.attach(model, optimizer, dataset_size=len(x), epochs=epochs)
    sizes: list[set[int]] = []
    for _ in controller.each_epoch():
        sizes.append(set())
        for chosen in controller.batches():
            with controller.step() as step:
                step.backward(F.mse_loss(model(x[chosen]), y[chosen]))
            optimizer.step()
            optimizer.zero_grad()
            sizes[-1].add(len(chosen))
        controller.end_epoch(val_loss=1.0)
    return sizes


def test_where_epochs_are_few_and_long_scouts_and_decisions_lie_within_them(tmp_path: Path) -> None:
    options: dict[str, Any] = {"rates": "steered", "measuring": NeverMeasure()}
    grid: dict[str, Any] = {"batch_sizes": (16, 32, 64), "learning_rates": (0.0001, 0.001, 0.01)}
    found = scout(few_epochs, out=tmp_path, **grid, **options)
    # Of 20 decisions with 1,600 examples each, 50 steps of 32, two make 60 steps: a fifth of an epoch.
    assert [(one.examples, one.scout.trained) for one in found.trained] == [(3200, "0.2 epochs")] * len(found.trained)
    assert "after 0.2 epochs, training loss" in found.reason
    assert ", all 2 epochs " in str(found)
    size = found.batch_size
    fastest = min(one.training_seconds for one in found.trained if one.scout.batch_size == size)
    assert found.epoch_seconds[size] == pytest.approx(5 * fastest)
    again = scout(few_epochs, out=tmp_path, **grid, **options)
    assert again.trained == found.trained  # kept
    controller = AutoBatchController(policy="beacon-follow", scouts=found, **options)
    first, second = few_epochs(controller)  # the whole length; the rate falls over 15 of 20 decisions
    assert max(first) < 64
    assert 32 in second
    assert 64 in second


def test_a_loop_that_decides_within_epochs_tells_what_it_used_there(tmp_path: Path) -> None:
    """An epoch's row has the batch size that it ended with alone."""
    out = tmp_path / "run"
    controller = AutoBatchController(
        policy="steer", rates="steered", measuring=NeverMeasure(), batch_sizes=(16, 32, 64), out=out
    )
    sizes = few_epochs(controller)
    record = read_run(out)
    assert [row.batch_size for row in record.epochs] != [min(sizes[0])] * 2
    told = dict(run_facts(record))
    assert told["Batch size"].startswith("32 ×1.2 → 64 ×")
    assert [facts.batch_sizes for facts in load_run_facts(tmp_path)] == [told["Batch size"]]
    assert told["Applied rate"].startswith("0.1 at first, ")
    assert told["Applied rate"].endswith("the base rate times the schedule's factor, which larger batches raise")
    console = Console(width=150)
    with console.capture() as captured:
        console.print(story(record))
    assert "Epochs 1.20 to 2: batch size 32 → 64" in captured.get()


def resumable_few(
    controller: AutoBatchController,
    state: Any = None,
    at_end: Callable[[torch.optim.Optimizer], object] = lambda optimizer: None,
    workers: int = 0,
    **more: Any,
) -> dict[str, Any]:
    """Train on much data for two epochs; go on from a state where there is one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(6_400, 6)
    y = x.sum(1, keepdim=True)
    controller.attach(model, optimizer, dataset_size=len(x), epochs=2)
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        controller.load_state_dict(state["controller"])
    loader = DataLoader(TensorDataset(x, y), batch_sampler=controller.batch_sampler, num_workers=workers)
    steps = 0
    for _ in controller.each_epoch():
        for inputs, targets in loader:
            with controller.step() as step:
                step.backward(F.mse_loss(model(inputs), targets))
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
        model.eval()
        with torch.no_grad():
            loss = float(F.mse_loss(model(x), y))
        model.train()
        at_end(optimizer)
        controller.end_epoch(val_loss=loss)
    states: dict[str, Any] = {"model": model, "optimizer": optimizer, "controller": controller}
    kept = {name: each.state_dict() for name, each in states.items()}
    return {"steps": steps, "model": model, "state": kept | more}


FEW: dict[str, Any] = {
    "batch_sizes": (16, 32), "learning_rates": (0.001, 0.01, 0.1), "rates": "steered", "measuring": NeverMeasure()
}  # fmt: skip


def test_a_winner_that_ended_within_an_epoch_goes_on_bit_identically(tmp_path: Path) -> None:
    found = scout(resumable_few, out=tmp_path, **FEW)
    winner = found.winner
    assert winner is not None
    assert 0 < winner.examples < 6_400
    assert found.charged_seconds == pytest.approx(found.seconds - winner.seconds)
    assert "which goes on from report.state" in str(found)
    runs = {}
    for name, state in (("whole", None), ("on", found.state)):
        controller = AutoBatchController(
            policy="beacon-follow", scouts=found, rates="steered", measuring=NeverMeasure()
        )
        runs[name] = resumable_few(controller, state)
    assert runs["on"]["steps"] == runs["whole"]["steps"] - winner.steps
    mine, theirs = (runs[name]["model"].state_dict() for name in runs)
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
    whole, on = (runs[name]["state"]["controller"] for name in runs)
    assert whole["decisions"]["policy"] == on["decisions"]["policy"]


def halve(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        group["lr"] /= 2


def train_on(optimizer: torch.optim.Optimizer) -> None:
    with torch.no_grad():
        optimizer.param_groups[0]["params"][0].add_(0.0)


@pytest.mark.parametrize(
    "other",
    [{"at_end": halve}, {"at_end": train_on}, {"workers": 1}, {"average": {"n": 1}}],
    ids=["scheduler", "step", "ahead", "more"],
)
def test_a_loop_that_went_on_after_an_end_within_an_epoch_leaves_no_state(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    """A scheduler's step, a step of training, batches fetched ahead and what the loop keeps besides may be of later."""
    found = scout(partial(resumable_few, **other), out=tmp_path, scouts=2, **FEW)
    assert found.winner is not None
    assert found.state is None


def test_a_training_loss_told_at_the_end_within_an_epoch_counts(tmp_path: Path) -> None:
    def own(controller: AutoBatchController) -> None:
        torch.manual_seed(0)
        model = nn.Linear(6, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x = torch.randn(16_000, 6)
        y = x.sum(1, keepdim=True)
        controller.attach(model, optimizer, dataset_size=len(x), epochs=2)
        for _ in controller.each_epoch():
            losses = []
            for chosen in controller.batches():
                with controller.step():
                    loss = F.mse_loss(model(x[chosen]), y[chosen])
                    loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())
            controller.end_epoch(train_loss=sum(losses) / len(losses))

    found = scout(own, out=tmp_path, batch_sizes=(32, 64), learning_rates=(0.0001, 0.001, 0.01))
    assert len(found.trained) > 1
    assert all(math.isfinite(one.scout.train_losses[-1]) for one in found.trained)
    assert found.lr == 0.01


def test_scouts_that_an_earlier_version_ended_with_an_epoch_are_trained_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grid: dict[str, Any] = {"batch_sizes": (16, 32), "learning_rates": (0.001, 0.01), "out": tmp_path}
    loop = partial(few_epochs, epochs=8)
    found = scout(loop, **grid)
    for path in tmp_path.glob("*.json"):
        kept = json.loads(path.read_text())
        path.write_text(json.dumps(kept | {"loop": kept["loop"] | {"decide_every": None}}))
    again = scout(loop, **grid)
    assert "decisions between epochs alone" in caplog.text
    assert again.loop == found.loop
    caplog.clear()
    assert scout(loop, **grid).trained == again.trained
    assert "trained anew" not in caplog.text


def test_a_loop_without_epochs_is_refused_in_words(tmp_path: Path) -> None:
    def stream(controller: AutoBatchController) -> None:
        model = nn.Linear(6, 1)
        controller.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), examples=16_000)

    with pytest.warns(UserWarning, match="takes a loop of epochs: give dataset_size and epochs"):
        assert scout(stream, out=tmp_path, batch_sizes=(16, 32), learning_rates=(0.001, 0.01)).trained == ()


def test_who_says_how_often_to_decide_is_heard(tmp_path: Path) -> None:
    grid: dict[str, Any] = {"batch_sizes": (16, 32, 64), "learning_rates": (0.001, 0.01)}
    plan = BatchPlan(decide_every=16_000)
    assert scout(few_epochs, out=tmp_path, **grid, plan=plan).trained == ()  # 2 epochs, a decision each
    controller = AutoBatchController(policy="steer", batch_sizes=(16, 32), plan=plan, rates="steered")
    assert [len(rates) for rates in few_epochs(controller)] == [1, 1]
    assert [len(rates) for rates in few_epochs(AutoBatchController(policy="fixed", batch_sizes=(32, 64)))] == [
        1,
        1,
    ]


def test_a_training_too_short_for_scouts_has_none(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in ({}, {"scouts": 0}):
            found = scout(partial(train, epochs=1), out=tmp_path, **GRID, **options)
            assert (found.trained, found.failed) == ((), {})
            assert (found.batch_size, found.lr) == (16, 0.1)


def test_advice_says_what_would_be_chosen_how_sure_and_what_it_costs(
    report: ScoutReport, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "autobatch")
    controller = AutoBatchController(policy="beacon-follow", scouts=report, rates="steered", advise=16)
    trained = resumable(controller)
    assert trained["epochs"] == list(range(EPOCHS))  # nothing stops
    assert controller.decision.requested_lr == 0.5
    assert controller.lr == 0.1
    said = caplog.records[0].getMessage()
    for part in ("advise: start with s16 at lr 0.5", "% lower than the next", "at s16 an epoch takes", "scouting took"):
        assert part in said


def test_advice_is_seen_where_logging_was_not_set_up(
    report: ScoutReport, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "autobatch")
    monkeypatch.setattr(logging.Logger, "hasHandlers", lambda self: False)
    measuring = NeverMeasure()  # what a busy machine measures may advise a smaller batch, and the whole length
    resumable(AutoBatchController(policy="steer", scouts=report, rates="steered", advise=16, measuring=measuring))
    seen = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert seen[0].startswith("scouts advise: start with s16 at lr 0.5")
    assert seen[1].startswith("epoch 1 (0 %)")
    assert "advice: stop" in seen[-1]
    assert len(seen) < EPOCHS  # where the advice is another one, and no other time


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": 3}, "a function of a controller"),
        ({"scouts": "many"}, "expected 'auto' or a whole number"),
        ({"scouts": -1}, "from 0 to 16"),
        ({"scout_share": 0.5}, "scout_share"),
        ({"policy": "fixed"}, "'policy' cannot be given"),
        ({"learning_rates": ()}, "at least one value"),
        ({"learning_rates": (-1.0,)}, "learning_rates"),
    ],
)
def test_what_cannot_be_scouted_is_refused(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        scout(**{"train": resumable, "out": tmp_path, **GRID, **arguments})
    assert not list(tmp_path.iterdir())


def test_a_state_that_cannot_be_kept_is_an_error_that_says_what_to_return(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="state_dict"):
        scout(lambda controller: {**resumable(controller), "state": object()}, out=tmp_path, **GRID)


def test_scouts_go_with_policies_that_take_them(report: ScoutReport) -> None:
    with pytest.raises(ConfigError, match="this policy"):
        AutoBatchController(policy="s8-to-32", scouts=report)
    with pytest.raises(ConfigError, match="batch_sizes: the ladder"):
        AutoBatchController(policy="s8-to-32")


def test_by_default_each_loop_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scout(resumable, **GRID)
    scout(partial(train, epochs=EPOCHS), **GRID)
    assert sorted(path.name for path in (tmp_path / "runs" / "scouts").iterdir()) == [
        "tests.training.own.own_loops.train",
        "tests.training.own.test_scouts.resumable",
    ]


def test_one_rate_is_no_failure(tmp_path: Path) -> None:
    told = str(scout(resumable, out=tmp_path, **{**GRID, "learning_rates": (0.1,)}))
    assert told.splitlines() == [
        "start with s16 at lr 0.1",
        "why: no scouts: there is one learning rate, so nothing to choose; it starts with s16 at lr 0.1",
    ]


def test_columns_are_as_wide_as_what_is_in_them(report: ScoutReport) -> None:
    from dataclasses import replace

    wide = replace(report.trained[0].scout, batch_size=8192, lr=0.000123456)
    told = str(replace(report, trained=(replace(report.trained[0], scout=wide), *report.trained[1:]), note="fewer"))
    head, *rows = (line for line in told.splitlines() if line.startswith(("  ", "* ")))
    assert "s8192 at lr 0.000123456  " in told
    assert {row.index(str(len(one.scout.train_losses)), 25) for row, one in zip(rows, report.trained, strict=True)} == {
        head.index("epochs") + len("epoch")
    }
    assert "fewer" in told.splitlines()


def test_where_scouts_have_hardly_begun_half_the_batch_is_tried(tmp_path: Path) -> None:
    """What guessing comes to is the loss of the first batch; the controller that goes on knows it from the scouts."""
    grid = {**GRID, "batch_sizes": (8, 16), "learning_rates": (0.01, 0.1, 0.5, 2.0, 8.0)}
    found = scout(partial(resumable, off=0.0), out=tmp_path, **grid)
    assert [one.scout.batch_size for one in found.trained] == [16, 16, 16, 8]
    # By hand: a parabola through 0.274, 0.17 and 0.978 at 0.5, 2 and 8 has its floor at 1.17, of which that is half.
    assert (found.batch_size, found.lr) == (8, 0.59)
    assert "more steps help: the training keeps its whole length" in found.reason
    again = scout(partial(resumable, off=0.0), out=tmp_path, **grid)
    assert (str(again), again.guessing) == (str(found), found.guessing)
    policy = SteerPolicy(SteerParameters(patience=0))  # so little data are soon learnt by heart
    trained = resumable(AutoBatchController(policy=policy, scouts=found, rates="steered"), off=0.0)
    assert len(trained["epochs"]) == EPOCHS


def test_where_the_highest_rate_is_best_half_the_batch_is_tried_at_it(tmp_path: Path) -> None:
    found = scout(partial(resumable, off=0.0), out=tmp_path, **{**GRID, "batch_sizes": (8, 16)})
    assert [(one.scout.batch_size, one.scout.lr) for one in found.trained[-2:]] == [(16, 2.0), (8, 2.0)]
    assert (found.batch_size, found.lr) == (16, 2.0)
    assert "but half the batch was tried, and is no better" in found.reason


def test_losses_that_are_no_numbers_are_told_as_they_are(tmp_path: Path) -> None:
    found = scout(partial(resumable, off=math.nan), out=tmp_path, **GRID)
    assert {one.scout.ended for one in found.trained} == {"the training loss was nan before any step"}
    assert found.reason.endswith("look at the data and the loss, not at the rates")
    assert found.guessing is None


# Memory ---------------------------------------------------------------------------------------------------------------


def short_of_memory(controller: AutoBatchController, most: int, sizes: list[int]) -> dict[str, Any]:
    """Train where no more than ``most`` examples fit; note the size of every batch."""

    def fit(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if module.training and torch.is_grad_enabled():
            sizes.append(len(args[0]))
            if sizes[-1] > most:
                raise torch.OutOfMemoryError("none left")

    hook = nn.modules.module.register_module_forward_pre_hook(
        lambda module, args: fit(module, args) if isinstance(module, nn.Sequential) else None
    )
    try:
        return train(controller, epochs=EPOCHS)
    finally:
        hook.remove()


@pytest.mark.parametrize("rates", [None, (0.1, 0.3, 1.0)])
def test_scouts_that_do_not_fit_into_memory_go_on_with_smaller_batches(
    tmp_path: Path, rates: tuple[float, ...] | None
) -> None:
    sizes: list[int] = []
    loop = partial(short_of_memory, most=10, sizes=sizes)
    with pytest.warns(UserWarning, match=r"1 scout came to nothing:\n  s16 at lr .*: OutOfMemoryError: none left"):
        report = scout(loop, batch_sizes=(4, 8, 16), learning_rates=rates, out=tmp_path, rates="steered")
    assert report.batch_sizes == (4, 8)
    assert sum(size > 10 for size in sizes) == 1
    assert report.batch_size in {4, 8}
    assert {one.scout.batch_size for one in report.trained} <= {4, 8}
    assert len(report.failed) == 1
    sizes.clear()
    controller = AutoBatchController(policy="beacon-follow", scouts=report, rates="steered")
    loop(controller)
    assert controller.finished
    assert max(sizes) <= 10


def test_where_the_smallest_does_not_fit_either_two_are_tried(tmp_path: Path) -> None:
    sizes: list[int] = []
    loop = partial(short_of_memory, most=2, sizes=sizes)
    with pytest.warns(UserWarning, match="4 scouts came to nothing"):
        report = scout(loop, batch_sizes=(4, 8, 16), out=tmp_path, rates="steered")
    assert [size for size in sizes if size > 2] == [16, 8, 4, 4]
    assert not report.trained


def test_what_guessing_comes_to_is_the_loss_of_the_whole_first_batch(tmp_path: Path) -> None:
    """A loop that accumulates tells the loss of one part at a time."""
    losses: list[float] = []

    def accumulates(controller: AutoBatchController, parts: int) -> None:
        torch.manual_seed(controller.seed)
        model = nn.Linear(6, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = data()
        controller.attach(model, optimizer, dataset_size=len(x), epochs=EPOCHS)
        loader = DataLoader(TensorDataset(x, y), batch_sampler=controller.batch_sampler)
        for _ in controller.each_epoch():
            for number, (inputs, targets) in enumerate(loader, start=1):
                with controller.step() as step:
                    loss = F.cross_entropy(model(inputs), targets)
                    losses.append(loss.item())
                    step.backward(loss)
                if number % parts == 0:
                    optimizer.step()
                    optimizer.zero_grad()
            controller.end_epoch(val_loss=1.0)

    for parts in (1, 4):
        losses.clear()
        plan = BatchPlan(accumulation=parts)
        loop = partial(accumulates, parts=parts)
        report = scout(loop, batch_sizes=(16,), learning_rates=(0.1, 0.2, 0.3), out=tmp_path / str(parts), plan=plan)
        assert report.guessing == pytest.approx(sum(losses[:parts]) / parts)

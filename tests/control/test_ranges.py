"""Every range that is stated for an argument is held, by an error that names the argument."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from autobatch import load_runs, scout
from autobatch._errors import CheckpointError, ConfigError, UnknownNameError
from autobatch.control import BatchPlan, LearningRateRule, MeasureAtInterval, MeasureWithinBudget, Rates
from autobatch.policies import load_policy_spec
from tests.control.loops import Toy


def ending(**figures: Any) -> Callable[[], Any]:
    def end() -> None:
        toy = Toy([8])
        for batch in toy.loader():
            toy.step(batch)
        try:
            toy.controller.end_epoch(**figures)
        finally:
            assert toy.controller.epoch == ("val_error" in figures and figures["val_error"] in GOOD_SHARES)
            if not toy.controller.epoch:
                toy.controller.end_epoch()

    return end


GOOD_SHARES = [0.0, 1.0, 1.0 + 1e-7, -1e-7, 0.3]
OUTSIDE: list[tuple[str, Callable[[], Any]]] = [
    (
        r"end_epoch\(val_error=...\): expected a share in \[0, 1\], got 12.5 \(per cent\? divide by 100\)",
        ending(val_error=12.5),
    ),
    (r"end_epoch\(val_error=...\): expected a share in \[0, 1\], got -4$", ending(val_error=-4.0)),
    (r"end_epoch\(val_error=...\): expected a number, got 'low'", ending(val_error="low")),
    (r"end_epoch\(val_loss=...\): expected a number, got", ending(val_loss=torch.ones(2))),
    (r"end_epoch\(train_loss=...\): expected a number, got", ending(train_loss=[1.0])),
    (r"end_epoch\(val_loss=...\): expected a number, got True", ending(val_loss=True)),
    ("BatchPlan: decide_every: expected a number, got 'x'", lambda: BatchPlan(decide_every="x")),
    ("the measuring budget: expected a number, got True", lambda: MeasureWithinBudget(True)),
    ("batch_sizes: expected several values, such as a tuple, got 8", lambda: Toy([8], batch_sizes=8)),
    ("loggers: expected several values, such as a tuple, got 'csv:x'", lambda: Toy([8], loggers="csv:x")),
    ("out: expected a path, got ''", lambda: Toy([8], out="")),
    ("out: expected a path, got 3", lambda: Toy([8], out=3)),
    ("the length of a loop without epochs is examples=", lambda: Toy([8], steps=100)),
    (r"rebatch\(source\): expected Iterable, got 3", lambda: Toy([8]).controller.rebatch(3)),
    ("epochs: expected a whole number of at least 1, got 0", lambda: Toy([8], epochs=0)),
    ("epochs: expected a whole number of at least 1, got 2.5", lambda: Toy([8], epochs=2.5)),  # type: ignore[arg-type]
    ("epochs: expected a whole number of at least 1, got True", lambda: Toy([8], epochs=True)),
    ("dataset_size: expected a whole number of at least 1, got 0", lambda: Toy([8], size=0)),
    ("batch_sizes: expected a whole number of at least 1, got 4.0", lambda: Toy([8], batch_sizes=(4.0, 8))),
    ("batch_sizes: expected ascending", lambda: Toy([8], batch_sizes=(8, 4))),
    ("seed: expected a whole number of at least 0, got -1", lambda: Toy([8], seed=-1)),
    ("policy: expected the name or file of a policy", lambda: Toy(object())),
    ("advise: expected the batch size", lambda: Toy([8], advise=0)),
    ("learning_rates: expected at least one", lambda: Rates(learning_rates=())),
    ("learning_rates: expected a positive finite number, got -0.1", lambda: Rates(learning_rates=(-0.1,))),
    ("learning_rates: expected a number, got '0.1'", lambda: Rates(learning_rates=("0.1",))),  # type: ignore[arg-type]
    (r"milestones: expected ascending shares .* got \[50\]", lambda: Rates(milestones=(50,))),
    (r"milestones: expected ascending shares .* got \[0.5, 0.2\]", lambda: Rates(milestones=(0.5, 0.2))),
    ("milestone_factor: expected a number in", lambda: Rates(milestone_factor=10.0)),
    ("schedule at progress 0: .* got -1", lambda: Toy([8], rates=Rates(schedule=lambda _: -1.0))),
    ("schedule at progress 0: expected a number, got None", lambda: Toy([8], rates=Rates(schedule=lambda _: None))),  # type: ignore[arg-type,return-value]
    ("power: expected a finite number, got nan", lambda: LearningRateRule("power", power=float("nan"))),
    ("reference_batch_size: expected a whole", lambda: LearningRateRule("linear", reference_batch_size=0)),
    ("ramp, in examples: expected a whole", lambda: LearningRateRule("linear", ramp=-1)),
    ("interval: expected a whole number", lambda: MeasureAtInterval(0)),
    ("interval: expected a whole number of at least 1, got 2.5", lambda: MeasureAtInterval(2.5)),  # type: ignore[arg-type]
    ("floor: expected a whole number", lambda: MeasureAtInterval(5, floor=0)),
    ("budget must be a finite number", lambda: MeasureWithinBudget(-0.1)),
    ("budget: expected a number", lambda: MeasureWithinBudget("2 %")),  # type: ignore[arg-type]
    ("accumulation: expected a positive integer", lambda: BatchPlan(accumulation=0)),
    ("decide_every: expected a number", lambda: BatchPlan(decide_every=-1.0)),
]


@pytest.mark.parametrize(("message", "make"), OUTSIDE, ids=[message for message, _ in OUTSIDE])
def test_what_lies_outside_is_refused_by_name(message: str, make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_what_lies_at_the_edge_is_taken() -> None:
    for share in (*GOOD_SHARES, float("nan"), torch.tensor(0.3), np.float32(0.3)):
        toy = Toy([8], size=np.int64(26), epochs=1, batch_sizes=np.array([4, 8]))  # type: ignore[arg-type]
        toy.epoch(val_error=share)
        assert toy.controller.finished
    Rates(learning_rates=torch.tensor([0.1]).tolist(), milestones=(0.5, 0.99), milestone_factor=1.0)


def test_paths_that_are_none_are_refused() -> None:
    for value in (3, None, ""):
        with pytest.raises(ConfigError, match="path: expected a path, got"):
            load_runs(value)
    with pytest.raises(ConfigError, match="out: expected a path, got 3"):
        scout(print, out=3)
    with pytest.raises(UnknownNameError, match="unknown policy ''"):
        load_policy_spec("")
    with pytest.raises(CheckpointError, match=r"expected what state_dict\(\) returned, got None"):
        Toy([8]).controller.load_state_dict(None)


def test_an_optimizer_of_another_model_and_a_second_controller_are_told(caplog: pytest.LogCaptureFixture) -> None:
    first = Toy([8])
    assert "optimizer" not in caplog.text
    Toy([8], optimize=lambda _: first.optimizer)
    assert "holds none of the model's parameters" in caplog.text
    assert "the optimizer had another controller, which steers it no longer" in caplog.text

"""Why C̄ leaps, said by the controller when it happens and by reports afterwards; and a C̄ of few steps."""

import logging
from dataclasses import replace

import pytest
import torch

from autobatch.control.measuring import MeasuredStep, leap_words
from autobatch.report import read_run, story
from tests.control.run.test_run_directory import DATA, Loop
from tests.report.test_report import printed


def sample(step: int, condition: float, rank: int = 8) -> MeasuredStep:
    return MeasuredStep(2, step, 8, 0.1, condition, 1.0, rank, 1.0, 0.0)


def test_the_step_behind_a_leap_is_named():
    told = leap_words(10.0, 2500.0, [sample(5, 20.0), sample(7, 9000.0), sample(9, 15.0)])
    assert told is not None
    for phrase in ("rose 250-fold, from 10 to 2.5e+03", "step 7", "9e+03 at rank 8 of 8", "nearly singular"):
        assert phrase in told
    told = leap_words(10.0, 2500.0, [sample(7, 9000.0, rank=6)])
    assert told is not None
    assert "2 of its 8 examples have no direction of their own (the same example twice" in told
    told = leap_words(10.0, 2500.0, [sample(7, 9000.0, rank=7)])
    assert told is not None
    assert "1 of its 8 examples has no direction of its own (the same example twice" in told


@pytest.mark.parametrize(
    ("before", "after", "samples"),
    [
        (10.0, 100.0, [sample(1, 400.0)]),  # a tenfold rise is ordinary
        (float("nan"), 1000.0, [sample(1, 1000.0)]),
        (10.0, float("nan"), [sample(1, float("nan"))]),
        (10.0, 1000.0, []),
    ],
)
def test_what_is_no_leap(before, after, samples):
    assert leap_words(before, after, samples) is None


def test_controller_and_story_tell_it_where_it_happens(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "autobatch")
    loop = Loop(tmp_path / "run")
    loop.train(1)
    assert "C̄ rose" not in caplog.text
    alike = 1.0 + 1e-3 * torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(DATA, "x", alike)
    monkeypatch.setattr(DATA, "y", torch.zeros_like(DATA.y))
    monkeypatch.setattr("autobatch.control.measuring._leaps.LEAP", 2.0)
    loop.train(2)
    assert "C̄ rose" in caplog.text
    record = read_run(tmp_path / "run")
    told = printed(story(record))
    assert "In epoch 2" in told
    assert "whose condition number is" in " ".join(told.split())


def test_few_measured_steps_are_said(tmp_path):
    Loop(tmp_path / "run").train()
    record = read_run(tmp_path / "run")
    assert "measured steps only)" in record.position_after(1)
    assert "only" not in record.position_after(3)
    many = replace(record, epochs=[replace(row, samples=50) for row in record.epochs])
    assert "only" not in many.position_after(1)

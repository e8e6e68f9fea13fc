"""A new training takes no more threads than the process has CPUs."""

import os
from pathlib import Path

import pytest

from autobatch.training import ExperimentSpec, resolve
from autobatch.training.task import _threads, cpu_share


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name in ("_QUOTA", "_QUOTA_1", "_PERIOD_1"):
        monkeypatch.setattr(_threads, name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("files", "asked", "share"),
    [
        ({}, None, 8),
        ({"_QUOTA": "max 100000\n"}, None, 8),
        ({"_QUOTA": "200000 100000\n"}, None, 2),
        ({"_QUOTA": "150000 100000\n"}, "3", 2),
        ({"_QUOTA": "50000 100000\n"}, None, 1),
        ({"_QUOTA": "damaged"}, None, 8),
        ({"_QUOTA_1": "300000\n", "_PERIOD_1": "100000\n"}, None, 3),
        ({"_QUOTA_1": "-1\n", "_PERIOD_1": "100000\n"}, None, 8),
        ({}, "1", 1),
        ({}, "4,2", 4),
        ({}, "many", 8),
        ({}, "0", 8),
    ],
)
def test_the_least_of_all_bounds(
    machine: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], asked: str | None, share: int
) -> None:
    for name, text in files.items():
        (machine / name).write_text(text)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert cpu_share() == share


def test_a_new_run_keeps_to_them_unless_it_is_told_otherwise(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = ExperimentSpec(env="digits-resnet8", policy="s64")
    assert resolve(experiment).task.threads == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert resolve(experiment).task.threads == 1
    assert resolve(experiment, {"--set": ["task.threads=4"]}).task.threads == 4

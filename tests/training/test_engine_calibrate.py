"""Timing this machine: which table counts, and that it is kept."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autobatch._errors import ConfigError
from autobatch.beacons import CostTable
from autobatch.training import RunInfo, RunObserver, calibrate, device_kind, load_data, load_run_config, run
from autobatch.training._calibrate import covers
from tests.training.tiny import COSTS, fixed, tiny_config, tiny_task

CPU = torch.device("cpu")


class Choosy(nn.Module):
    """A model that fails with batches of one size: of 13 examples in memory, of any other in itself."""

    def __init__(self, bad: int, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.last, self.bad = nn.Linear(in_features, num_classes), bad

    def forward(self, images: Tensor) -> Tensor:
        if len(images) == self.bad:
            if self.bad == 13:
                raise torch.OutOfMemoryError("none left")
            images = images.reshape(len(images) // 5, -1)
        return self.last(images.flatten(1))  # type: ignore[no-any-return]


def choosy_net(in_channels: int, num_classes: int, image_size: tuple[int, int], bad: int) -> nn.Module:
    return Choosy(bad, in_channels * image_size[0] * image_size[1], num_classes)


class Listener(RunObserver):
    def __init__(self) -> None:
        self.source: str | None = None
        self.notes: list[str] = []

    def started(self, info: RunInfo) -> None:
        self.source = info.costs_source

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_a_table_has_a_positive_time_for_every_batch_size() -> None:
    task = tiny_task()
    table = calibrate(task, load_data(task), CPU, (8, 32))
    assert table.device == device_kind(CPU, 1)
    assert set(table.step_seconds) == set(table.measuring_seconds) == {8, 32}
    assert all(value > 0 for value in (*table.step_seconds.values(), *table.measuring_seconds.values()))
    assert CostTable.from_dict(table.to_dict()) == table


def test_what_measuring_takes_is_not_lost_in_one_slow_round(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of each round a plain step, a measured one, and what an epoch takes besides; something else ran in rounds 2 and 3.
    rounds = [(1.0, 3.0, 0.5), (8.0, 3.0, 0.5), (7.0, 9.0, 0.6), (1.0, 3.0, 0.5), (1.0, 4.0, 0.5)]
    clock = iter([1.0, *(seconds for one in rounds for seconds in one)])
    monkeypatch.setattr("autobatch.training._calibrate._Bench.time", lambda *_: next(clock))
    task = tiny_task()
    table = calibrate(task, load_data(task), CPU, (8,))
    assert (table.step_seconds, table.measuring_seconds, table.epoch_seconds) == ({8: 1.0}, {8: 2.0}, 0.5)


def test_timing_leaves_generators_alone() -> None:
    task = tiny_task()
    state = torch.get_rng_state()
    calibrate(task, load_data(task), CPU, (8,))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_size_that_the_model_fails_with_is_named_with_what_to_do() -> None:
    model = {"name": "tests.training.test_engine_calibrate:choosy_net", "arguments": {"bad": 16}}
    task = tiny_task(model=model)
    with pytest.raises(ConfigError) as refused:
        calibrate(task, load_data(task), CPU, (8, 16, 32), trust_code=True)
    said = str(refused.value)
    assert said.startswith("timing this machine: the model fails with batches of 16: RuntimeError: shape '[3, -1]'")
    source = Path(__file__).read_text().splitlines()
    line = next(number for number, code in enumerate(source, 1) if code.lstrip().startswith("images = images.reshape"))
    assert said.endswith(f" ({__file__}:{line}); leave 16 out of batch_sizes, or mend the model")
    assert calibrate(task, load_data(task), CPU, (8, 32), trust_code=True).step_seconds.keys() == {8, 32}


def test_a_size_that_does_not_fit_into_memory_is_named() -> None:
    task = tiny_task(model={"name": "tests.training.test_engine_calibrate:choosy_net", "arguments": {"bad": 13}})
    with pytest.raises(ConfigError, match="batches of 13 do not fit into memory; leave 13 out of batch_sizes"):
        calibrate(task, load_data(task), CPU, (13,), trust_code=True)


def test_kinds_of_device_tell_threads_apart() -> None:
    assert device_kind(CPU, 1).endswith(", 1 thread")
    assert device_kind(CPU, 2).endswith(", 2 threads")


def test_a_table_holds_for_its_device_and_ladder() -> None:
    here = CostTable(device_kind(CPU, 1), COSTS.step_seconds, COSTS.measuring_seconds, 0.0)
    assert covers(here, tiny_task(), CPU)
    assert not covers(here, tiny_task(threads=2), CPU)
    assert not covers(here, tiny_task(batch_sizes=[8, 64]), CPU)


def test_runs_on_one_machine_share_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    calls: list[Any] = []

    def timed(*arguments: Any, **_: Any) -> CostTable:
        calls.append(arguments)
        return CostTable(device_kind(CPU, 1), COSTS.step_seconds, COSTS.measuring_seconds, len(calls) / 100)

    monkeypatch.setattr("autobatch.training._calibrate.calibrate", timed)
    listeners = [Listener() for _ in range(5)]
    settings: list[dict[str, Any]] = [
        {"costs": None},
        {"costs": None, "seed": 7},
        {"costs": None, "calibrate": True},
        {"costs": COSTS},
        {"costs": None, "measure": False},
    ]
    for index, (listener, changes) in enumerate(zip(listeners, settings, strict=True)):
        run(tiny_config(fixed(32), **changes), tmp_path / str(index), listener)
    tables = [load_run_config(tmp_path / str(index)).costs for index in range(5)]
    assert [None if table is None else table.epoch_seconds for table in tables] == [0.01, 0.01, 0.02, 0.01, None]
    assert [listener.source for listener in listeners] == [
        "timed at the run's start",
        "timed on this machine in an earlier run",
        "timed at the run's start",
        "kept from the run's start",
        None,
    ]
    assert len(calls) == 2

    (kept,) = (tmp_path / "cache" / "autobatch" / "costs").iterdir()
    kept.write_text(json.dumps({"device": 1}))
    run(tiny_config(fixed(32), costs=None), tmp_path / "after damage")
    assert len(calls) == 3


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("autobatch.training._calibrate.calibrate", lambda *_, **__: COSTS)
    run(tiny_config(fixed(32), costs=None), tmp_path / "run")
    assert load_run_config(tmp_path / "run").costs == COSTS

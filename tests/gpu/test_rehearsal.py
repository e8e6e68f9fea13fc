"""The command for a machine with a GPU, ``benchmarks/on_gpu.py``: all of its parts on the CPU, small."""

import importlib.util
import json
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "on_gpu.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("on_gpu", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.PATIENCE = 0.0
    return module


def rehearsal(script: ModuleType, out: Path, seconds: float = 600.0) -> Any:
    return script.Setting(torch.device("cpu"), True, None, out, time.monotonic() + seconds)


def test_every_part_finds_its_figure_once(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setting = rehearsal(script, tmp_path)
    script.find_all(rehearsal(script, tmp_path, seconds=-1.0))
    assert "the same command goes on from here" in capsys.readouterr().out
    script.find_all(setting)
    found = script.found(tmp_path)
    assert [*found] == [name for name, _ in script.figures(setting)]
    assert {name: line["error"] for name, line in found.items() if "error" in line} == {}
    assert (found["tests"]["tests"], found["tests"]["failures"], found["tests"]["errors"]) == (1, 0, 0)
    for name in ("measure mlp 8 float32", "measure gpt 8 bfloat16"):
        assert min(found[name]["ratio"], found[name]["ratio_by_rows"]) > 0
    assert json.loads((tmp_path / "costs" / "digits-mlp.json").read_text(encoding="utf-8"))["step_seconds"]
    assert found["loop digits-resnet8 16"]["over_by_hand"] > 0
    assert found["run digits-mlp steer 0"]["scouting_seconds"] > 0
    written = (tmp_path / "figures.jsonl").read_bytes()
    script.find_all(setting)
    assert (tmp_path / "figures.jsonl").read_bytes() == written
    capsys.readouterr()
    script.page(tmp_path)
    told = capsys.readouterr().out
    assert "| gpt | 8 |" in told
    assert "- run digits-mlp steer 0: " in told


def test_a_run_that_the_time_cuts_is_gone_on_with(script: ModuleType, tmp_path: Path) -> None:
    case = ("digits-mlp", "s32-lr0.05", 0)
    with pytest.raises(script.TimeUpError):
        script.whole_run(rehearsal(script, tmp_path, seconds=-1.0), *case)
    assert script.whole_run(rehearsal(script, tmp_path), *case)["epochs"] == 6


def test_there_is_a_word_where_there_is_no_gpu(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["on_gpu.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        script.main()
    assert "--rehearse" in capsys.readouterr().err

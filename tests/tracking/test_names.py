"""Loggers by name, and what is said where a tracker is missing."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from autobatch import ConfigError, OutputError, UnknownNameError
from autobatch.tracking import (
    CSVLogger,
    JSONLinesLogger,
    Logger,
    MLflowLogger,
    TensorBoardLogger,
    WandbLogger,
    as_metrics,
    as_texts,
    logger_names,
    make_logger,
)


def test_names_of_files(tmp_path: Path) -> None:
    made = make_logger(f"csv:{tmp_path}/a:b.csv"), make_logger(f"jsonl:{tmp_path}/a.jsonl")
    assert [type(logger) for logger in made] == [CSVLogger, JSONLinesLogger]
    assert {path.name for path in tmp_path.iterdir()} == {"a:b.csv", "a.jsonl"}
    assert logger_names() == ["csv:PATH", "jsonl:PATH", "tensorboard:DIR", "wandb[:PROJECT]", "mlflow[:EXPERIMENT]"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tensorbord:runs", "unknown logger 'tensorbord'; did you mean 'tensorboard'?"),
        ("log.csv", r"expected one of csv:PATH, jsonl:PATH"),
        ("", "unknown logger ''"),
    ],
)
def test_unknown_names(spec: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        make_logger(spec)


@pytest.mark.parametrize("spec", ["csv", "csv:", "jsonl", "tensorboard", "tensorboard:", "wandb:", "mlflow:"])
def test_a_missing_argument(spec: str) -> None:
    with pytest.raises(ConfigError, match=f"logger '{spec}': expected {spec.rstrip(':')}:[A-Z]+"):
        make_logger(spec)


def test_a_path_that_cannot_be_written() -> None:
    with pytest.raises(OutputError, match=r"/dev/null/log\.csv: cannot be written"):
        make_logger("csv:/dev/null/log.csv")


@pytest.mark.parametrize(
    ("make", "module", "package"),
    [
        (lambda: TensorBoardLogger("runs"), "torch.utils.tensorboard", "tensorboard"),
        (WandbLogger, "wandb", "wandb"),
        (MLflowLogger, "mlflow", "mlflow"),
    ],
)
def test_a_tracker_that_is_not_installed(
    make: Callable[[], Logger], module: str, package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"Logger needs the package '{package}'.*pip install 'autobatch\[track\]'"):
        make()
    assert not list(tmp_path.iterdir())


def test_no_tracker_is_imported_before_its_logger_is_made() -> None:
    code = (
        "import sys, autobatch.tracking\n"
        "print([name for name in ('wandb', 'mlflow', 'tensorboard', 'torch') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_numbers_and_texts_of_a_record() -> None:
    record = {"a": 1, "b": True, "c": None, "d": "x", "e": float("inf")}
    assert as_metrics(record) == {"autobatch/a": 1.0, "autobatch/b": 1.0, "autobatch/e": float("inf")}
    assert as_texts(record) == {"autobatch/d": "x"}

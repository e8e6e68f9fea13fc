"""Runs of Weights & Biases without a network, read back from the file that ``wandb sync`` would send."""

import json
import math
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autobatch import ConfigError, OutputError
from autobatch.tracking import WandbLogger, make_logger
from tests.tracking.records import log_all, record, training

wandb = pytest.importorskip("wandb", reason="wandb is not installed")


@pytest.fixture(autouse=True)
def _no_run_is_left() -> Iterator[None]:
    yield
    if wandb.run is not None:
        wandb.finish()


@pytest.fixture(autouse=True, scope="module")
def _offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep everything in a folder of ours; wandb reads its settings once a process, until it is torn down."""
    folder = tmp_path_factory.mktemp("wandb")
    settings = {"MODE": "offline", "SILENT": "true", "DIR": str(folder), "ERROR_REPORTING": "false", "CONSOLE": "off"}
    settings |= {name: str(folder / name) for name in ("CACHE_DIR", "CONFIG_DIR", "DATA_DIR")}
    with pytest.MonkeyPatch.context() as environment:
        for name, value in settings.items():
            environment.setenv(f"WANDB_{name}", value)
        wandb.teardown()
        yield
        wandb.teardown()


def history(run: Any) -> list[dict[str, Any]]:
    """Read the rows of a finished run; wandb's process may still be writing when ``finish`` returns."""
    deadline = time.monotonic() + 20
    while True:
        found = list(entries(Path(run.settings.sync_file).read_bytes()))
        if any(entry.WhichOneof("record_type") == "exit" for entry in found):
            rows = [entry.history.item for entry in found if entry.WhichOneof("record_type") == "history"]
            return [{"/".join(item.nested_key): json.loads(item.value_json) for item in row} for row in rows]
        assert time.monotonic() < deadline, "the run's file does not end"
        time.sleep(0.05)


def entries(data: bytes) -> Iterator[Any]:
    """Yield what a run's file holds: blocks of 32 KiB with records in pieces, as in a log of LevelDB."""
    from wandb.proto import wandb_internal_pb2

    at, whole = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in {1, 4} and at <= len(data):  # whole, or the last piece
            entry = wandb_internal_pb2.Record()
            entry.ParseFromString(whole)
            whole = b""
            yield entry


def test_a_run_of_its_own() -> None:
    logger = make_logger("wandb:digits")
    assert isinstance(logger, WandbLogger)
    log_all(logger, training())
    assert logger.run.project == "digits"
    logger.close()
    logger.close()
    assert wandb.run is None
    rows = history(logger.run)
    assert [row["autobatch/examples"] for row in rows] == [0, 1000, 2000, 3000]
    assert [row["autobatch/batch_size"] for row in rows] == [32, 64, 128, 256]
    assert [row["autobatch/reason"] for row in rows] == [each["reason"] for each, _ in training()]
    assert math.isnan(rows[0]["autobatch/validation_loss"])
    assert not any("autobatch/region_c" in row for row in rows)
    assert [row.get("autobatch/limit") for row in rows] == [None, "ladder ends at 64", None, None]


@pytest.mark.parametrize("given", [False, True], ids=["active", "given"])
def test_the_run_of_the_loop_stays_open(given: bool) -> None:
    run = wandb.init(project="mine")
    logger = WandbLogger(run) if given else WandbLogger()
    run.log({"loss": 0.5})
    logger.log(record(1, other_key=3), 1000)
    run.log({"loss": 0.25})
    logger.close()
    assert wandb.run is run
    run.finish()
    first, second, third = history(run)
    assert (first["loss"], third["loss"]) == (0.5, 0.25)
    assert second["autobatch/other_key"] == 3
    assert not {"loss"} & set(second)


def test_a_resumed_run_logs_its_last_records_again() -> None:
    """Only a server can resume a run, so this one is a stand-in."""
    rows: list[dict[str, Any]] = []
    run = SimpleNamespace(define_metric=lambda *_, **__: None, log=rows.append)
    log_all(WandbLogger(run), training()[:3])
    log_all(WandbLogger(run), training()[2:])
    assert [row["autobatch/examples"] for row in rows] == [0, 1000, 2000, 2000, 3000]


def test_what_cannot_be_started() -> None:
    with pytest.raises(ConfigError, match=r"got both \(run, project\)"):
        WandbLogger(object(), project="digits")
    with pytest.raises(OutputError, match=r"(?s)wandb: no run could be started: .*mode"):
        WandbLogger(mode="nonsense")

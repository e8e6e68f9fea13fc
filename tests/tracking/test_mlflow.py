"""Runs of MLflow in a local store, read back by its own client."""

import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autobatch import ConfigError, OutputError
from autobatch.tracking import MLflowLogger, make_logger
from tests.tracking.records import log_all, record, training

DATABASE = all(importlib.util.find_spec(package) for package in ("sqlalchemy", "alembic"))

# Its database layer uses what SQLAlchemy deprecates.
pytestmark = [pytest.mark.filterwarnings("ignore:.*noload.*:sqlalchemy.exc.SADeprecationWarning")] if DATABASE else []


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return an empty store: a database where MLflow can make one, else a folder."""
    folder = tmp_path_factory.mktemp("mlflow")
    return f"sqlite:///{folder}/mlflow.db" if DATABASE else f"file://{folder}/mlruns"


@pytest.fixture(name="mlflow")
def _mlflow(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
        monkeypatch.setenv(name, "")  # so that it is as before when the test ends
        monkeypatch.delenv(name)
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.chdir(tmp_path)
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", None)
    yield mlflow
    while mlflow.active_run() is not None:
        mlflow.end_run()


def metrics(mlflow: Any, run_id: str, name: str) -> list[tuple[int, float]]:
    found = mlflow.MlflowClient().get_metric_history(run_id, f"autobatch/{name}")
    return [(metric.step, metric.value) for metric in sorted(found, key=lambda metric: metric.step)]


def tags(mlflow: Any, run_id: str) -> dict[str, str]:
    found = mlflow.MlflowClient().get_run(run_id).data.tags
    return {name: text for name, text in found.items() if name.startswith("autobatch/")}


def test_a_run_of_its_own(mlflow: Any) -> None:
    logger = make_logger("mlflow:digits")
    assert isinstance(logger, MLflowLogger)
    client = mlflow.MlflowClient()
    log_all(logger, training()[:2])
    assert tags(mlflow, logger.run_id)["autobatch/limit"] == "ladder ends at 64"
    log_all(logger, training()[2:])
    assert client.get_run(logger.run_id).info.status == "RUNNING"
    logger.close()
    logger.close()
    run = client.get_run(logger.run_id)
    assert run.info.status == "FINISHED"
    assert client.get_experiment(run.info.experiment_id).name == "digits"
    assert mlflow.active_run() is None
    assert metrics(mlflow, logger.run_id, "batch_size") == [(0, 32), (1000, 64), (2000, 128), (3000, 256)]
    assert math.isnan(metrics(mlflow, logger.run_id, "validation_loss")[0][1])
    assert metrics(mlflow, logger.run_id, "region_c") == []
    assert tags(mlflow, logger.run_id) == {"autobatch/reason": "stay, 保持\nin line 2", "autobatch/limit": "none"}


def test_the_active_run_stays_active(mlflow: Any) -> None:
    with mlflow.start_run() as run:
        logger = MLflowLogger()
        assert logger.run_id == run.info.run_id
        logger.log(record(1, other_key=3), 1000)
        logger.log({"new_key": math.inf}, 2000)
        logger.close()
        assert mlflow.MlflowClient().get_run(logger.run_id).info.status == "RUNNING"
        beside = MLflowLogger(run_name="beside")
        beside.close()
    assert beside.run_id != logger.run_id
    assert mlflow.MlflowClient().get_run(beside.run_id).info.run_name == "beside"
    assert metrics(mlflow, logger.run_id, "other_key") == [(1000, 3)]
    ((step, value),) = metrics(mlflow, logger.run_id, "new_key")
    assert step == 2000
    assert value > 1e308  # a database has no infinity


def test_a_resumed_run_goes_on(mlflow: Any) -> None:
    mlflow.set_experiment("chosen before")
    killed = MLflowLogger()
    log_all(killed, training()[:3])
    again = MLflowLogger(killed.run_id)
    log_all(again, training()[2:])
    again.close()
    run = mlflow.MlflowClient().get_run(killed.run_id)
    assert run.info.status == "FINISHED"
    assert mlflow.MlflowClient().get_experiment(run.info.experiment_id).name == "chosen before"
    assert dict(metrics(mlflow, killed.run_id, "batch_size")) == {0: 32, 1000: 64, 2000: 128, 3000: 256}


def test_what_cannot_be_opened(mlflow: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave out experiment and run_name"):
        MLflowLogger("0" * 32, experiment="digits")
    with pytest.raises(OutputError, match=f"mlflow: run '{'0' * 32}': "):
        MLflowLogger("0" * 32)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="mlflow: no run: "):
        MLflowLogger(tracking_uri=f"file://{tmp_path}/file/mlruns")

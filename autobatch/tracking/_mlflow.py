"""Records as the metrics of an MLflow run."""

import os
import time
from collections.abc import Mapping
from typing import Any

from autobatch._errors import ConfigError, OutputError
from autobatch.tracking._packages import import_tracker
from autobatch.tracking._protocol import Scalar
from autobatch.tracking._records import ChangedTexts, as_metrics


class MLflowLogger:
    """Logs numbers as metrics of an MLflow run under ``autobatch/``; its tags hold the texts of the last record.

    Where neither ``run_id`` nor arguments for a new run are given, the active run is taken, if there is one. That one
    stays open on closing; any other is set to finished. Metrics cannot be taken back: a resumed training
    (``run_id=...``) whose last records are lost to its checkpoint logs them again, at the same step.

    Args:
        run_id: the run to log into; by default the active one, else a new one.
        experiment: name of the new run's experiment, made where it is missing; by default the one of
            ``mlflow.set_experiment`` or of MLflow's environment variables.
        run_name: name of the new run.
        tracking_uri: where the runs are kept; by default MLflow's own choice.

    Attributes:
        run_id: the run, to be given again when the training is resumed.

    Raises:
        ConfigError: the arguments contradict one another, or MLflow is not installed.
        OutputError: the run could not be opened or made.
    """

    def __init__(
        self,
        run_id: str | None = None,
        *,
        experiment: str | None = None,
        run_name: str | None = None,
        tracking_uri: str | None = None,
    ) -> None:
        if run_id is not None and (experiment is not None or run_name is not None):
            raise ConfigError("MLflowLogger: run_id names a run that exists; leave out experiment and run_name")
        mlflow = import_tracker("mlflow", "mlflow", type(self).__name__)
        self._entities = import_tracker("mlflow.entities", "mlflow", type(self).__name__)
        self._texts = ChangedTexts()
        active = mlflow.active_run()
        try:
            self._client = mlflow.MlflowClient(tracking_uri=tracking_uri)
            if run_id is None and active is not None and (experiment, run_name, tracking_uri) == (None, None, None):
                run_id = active.info.run_id
            if run_id is None:
                run_id = _new_run(self._client, experiment, run_name)
            self._owned = active is None or active.info.run_id != run_id
            if self._owned:
                self._client.update_run(run_id, status="RUNNING")
        except Exception as error:
            raise OutputError(f"mlflow: {'no run' if run_id is None else f'run {run_id!r}'}: {error}") from error
        self.run_id: str = run_id

    def log(self, record: Mapping[str, Scalar], step: int) -> None:
        """Log a record, in one request.

        Args:
            record: the figures by name.
            step: training examples seen.
        """
        now = round(time.time() * 1000)
        self._client.log_batch(
            self.run_id,
            metrics=[self._entities.Metric(name, value, now, step) for name, value in as_metrics(record).items()],
            tags=[self._entities.RunTag(name, text) for name, text in self._texts.of(record).items()],
        )

    def close(self) -> None:
        """Set the run to finished, unless it was active before."""
        if self._owned:
            self._owned = False
            self._client.set_terminated(self.run_id)


def _new_run(client: Any, experiment: str | None, run_name: str | None) -> str:
    experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME")
    if experiment is None:  # set_experiment sets the variable; "0" is MLflow's default experiment
        run = client.create_run(os.environ.get("MLFLOW_EXPERIMENT_ID", "0"), run_name=run_name)
    else:
        found = client.get_experiment_by_name(experiment)
        identity = client.create_experiment(experiment) if found is None else found.experiment_id
        run = client.create_run(identity, run_name=run_name)
    return str(run.info.run_id)

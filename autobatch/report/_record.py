"""What a run left on disk, read back for reports."""

from dataclasses import dataclass
from pathlib import Path

from autobatch._errors import LibraryError
from autobatch.beacons import BeaconLibrary
from autobatch.control import DecisionRecord
from autobatch.training import (
    EpochRow,
    RunConfig,
    Summary,
    load_decisions,
    load_epochs,
    load_run_config,
    load_summary,
)


@dataclass(frozen=True)
class RunRecord:
    """One run directory.

    Attributes:
        path: the directory.
        config: the run's configuration.
        epochs: its finished epochs.
        decisions: its decisions, the first one made before the first epoch.
        summary: how it ended; None while it has not.
        library: the beacons that it can be compared with; None where there are none of its task.
    """

    path: Path
    config: RunConfig
    epochs: list[EpochRow]
    decisions: list[DecisionRecord]
    summary: Summary | None
    library: BeaconLibrary | None

    @property
    def title(self) -> str:
        """Task, policy and seed, for headings."""
        return f"{self.config.task.name}, {self.config.policy.name}, seed {self.config.seed}"


def read_run(path: Path) -> RunRecord:
    """Read a run directory, finished or not.

    Args:
        path: the run directory.

    Returns:
        The run.

    Raises:
        CheckpointError: the directory holds no run, or a file in it is damaged.
    """
    config = load_run_config(path)
    return RunRecord(
        path=path,
        config=config,
        epochs=load_epochs(path),
        decisions=load_decisions(path),
        summary=load_summary(path) if (path / "summary.json").exists() else None,
        library=comparable_library(config),
    )


def comparable_library(config: RunConfig) -> BeaconLibrary | None:
    """Load the beacons of a run's task, if they can be compared with the run.

    A report does not load the dataset, so the data themselves are taken to be those of the library; the run has checked
    them when it started.

    Args:
        config: the run's configuration.

    Returns:
        The library; None where there is none, it cannot be read, or it was recorded for another task.
    """
    if config.task_path is None:
        return None
    try:
        library = BeaconLibrary.load(config.task_path)
    except LibraryError:
        return None
    recorded = library.task
    payload = config.task.fingerprint_payload(
        str(recorded.get("data_fingerprint")), int(recorded.get("num_classes") or 0)
    )
    same_task = all(recorded.get(key) == value for key, value in payload.items())
    return library if same_task else None

"""What all that is recorded of a task has in common."""

from autobatch.beacons import CostTable, LibraryInfo
from autobatch.training._trial import BN
from autobatch.training._versions import software_versions
from autobatch.training.data import Data
from autobatch.training.task import TaskSpec


def recording_info(task: TaskSpec, data: Data, costs: CostTable | None = None, command: str = "") -> LibraryInfo:
    """Return what beacons and branch runs of a task have in common.

    Args:
        task: the task.
        data: its data.
        costs: seconds by batch size, where they are to be kept.
        command: the command line that asked for the recording; empty where there was none.

    Returns:
        The common facts.
    """
    return LibraryInfo(
        task=task.fingerprint_payload(data.fingerprint, data.num_classes),
        task_name=task.name,
        score=task.score,
        bn=BN,
        sampling_interval=task.measuring.interval,
        versions=software_versions(),
        commands=(command,) if command else (),
        costs=costs,
    )

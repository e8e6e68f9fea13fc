"""What is known of a run's task before it trains: its beacons, and what a step costs."""

from dataclasses import dataclass
from typing import Any

import torch

from autobatch._errors import LibraryError
from autobatch.beacons import BeaconLibrary, CostTable
from autobatch.control._ranks import Ranks
from autobatch.policies import Policy, TaskInfo
from autobatch.policies.steer import PacingPolicy, ScoutingPolicy
from autobatch.training._calibrate import cached_calibration, covers, kept_calibration
from autobatch.training._engine import scales_its_steps
from autobatch.training._run import RunConfig, RunObserver
from autobatch.training._trial import BN
from autobatch.training.data import Data
from autobatch.training.task import run_task_info


@dataclass(frozen=True)
class KnownBeacons:
    """The beacons of a run's task, or why there are none, and those of the same task at another length."""

    beacons: BeaconLibrary | None
    missing: str | None
    of_other_length: BeaconLibrary | None = None


def told_missing(library: KnownBeacons) -> str:
    if library.of_other_length is None:
        return f"no beacons to follow ({library.missing}): scouts go first"
    return (
        f"the beacons of this task trained {library.of_other_length.epochs} epochs, this run's length is another: it "
        "starts from the best of them, without scouts, and steers by the plan of 'steer'"
    )


@dataclass(frozen=True)
class KnownCosts:
    """A cost table and where it comes from, both None where none is needed."""

    table: CostTable | None
    source: str | None


def info_of(config: RunConfig, data: Data, costs: CostTable | None) -> TaskInfo:
    """Return a run's task as its policy sees it, with what its data say of it."""
    return run_task_info(
        config.task,
        train_size=len(data.train_labels),
        costs=costs,
        seed=config.seed,
        num_classes=data.num_classes,
        shares_loss=data.shares_loss,
        periods=config.periods,
        adaptive=scales_its_steps(config.task, data, trust_code=config.trust_code),
    )


def periods_of(config: RunConfig, data: Data, policy: Policy, library: KnownBeacons) -> int:
    """Return how many decisions a run takes in each epoch: one where it goes by beacons, which were recorded so."""
    recorded = library.beacons is not None or library.of_other_length is not None
    if (policy.needs_library and recorded) or not isinstance(policy, PacingPolicy):
        return 1
    return policy.periods_of_epoch(config.task.batch_sizes, len(data.train_labels), config.task.epochs)


def library_of(config: RunConfig, data: Data, policy: Policy) -> KnownBeacons:
    """Return the beacons of a run's task.

    A policy that does without beacons, or that scouts instead, runs on where they are missing or do not fit.

    Args:
        config: the run's configuration.
        data: its data.
        policy: its policy.

    Returns:
        The beacons, or why there are none.

    Raises:
        LibraryError: the policy needs beacons, and they are missing, damaged or of another task.
    """
    needed = policy.needs_library and not isinstance(policy, ScoutingPolicy)
    if config.recording:
        return KnownBeacons(None, "this run records a beacon itself")
    if config.task_path is None:
        missing = f"the task '{config.task.name}' has no env folder, so no beacons"
        if needed:
            raise LibraryError(f"policy '{config.policy.name}' needs beacons: {missing}")
        return KnownBeacons(None, missing)
    library = None
    try:
        library = BeaconLibrary.load(config.task_path)
        library.check_task(config.task.fingerprint_payload(data.fingerprint, data.num_classes))
        if library.bn != BN:
            raise LibraryError(
                f"the beacon library of '{library.task_name}' has 'bn' {library.bn!r}, here it is {BN!r}"
            )
    except LibraryError as error:
        if needed:
            raise
        # The summary keeps this: it tells nothing of the machine, and is UTF-8 whatever the folder's name is.
        told = str(error).replace(str(config.task_path), config.task_path.name).encode(errors="replace").decode()
        return KnownBeacons(None, told, library if _serves_at_another_length(config, data, library) else None)
    return KnownBeacons(library, None)


def _serves_at_another_length(config: RunConfig, data: Data, library: BeaconLibrary | None) -> bool:
    payload = config.task.fingerprint_payload(data.fingerprint, data.num_classes)
    if library is None or library.bn != BN or not library.is_other_length(payload):
        return False
    try:
        return library.best_fixed().batch_size in config.task.batch_sizes
    except LibraryError:  # all of them diverged
        return False


def costs_of(
    config: RunConfig,
    *,
    data: Data,
    device: torch.device,
    policy: Policy,
    library: KnownBeacons,
    observer: RunObserver,
) -> KnownCosts:
    """Return the one clock that decisions may depend on."""
    budgeted = config.measure and not config.recording
    if not (budgeted or policy.needs_library or isinstance(policy, ScoutingPolicy)):
        return KnownCosts(None, None)
    if config.costs is not None:
        return KnownCosts(config.costs, "kept from the run's start")
    told = Ranks(None, device).first_makes(lambda: _found_costs(config, data, device, library, observer))
    return KnownCosts(CostTable.from_dict(told["table"]), told["source"])


def _found_costs(
    config: RunConfig, data: Data, device: torch.device, library: KnownBeacons, observer: RunObserver
) -> dict[str, Any]:
    """Return what is known of the costs of one process, or is timed now, as JSON-able values."""
    if not config.calibrate:
        known = known_costs(config, data=data, device=device, library=library)
        if known.table is not None:
            return {"table": known.table.to_dict(), "source": known.source}
    table, timed = cached_calibration(
        config.task,
        data,
        device,
        config.task.fingerprint_payload(data.fingerprint, data.num_classes),
        fresh=config.calibrate,
        trust_code=config.trust_code,
        before_timing=lambda: observer.note("timing this machine, a few seconds"),
    )
    source = "timed at the run's start" if timed else "timed on this machine in an earlier run"
    return {"table": table.to_dict(), "source": source}


def known_costs(config: RunConfig, *, data: Data, device: torch.device, library: KnownBeacons) -> KnownCosts:
    """Return the run's cost table and where it comes from before anything is timed; None, None where none is known."""
    beacons = library.beacons or library.of_other_length
    recorded = beacons.costs if beacons is not None else None
    if recorded is not None and covers(recorded, config.task, device):
        return KnownCosts(recorded, "recorded with the beacons on this kind of device")
    payload = config.task.fingerprint_payload(data.fingerprint, data.num_classes)
    kept = kept_calibration(config.task, device, payload)
    return KnownCosts(kept, None if kept is None else "timed on this machine in an earlier run")

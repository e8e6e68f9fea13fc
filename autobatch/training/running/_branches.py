"""What a run's scouts and forks trained, as branch runs: with them a run feeds its task's library and surrogate."""

import math
from collections.abc import Sequence
from pathlib import Path

from autobatch._errors import ConfigError
from autobatch._files import seen_in
from autobatch.beacons import Journey, LibraryInfo
from autobatch.beacons._columns import FINISHED
from autobatch.beacons.storage import BRANCHES
from autobatch.control.run import BRANCH_RUNS, CONFIG, FORKS, SCOUTING, EpochRow, is_loop, load_epochs
from autobatch.policies.steer import Scout
from autobatch.training._run import RunConfig, load_run_config
from autobatch.training.running._scouting import scout_directory

AS_A_SCOUT = "ended as a scout"
"""Why a training stopped that was to be no longer: it is sound, and no whole one."""


def keep_branches(out: Path, journeys: Sequence[Journey], info: LibraryInfo) -> None:
    """Add branch runs to ``branches.parquet`` of a run directory, in place of what a start that was cut left of them.

    Args:
        out: the run directory.
        journeys: the branch runs.
        info: what the run's trainings have in common.

    Raises:
        LibraryError: the file that is there is damaged.
        OutputError: it cannot be written.
    """
    BRANCHES.add(out / BRANCH_RUNS, journeys, info)


def fork_branches(
    config: RunConfig, before: EpochRow | None, tried: Sequence[tuple[EpochRow, str]], *, steered: bool
) -> list[Journey]:
    """Return the epochs of a fork as branches of one state.

    Args:
        config: the run's configuration.
        before: the epoch before the fork; None at the run's beginning.
        tried: each epoch, and ``"finished"`` or why it diverged.
        steered: whether the schedule is the policy's.

    Returns:
        The branches; none of a fork from the beginning, which leaves from no state, of a run that does not measure, as
        a branch run has C̄ and L, and of one whose rate a policy lets fall: branch runs have the task's schedule.
    """
    falls = steered and any(row.lr_effective != row.lr for row, _ in tried)
    if before is None or falls or not _has_place(config, before):
        return []
    return [
        Journey.from_records("branch", config.seed, [before.to_dict(), row.to_dict()], stopped_because)
        for row, stopped_because in tried
        if stopped_because != FINISHED or _has_place(config, row)
    ]


def scout_journeys(config: RunConfig, out: Path, scouts: Sequence[Scout]) -> list[Journey]:
    """Return a run's scouts as journeys that ended early.

    Args:
        config: the run's configuration.
        out: its directory.
        scouts: what they came to.

    Returns:
        The journeys; none of scouts that are not measured, that did not fit into memory, or that train parts of epochs,
        which branch runs have not.

    Raises:
        CheckpointError: a file of a scout is damaged.
    """
    journeys = []
    for scout in scouts if config.periods == 1 else ():
        rows = load_epochs(scout_directory(out, scout.batch_size, scout.lr, config.seed))
        sound = rows[:-1] if scout.ended is not None and scout.ended.startswith("diverged") else rows
        if rows and config.measure and all(_has_place(config, row) for row in sound):
            records = [row.to_dict() for row in rows]
            journeys.append(Journey.from_records("journey", config.seed, records, scout.ended or AS_A_SCOUT))
    return journeys


def runs_with_branches(folder: Path) -> list[Path]:
    """Return the runs whose scouts or forks can feed a library.

    Args:
        folder: a run directory, or a folder of them.

    Returns:
        Those that hold branch runs.

    Raises:
        ConfigError: there is no run, or none that holds branch runs; the message says why.
        CheckpointError: the configuration of a run that holds none is damaged.
    """
    alone = (folder / CONFIG).is_file()
    runs = [folder] if alone else [path.parent for path in seen_in(folder, f"*/{CONFIG}")]
    if not runs:
        raise ConfigError(f"{folder}: expected a run directory or a folder of them, found no run")
    found = [run for run in runs if (run / BRANCH_RUNS).exists()]
    if not found:
        why = "; ".join(dict.fromkeys(map(_why_none, runs)))
        raise ConfigError(f"{folder}: no scout and no fork that could be gathered: {why}")
    return found


def _has_place(config: RunConfig, row: EpochRow) -> bool:
    """Say whether an epoch's C̄ and L are known; with what a policy asks for alone, L lacks all other steps."""
    return config.measure and all(math.isfinite(one) and one > 0.0 for one in (row.c_bar, row.l_cum))


def _why_none(run: Path) -> str:
    if is_loop(run):
        return "a loop of one's own keeps none"
    config = load_run_config(run)
    if not any((run / name).exists() for name in (SCOUTING, FORKS)):
        return f"policy '{config.policy.name}' made none"
    if not config.measure:
        return "the run was not measured, and branch runs have C̄ and L"
    if config.periods > 1:
        return "the run decided within epochs, and branch runs have whole ones"
    return "the scouts are not done, nothing was measured, or an older autobatch trained the run"

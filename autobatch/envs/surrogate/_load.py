"""Loading the dynamics of a task by name: fitted to it and to all tasks that are trained by the same optimizer."""

import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from autobatch._artefacts import artefact_names, find_artefact, holds_beacons
from autobatch._errors import AutoBatchError, ConfigError, near_names
from autobatch._files import seen_in
from autobatch.beacons import BeaconLibrary, Branches, CostTable, holds_branches
from autobatch.envs.surrogate._dynamics import Dynamics, fit_together
from autobatch.envs.surrogate._ensemble import Ensemble
from autobatch.envs.surrogate._epochs import TaskRecords
from autobatch.training import load_task, task_info

Stamp = tuple[tuple[str, int], ...]

STEERED = "steered.parquet"
"""Where an env folder has the journeys that kept no schedule."""


def load_dynamics(env: str | Path) -> Dynamics:
    """Fit the dynamics of a task, or take those of this process.

    Args:
        env: name or path of an env folder.

    Returns:
        The dynamics.

    Raises:
        LibraryError: there are no beacons or no branch runs; the message says how to record them.
    """
    return _of(env, steered=False)


def load_steered(env: str | Path, without: tuple[str, ...] = ()) -> Dynamics:
    """Fit the dynamics of a task whose schedule is an agent's, or take those of this process.

    Journeys that kept no schedule (``steered.parquet`` beside the beacons) are fitted to as well, and branch runs where
    there are some.

    Args:
        env: name or path of an env folder.
        without: names of tasks that nothing is fitted to; the task itself is, whatever its name.

    Returns:
        The dynamics.

    Raises:
        LibraryError: there are no beacons; the message says how to record them.
    """
    return _of(env, steered=True, without=without)


def cost_table(folder: Path, task: str) -> CostTable:
    """Read the cost table of a task from a folder that has one of each, as ``CostTable.to_dict`` gives it.

    Args:
        folder: the folder.
        task: the task's name; its table is ``TASK.json``.

    Returns:
        The table.

    Raises:
        ConfigError: it is missing or damaged; the message names it.
    """
    path = folder / f"{task}.json"
    try:
        return CostTable.from_dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, ConfigError) as error:
        raise ConfigError(f"cost_tables: {path}: expected the cost table of '{task}' there: {error}") from None


def alike(
    library: BeaconLibrary, folder: Path, *, steered: bool = False, without: tuple[str, ...] = ()
) -> list[TaskRecords]:
    """Return what was recorded of the other tasks by the same optimizer.

    Args:
        library: the beacons of a task.
        folder: where they lie.
        steered: whether journeys count that kept no schedule.
        without: names of tasks to leave out.

    Returns:
        The records of all libraries that are found by name, but for this one and those that dynamics cannot use.
    """
    found: list[TaskRecords] = []
    if not _optimizer(library):
        return found
    for other in _libraries():
        try:
            records = _records(other, _stamp(other), steered)
        except AutoBatchError:  # what cannot be used is no help, and no harm either
            continue
        if records.task.name in without:
            continue
        if other != folder.absolute() and _optimizer(records.library) == _optimizer(library):
            found.append(records)
    return found


def _of(env: str | Path, *, steered: bool, without: tuple[str, ...] = ()) -> Dynamics:
    folder = Path(find_artefact("envs", env)).parent.absolute()
    stamps = tuple((other, _stamp(other)) for other in dict.fromkeys([folder, *_libraries()]))
    return _loaded(folder, steered, without, stamps)


def _check_left_out(without: Iterable[str], own: str) -> None:
    """Refuse names of tasks to leave out that nothing is fitted to anyway, and that of the task itself."""
    known = [name for name in artefact_names("envs") if name != own]
    for name in without:
        if name == own:
            raise ConfigError(f"without: '{own}' is the task itself, whose dynamics need what was recorded of it")
        if name not in known:
            raise ConfigError(f"without: there is no task {name!r}; {near_names(name, known)}")


def _libraries() -> list[Path]:
    folders = (find_artefact("envs", name).parent.absolute() for name in artefact_names("envs"))
    return [folder for folder in folders if holds_beacons(folder)]


def _optimizer(library: BeaconLibrary) -> str:
    settings = library.task.get("optimizer")
    return str(settings.get("name")) if isinstance(settings, dict) else ""


def _stamp(folder: Path) -> Stamp:
    parts = [file for pattern in ("*.parquet", "*/*.parquet", "env.yaml") for file in seen_in(folder, pattern)]
    return tuple((str(file), file.stat().st_mtime_ns) for file in parts)


@lru_cache(maxsize=64)
def _records(folder: Path, stamp: Stamp, steered: bool) -> TaskRecords:
    library = BeaconLibrary.load(folder)
    branches = Branches.load(folder) if holds_branches(folder) else None
    file = folder / STEERED
    further = Branches.load(file) if steered and file.exists() else None
    return TaskRecords.of(library, branches, task_info(load_task(folder), library), further)


@lru_cache(maxsize=4)
def _fitted(records: tuple[TaskRecords, ...]) -> list[Ensemble]:
    return fit_together(records)


@lru_cache(maxsize=32)
def _loaded(folder: Path, steered: bool, without: tuple[str, ...], stamps: tuple[tuple[Path, Stamp], ...]) -> Dynamics:
    own = _records(folder, stamps[0][1], steered)
    if not steered:
        Branches.load(folder)  # says how to record them where there are none
    _check_left_out(without, own.task.name)
    others = alike(own.library, folder, steered=steered, without=without)
    records = sorted([own, *others], key=lambda found: found.task.name)
    return Dynamics(own, _fitted(tuple(records))[records.index(own)])

"""Engines by the word that a person gives for them."""

from collections.abc import Sequence
from typing import Any

from autobatch._errors import ConfigError, near_names
from autobatch.cells._command import WorkerCommand
from autobatch.cells._engine import Engine, oversee
from autobatch.cells._ray import RayEngine
from autobatch.cells._slurm import SlurmEngine
from autobatch.cells._store import Cells
from autobatch.cells._work import Tell

LOCAL = "local"
ENGINES = (LOCAL, "slurm", "ray")


def engine_settings(on: str) -> tuple[str, dict[str, Any]]:
    """Read which engine is asked for.

    Args:
        on: its name and, after a colon, settings of its own, such as ``"slurm:partition=gpu,timeout_min=240"``.

    Returns:
        Name and settings.

    Raises:
        ConfigError: there is no such engine, or the settings are none.
    """
    name, _, rest = on.partition(":")
    if name not in ENGINES:
        raise ConfigError(f"--on: there is no engine {name!r}; {near_names(name, ENGINES)}")
    settings = {}
    for part in rest.split(",") if rest else ():
        key, sign, value = part.partition("=")
        if not key or not sign:
            raise ConfigError(f"--on {on}: expected settings such as {name}:KEY=VALUE,KEY=VALUE, got {part!r}")
        settings[key] = _value(value)
    if name == LOCAL and settings:
        raise ConfigError(f"--on {on}: processes of this machine have no settings; --jobs says how many")
    return name, settings


def work_on(
    on: str, cells: Cells, names: frozenset[str], jobs: int, tell: Tell, *, arguments: Sequence[str], cpus: int
) -> None:
    """Work at some of a folder's cells with ``autobatch worker`` on a cluster; leaving ends the workers.

    Args:
        on: the engine, as ``engine_settings`` reads it; another than ``"local"``.
        cells: the folder, which every machine must see under the same path.
        names: the cells.
        jobs: workers, at most.
        tell: told of what happens.
        arguments: options of ``autobatch worker``.
        cpus: processors of each worker, unless the engine's settings say.

    Raises:
        ConfigError: the engine is not installed or not reachable.
        AutoBatchError: a worker could not go on at all; the message says why.
    """
    oversee(engine_on(on, cells, arguments=arguments, cpus=cpus), cells, names, jobs, tell)


def engine_on(on: str, cells: Cells, *, arguments: Sequence[str], cpus: int) -> Engine:
    """Return what starts ``autobatch worker`` on a cluster.

    Args:
        on: the engine, as ``engine_settings`` reads it; another than ``"local"``.
        cells: the folder, which every machine must see under the same path.
        arguments: options of ``autobatch worker``.
        cpus: processors of each worker, unless the engine's settings say.

    Returns:
        The engine.

    Raises:
        ConfigError: it is not installed or not reachable.
    """
    name, settings = engine_settings(on)
    folder = cells.folder.absolute()
    command = WorkerCommand((str(folder), *arguments))
    if name == "slurm":
        return SlurmEngine(command, folder / ".slurm", cpus, settings)
    return RayEngine(command, cpus, settings)


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)

"""Engines by the word that a person gives for them."""

from collections.abc import Sequence
from typing import Any

from autobatch._errors import ConfigError, near_names
from autobatch.cells._command import WorkerCommand
from autobatch.cells._engine import Engine, oversee
from autobatch.cells._local import LocalEngine
from autobatch.cells._plan import Plan
from autobatch.cells._ray import RayEngine
from autobatch.cells._slurm import SlurmEngine
from autobatch.cells._store import Cells
from autobatch.cells._work import Make, Tell, Worker
from autobatch.cells._workers import Identity

LOCAL = "local"
ENGINES = (LOCAL, "slurm", "ray")
RANKS = "ranks"
"""Setting of every engine: how many processes of one machine train each cell together."""


def engine_settings(on: str) -> tuple[str, dict[str, Any]]:
    """Read which engine is asked for.

    Args:
        on: its name and, after a colon, settings of its own, such as ``"slurm:partition=gpu,timeout_min=240"``;
            ``ranks`` is one of all engines.

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
    ranks = settings.get(RANKS, 1)
    if not isinstance(ranks, int) or isinstance(ranks, bool) or ranks < 1:
        raise ConfigError(f"--on {on}: {RANKS}: expected how many processes train each cell, at least 1, got {ranks!r}")
    if name == LOCAL and (others := settings.keys() - {RANKS}):
        raise ConfigError(
            f"--on {on}: processes of this machine have no setting {min(others)!r}, only {RANKS}; --jobs says how many "
            "workers"
        )
    return name, settings


def is_local(on: str) -> bool:
    """Say whether the workers of an engine are processes of this machine."""
    return engine_settings(on)[0] == LOCAL


def ranks_on(on: str) -> int:
    """Return how many processes of one machine train each cell together."""
    return int(engine_settings(on)[1].get(RANKS, 1))


def refuse_ranks(on: str, what: str) -> None:
    """Refuse several processes for what one process trains.

    Args:
        on: the engine, as ``engine_settings`` reads it.
        what: what cannot be trained by several, in words, the plural.

    Raises:
        ConfigError: the engine asks for several.
    """
    if ranks_on(on) > 1:
        raise ConfigError(f"{RANKS}: {what} are trained by one process each; leave it out")


def work_at(
    cells: Cells,
    plan: Plan,
    make: Make,
    jobs: int,
    tell: Tell,
    *,
    on: str = LOCAL,
    arguments: Sequence[str] = (),
    cpus: int = 1,
) -> None:
    """Put the cells of a plan in and work at them: in this process, in several, or on a cluster.

    Args:
        cells: the folder, which every machine must see under the same path.
        plan: what is put in.
        make: returns what trains the cells; picklable, for processes of this machine.
        jobs: workers, at most, which end when this is left; one of this machine is this process, and none leaves the
            cells to whoever works in the folder.
        tell: told of what happens.
        on: what starts the workers, as ``engine_settings`` reads it.
        arguments: options of ``autobatch worker`` on a cluster.
        cpus: processors of each of a worker's processes there, unless the engine's settings say.

    Raises:
        ConfigError: the engine is not installed or not reachable.
        AutoBatchError: a worker could not go on at all; the message says why.
    """
    cells.put(plan)
    names, jobs = frozenset(cell.name for cell in plan.cells), min(jobs, len(plan.cells))
    if jobs == 1 and is_local(on):
        Worker(cells, make, Identity(cells.workers), tell=tell, only=names).run()
    elif jobs:
        there = is_local(on)
        engine = LocalEngine(cells, make, names) if there else engine_on(on, cells, arguments=arguments, cpus=cpus)
        oversee(engine, cells, names, jobs, tell)


def engine_on(on: str, cells: Cells, *, arguments: Sequence[str], cpus: int) -> Engine:
    """Return what starts ``autobatch worker`` on a cluster.

    Args:
        on: the engine, as ``engine_settings`` reads it; another than ``"local"``.
        cells: the folder, which every machine must see under the same path.
        arguments: options of ``autobatch worker``.
        cpus: processors of each of a worker's processes, unless the engine's settings say.

    Returns:
        The engine.

    Raises:
        ConfigError: it is not installed or not reachable.
    """
    name, settings = engine_settings(on)
    folder, ranks = cells.folder.absolute(), settings.pop(RANKS, 1)
    together = ("--ranks", str(ranks)) if ranks > 1 else ()
    command, cpus = WorkerCommand((str(folder), *arguments, *together)), cpus * ranks
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

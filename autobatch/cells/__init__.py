"""Cells: trainings kept as files, which any number of workers on any number of machines work off together.

In come plans (the cells, and what makes them one) and a function that trains one cell; out goes what became of each,
in files beside what it trained. Open ``_store.py`` first.
"""

from autobatch.cells._engine import Crew, Engine
from autobatch.cells._local import LocalEngine
from autobatch.cells._on import LOCAL, engine_on, engine_settings, is_local, ranks_on, refuse_ranks, work_at
from autobatch.cells._plan import MORE_FROM, Cell, CellEnd, Plan
from autobatch.cells._status import CellsStatus, status_of
from autobatch.cells._store import Cells, find_cells
from autobatch.cells._work import Event, GivenBackError, Make, Report, Tell, Work, Worker
from autobatch.cells._workers import Identity, Pace

__all__ = [
    "LOCAL",
    "MORE_FROM",
    "Cell",
    "CellEnd",
    "Cells",
    "CellsStatus",
    "Crew",
    "Engine",
    "Event",
    "GivenBackError",
    "Identity",
    "LocalEngine",
    "Make",
    "Pace",
    "Plan",
    "Report",
    "Tell",
    "Work",
    "Worker",
    "engine_on",
    "engine_settings",
    "find_cells",
    "is_local",
    "ranks_on",
    "refuse_ranks",
    "status_of",
    "work_at",
]

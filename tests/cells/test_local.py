"""Workers that are processes of this machine outlive their accidents."""

import os
from collections import defaultdict
from pathlib import Path

import pytest

from autobatch._errors import ConfigError
from autobatch.cells import Cell, CellEnd, Cells, Plan, Report, Work, status_of, work_at
from tests.cells.toys import Toys, plan_of


def accident_prone(_plan: Plan) -> Work:
    def work(cell: Cell, report: Report) -> CellEnd:
        report(0.5)
        if cell.name == "die":
            os._exit(3)
        if cell.name == "raise":
            raise ValueError("an accident")
        if cell.name == "refuse":
            raise ConfigError("key 'x' is wrong")
        report(1.0)
        return CellEnd(cell.name.upper())

    return work


def named(*names: str) -> Plan:
    return Plan("accidents", {}, {}, tuple(Cell(name, 1.0) for name in names))


@pytest.mark.usefixtures("spawned_workers")
def test_every_cell_is_done_and_accidents_stay_where_they_happen(tmp_path: Path) -> None:
    heard = defaultdict(list)
    plan = named("a", "die", "raise", "refuse", "b")
    work_at(
        Cells(tmp_path), plan, accident_prone, 2, lambda cell, event, value: heard[cell.name].append((event, value))
    )
    for name in ("a", "b"):
        assert heard[name][0] == ("started", None)
        assert heard[name][-1] == ("done", CellEnd(name.upper()))
    # Whichever comes first to the third death: the process that started the worker, or the other worker.
    assert heard["die"][-1] in {
        ("failed", "its process died with exit code 3"),
        ("failed", "its worker died, 3 times over"),
    }
    assert heard["refuse"][-1] == ("failed", "key 'x' is wrong")
    event, message = heard["raise"][-1]
    assert event == "failed"
    assert "ValueError: an accident" in message


def interrupt(cell: Cell, event: str, value: object) -> None:
    if event == "done":
        raise KeyboardInterrupt


def test_leaving_early_ends_the_processes_and_gives_their_cells_back(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        work_at(Cells(tmp_path), plan_of(200), Toys(tmp_path), 2, interrupt)
    status = status_of(Cells(tmp_path))
    assert status.failed == {}
    assert not [one for one in status.running if one.life == "alive"]


def refusing(_plan: Plan) -> Work:
    raise ConfigError("cells of another task")


def test_what_no_worker_may_train_is_said_in_its_words(tmp_path: Path) -> None:
    cells = Cells(tmp_path)
    with pytest.raises(ConfigError, match="cells of another task"):
        work_at(cells, named("a", "b"), refusing, 2, lambda *_: None)
    assert status_of(cells).waiting == 2

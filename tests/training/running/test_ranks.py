"""Runs that two processes train together: the same as one's to round-off, with scouts, forks and sudden ends."""

import json
from pathlib import Path

import pytest

from autobatch.beacons import Branches
from autobatch.control.run import load_summary
from autobatch.training import RunConfig, load_decisions, load_epochs, load_scouting, run
from tests.processes import FORKED
from tests.training.kills import assert_close_runs, assert_same_run

from . import ranks_work as work


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the bodies have left, with their tracebacks."""
    directory = tmp_path_factory.mktemp("ranks")
    processes = [FORKED.Process(target=work.process, args=(rank, directory)) for rank in range(work.RANKS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    for process in processes:
        process.kill()
    return directory


@pytest.mark.parametrize("name", work.BODIES)
def test_in_processes(name: str, place: Path) -> None:
    tracebacks = [path.read_text() for path in sorted(place.glob(f"{name}.*"))]
    assert not tracebacks, "\n".join(tracebacks)
    assert all((place / f"done.{rank}").exists() for rank in range(work.RANKS))


@pytest.mark.parametrize(("name", "config"), [("whole", work.plain), ("scouted", work.scouted)])
def test_a_run_of_several_processes_is_that_of_one(name: str, config: type[RunConfig], place: Path) -> None:
    run(config(), place / f"{name}-alone")
    assert_close_runs(place / name, place / f"{name}-alone")
    assert load_summary(place / name).device.endswith(", 2 processes")
    assert {decision.ranks for decision in load_decisions(place / name)} == {work.RANKS}


def test_an_optimizer_of_ones_own_goes_as_in_one_process(place: Path) -> None:
    """To round-off; its state is kept as bytes, which have no such closeness."""
    run(work.own(), place / "own-alone")
    for mine, theirs in zip(load_epochs(place / "own"), load_epochs(place / "own-alone"), strict=True):
        assert (mine.train_loss, mine.validation_loss) == pytest.approx(
            (theirs.train_loss, theirs.validation_loss), rel=1e-3
        )


def test_scouts_that_were_broken_off_go_on(place: Path) -> None:
    assert_same_run(place / "scouted", place / "scouts-resumed")
    scouting = load_scouting(place / "scouted")
    assert scouting is not None
    assert [scout.won for scout in scouting.scouts].count(True) == 1


@pytest.mark.parametrize("taken", [True, False])
def test_forks_go_as_in_one_process(taken: bool, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work.with_forks(monkeypatch, taken=taken)
    alone, together = place / f"forked-{taken}-alone", place / f"forked-{taken}"
    run(work.forking(), alone)
    assert_close_runs(together, alone)
    found, expected = (json.loads((out / "forks.json").read_text()) for out in (together, alone))
    assert [(fork["epoch"], fork["taken"]) for fork in found] == [(fork["epoch"], fork["taken"]) for fork in expected]
    assert {fork["taken"] for fork in found} == {taken}
    for mine, theirs in zip(*(Branches.load(out).journeys for out in (together, alone)), strict=True):
        assert mine.name == theirs.name
        for figure in ("batch_size", "lr", "steps", "c_bar", "l_cum", "train_loss", "validation_loss"):
            assert mine.rows[figure] == pytest.approx(theirs.rows[figure], rel=1e-3), figure


def test_one_process_goes_on_with_what_two_have_begun(place: Path) -> None:
    run(work.plain(), place / "begun", resume=True)
    assert_close_runs(place / "whole", place / "begun")

"""Cells as files: each is trained to its end once, whatever happens to those that train them."""

import errno
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from autobatch._errors import ConfigError, OutputError
from autobatch._files import append_whole
from autobatch.cells import MORE_FROM, Cell, Cells, Pace, Plan, Worker, find_cells, status_of
from autobatch.cells._workers import Identity, Watcher
from tests.cells.toys import EPOCHS, Toys, plan_of, whole

HASTY = Pace(beat=0.001, patience=0.0, grace=0.0)


def put(folder: Path, plan: Plan, pace: Pace = HASTY) -> Cells:
    cells = Cells(folder, pace)
    cells.put(plan)
    return cells


def worker(folder: Path, toys: Toys, **settings: Any) -> Worker:
    cells = Cells(folder, settings.pop("pace", HASTY))
    settings.setdefault("pause", lambda seconds: None)
    return Worker(cells, toys, Identity(cells.workers), **settings)


@pytest.fixture
def _other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every worker is one of another machine, known by its beats alone."""
    monkeypatch.setattr("autobatch.cells._workers._machine", lambda: "")


class Killed(BaseException):
    pass


class Kill:
    """Ends a worker before or after its n-th change of the disk; a dead one changes nothing more."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, *, after: bool) -> None:
        self.left, self.after, self.dead = at, after, False
        for owner, names in ((Path, ("write_bytes", "write_text", "replace", "unlink", "mkdir")), (os, ("link",))):
            for name in names:
                patch.setattr(owner, name, self._wrapped(getattr(owner, name)))

    def _wrapped(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **settings: Any) -> Any:
            if self.dead:
                raise Killed
            self.left -= 1
            self.dead = self.left < 0
            if self.dead and not self.after:
                raise Killed
            result = change(*arguments, **settings)
            if self.dead:
                raise Killed
            return result

        return wrapped


@pytest.mark.usefixtures("_other_machines")
@pytest.mark.parametrize("after", [False, True])
def test_a_worker_killed_at_any_write_loses_no_cell_and_none_is_written_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    kills = 0
    while True:
        folder = tmp_path / str(kills)
        toys = Toys(folder)
        put(folder, plan_of(2))
        with monkeypatch.context() as patch:
            kill = Kill(patch, kills, after=after)
            with suppress(Killed):
                worker(folder, toys).run()
        if not kill.dead:
            break
        end = worker(folder, toys).run()
        cells = Cells(folder)
        cells.look()
        assert cells.done == {"c0", "c1"}
        assert not end.failed
        assert {path.name for path in folder.glob("*.part")} == {"c0.part", "c1.part"}
        # Its last epoch may have been trained and not kept, its part begun and not been written; nothing else is twice.
        assert len(toys.epochs) <= 2 * EPOCHS + 1
        assert len(toys.parts) <= 2 + 1
        assert status_of(cells).running == ()
        kills += 1
    assert kills > 20


class Full:
    """From the n-th change of the disk on there is no space left, until some is made."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int) -> None:
        self.left = at
        for owner, names in ((Path, ("write_bytes", "write_text", "mkdir")), (os, ("link",))):
            for name in names:
                patch.setattr(owner, name, self._wrapped(getattr(owner, name)))

    def _wrapped(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **settings: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return change(*arguments, **settings)

        return wrapped


@pytest.mark.usefixtures("_other_machines")
def test_a_disk_that_is_full_at_any_write_ends_the_worker_and_fails_no_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = 0
    while True:
        folder = tmp_path / str(at)
        put(folder, plan_of(2))
        with monkeypatch.context() as patch:
            disk = Full(patch, at)
            with suppress(OutputError):
                worker(folder, Toys(folder)).run()
        if disk.left >= 0:
            break
        end = worker(folder, Toys(folder)).run()
        cells = Cells(folder)
        cells.look()
        assert (cells.done, end.failed, status_of(cells).running) == ({"c0", "c1"}, 0, ())
        at += 1
    assert at > 10


def accident(scenario: str, folder: Path, toys: Toys) -> None:
    """What happens before a worker is killed: it gives a cell back, fails, or takes over from a dead one."""
    if scenario == "gives back":
        at = worker(folder, toys)
        toys.before = lambda name, epoch: at.stop() if epoch == 1 else None
    else:
        at = worker(folder, toys)
        if scenario == "fails":
            toys.before = lambda name, epoch: {}["accident"] if epoch == 1 else None
    at.run()


@pytest.mark.usefixtures("_other_machines")
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("scenario", ["gives back", "fails", "takes over"])
def test_a_worker_killed_at_any_write_of_an_accident_leaves_its_cells_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenario: str, after: bool
) -> None:
    kills = 0
    while True:
        folder = tmp_path / str(kills)
        plan = plan_of(1)
        cells = put(folder, plan)
        if scenario == "takes over":
            dead = Identity(cells.workers)
            dead.appear()
            assert cells.claim(plan.cells[0], plan, dead) is not None
            whole(folder / "c0.checkpoint", b"2")
        toys, heir = Toys(folder), Toys(folder)
        with monkeypatch.context() as patch:
            kill = Kill(patch, kills, after=after)
            with suppress(Killed):
                accident(scenario, folder, toys)
        if not kill.dead:
            break
        worker(folder, heir).run()
        if scenario == "fails" and (messages := list(status_of(cells).failed.values())):
            assert "its worker died, 3 times over" in messages[0] or "KeyError" in messages[0]
            cells.put(plan)  # whoever puts it in again has it tried again
            worker(folder, heir).run()
        cells.look()
        assert (cells.done, status_of(cells).running) == ({"c0"}, ())
        assert len(toys.epochs) + len(heir.epochs) <= EPOCHS + 1 - 2 * (scenario == "takes over")
        kills += 1
    assert kills > 5


def test_a_clock_that_jumps_changes_nothing_but_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, plan_of(2))
    hours = iter([0.0, 9e9, -9e9, 0.0, 5e8] * 99)
    monkeypatch.setattr("time.time", lambda: 1e9 + next(hours))
    shown = []

    def look(_name: str, _epoch: int) -> None:
        shown.append(status_of(find_cells(tmp_path)))

    toys = Toys(tmp_path, before=look)
    assert worker(tmp_path, toys, seconds=3600.0).run().done == 2
    assert len(toys.epochs) == 2 * EPOCHS
    assert all(status.seconds >= 0.0 and status.running[0].life == "alive" for status in shown)


def test_many_workers_some_of_them_killed_train_each_cell_once(tmp_path: Path) -> None:
    # In a process of its own, which forks workers and kills them: that is safe where nothing else runs.
    root = Path(__file__).resolve().parents[2]
    code = (
        "import runpy; from pathlib import Path; from autobatch.cells import Pace;"
        "simulate = runpy.run_path('benchmarks/speed/cells.py')['simulate'];"
        f"result = simulate(Path({str(tmp_path)!r}), 60, 6, 4, Pace(beat=0.1, patience=1.5));"
        "print(result.lost, result.twice, result.killed)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True).split() == ["0", "0", "4"]
    assert Cells(tmp_path).clear()
    assert not (tmp_path / ".cells").exists()


@pytest.mark.usefixtures("_other_machines")
def test_of_many_that_see_a_dead_worker_one_takes_its_cell(tmp_path: Path) -> None:
    plan = plan_of(1)
    cells = put(tmp_path, plan)
    dead = Identity(cells.workers)
    dead.appear()
    assert cells.claim(plan.cells[0], plan, dead) is not None
    heirs = [Cells(tmp_path, HASTY) for _ in range(5)]
    for heir in heirs:
        heir.look()
        heir.watcher.life(dead.owner)
    claims = [heir.claim(plan.cells[0], plan, Identity(cells.workers)) for heir in heirs]
    assert sum(claim is not None for claim in claims) == 1


def test_a_beat_counts_by_the_observers_clock_and_one_that_moved_is_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, now = Identity(tmp_path), [0.0]
    other.appear()
    watcher = Watcher(tmp_path, 60.0, clock=lambda: now[0])
    assert watcher.life(other.owner) == "alive"  # a process of this machine
    monkeypatch.setattr(watcher, "_machine", "")
    monkeypatch.setattr("time.time", lambda: pytest.fail("looked at the wall clock"))
    assert watcher.life(other.owner) == "unknown"
    now[0] = 59.0
    other.beat(0.5)
    assert (watcher.life(other.owner), watcher.share(other.owner)) == ("alive", 0.5)
    now[0] = 118.0
    assert watcher.life(other.owner) == "alive"
    now[0] = 120.0
    assert watcher.life(other.owner) == "dead"


def test_a_process_of_this_machine_that_is_gone_is_known_at_once(tmp_path: Path) -> None:
    gone = Identity(tmp_path)
    child = os.fork()
    if not child:
        gone.appear()
        os._exit(0)
    os.waitpid(child, 0)
    if Watcher(tmp_path, 60.0)._machine:
        assert Watcher(tmp_path, 60.0).life(gone.owner) == "dead"


@pytest.mark.usefixtures("_other_machines")
def test_a_worker_that_counted_as_dead_writes_nothing_once_it_wakes(tmp_path: Path) -> None:
    put(tmp_path, plan_of(1))
    heir = Toys(tmp_path)

    def sleep(_name: str, epoch: int) -> None:
        if epoch == 1:
            worker(tmp_path, heir).run()

    sleeper = Toys(tmp_path, before=sleep)
    end = worker(tmp_path, sleeper, pace=Pace(beat=60.0)).run()
    assert (heir.parts, sleeper.parts, end.done) == (["c0"], [], 0)


def test_a_failing_cell_is_tried_a_stated_number_of_times_and_the_rest_goes_on(tmp_path: Path) -> None:
    put(tmp_path, plan_of(3))
    tried = Counter[str]()

    def fail(name: str, epoch: int) -> None:
        tried[name] += epoch == 0
        if name == "c0":
            raise ValueError("an accident")
        if name == "c1":
            raise ConfigError("key 'x' is wrong")

    told: dict[str, object] = {}
    failing = worker(tmp_path, Toys(tmp_path, before=fail), tell=lambda cell, event, value: told.update({event: value}))
    end = failing.run()
    assert (end.done, end.failed, tried) == (1, 2, {"c0": 3, "c1": 1, "c2": 1})
    status = status_of(find_cells(tmp_path))
    assert (status.done, status.waiting, status.failed["c1"]) == (1, 0, "key 'x' is wrong")
    assert "ValueError: an accident" in status.failed["c0"]
    put(tmp_path, plan_of(3))  # whoever puts them in again has them tried again
    toys = Toys(tmp_path)
    worker(tmp_path, toys).run()
    assert sorted(toys.parts) == ["c0", "c1"]


@pytest.mark.usefixtures("_other_machines")
def test_a_cell_that_kills_its_workers_is_given_up_unless_each_brings_it_further(tmp_path: Path) -> None:
    plan = plan_of(1)
    cells = put(tmp_path, plan)
    reached = [0.0, 0.2, 0.4, 0.4, 0.4]
    attempts = []
    for share in reached:
        victim = Identity(cells.workers)
        victim.appear()
        cells.look()
        cells.latest("c0").get("owner") and cells.watcher.life(cells.latest("c0")["owner"])
        claim = cells.claim(plan.cells[0], plan, victim)
        assert claim is not None
        attempts.append(claim.attempt)
        victim.beat(share)
    assert attempts == [1, 2, 1, 1, 2]
    worker(tmp_path, Toys(tmp_path, before=lambda *_: os.abort())).cells.pace.attempts  # noqa: B018
    victim = Identity(cells.workers)
    victim.appear()
    for _ in range(2):
        cells.look()
        cells.watcher.life(cells.latest("c0").get("owner", ""))
        cells.claim(plan.cells[0], plan, victim)
    cells.look()
    assert "died, 3 times over" in status_of(cells).failed["c0"]


def test_a_full_disk_ends_the_worker_and_leaves_the_cells(tmp_path: Path) -> None:
    put(tmp_path, plan_of(2))

    def full(_name: str, _epoch: int) -> None:
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            raise OutputError("checkpoint: cannot be written: No space left on device") from None

    with pytest.raises(OutputError, match="No space left"):
        worker(tmp_path, Toys(tmp_path, before=full)).run()
    status = status_of(find_cells(tmp_path))
    assert (status.waiting, status.failed, status.running) == (2, {}, ())


def test_a_line_that_a_full_disk_takes_half_of_ends_the_worker_too(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    put(tmp_path, plan_of(1))

    def write(_name: str, _epoch: int) -> None:
        append_whole(tmp_path / "log", b"x" * 6000)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        for _ in range(4):  # more often than a cell may fail
            with pytest.raises(OutputError, match=r"log: cannot be written: (the disk is full|File too large)"):
                worker(tmp_path, Toys(tmp_path, before=write)).run()
            assert (tmp_path / "log").stat().st_size == 6000
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status_of(find_cells(tmp_path)).waiting == 1


def test_what_a_worker_has_left_that_was_killed_at_clearing_goes_with_the_rest(tmp_path: Path) -> None:
    put(tmp_path, plan_of(1))
    (tmp_path / ".cells-0123abcd" / "log").mkdir(parents=True)
    worker(tmp_path, Toys(tmp_path)).run()
    assert Cells(tmp_path).clear()
    assert not list(tmp_path.glob(".cells*"))


def test_a_shared_folder_that_vanishes_for_a_while_is_waited_for(tmp_path: Path) -> None:
    put(tmp_path, plan_of(2))
    folder, away, pauses = tmp_path, tmp_path.with_name(f"{tmp_path.name}-away"), []

    def vanish(name: str, epoch: int) -> None:
        if (name, epoch) == ("c0", 0):
            (folder / ".cells").rename(away)
            raise ValueError("gone")

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            away.rename(folder / ".cells")

    toys = Toys(tmp_path, before=vanish)
    toys.before = lambda name, epoch: None if pauses else vanish(name, epoch)
    end = worker(tmp_path, toys, pace=Pace(beat=60.0), pause=pause).run()
    assert (end.done, len(pauses)) == (2, 3)


def test_a_training_that_cannot_write_while_the_folder_is_gone_goes_on_once_it_is_back(tmp_path: Path) -> None:
    folder, away, pauses = tmp_path / "shared", tmp_path / "away", []
    folder.mkdir()
    put(folder, plan_of(2))

    def vanish(name: str, epoch: int) -> None:
        if (name, epoch) == ("c0", 1) and not pauses:
            folder.rename(away)

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            away.rename(folder)

    toys = Toys(folder, before=vanish)
    end = worker(folder, toys, pace=Pace(beat=60.0, attempts=2), pause=pause).run()
    assert (end.done, end.failed, len(pauses)) == (2, 0, 3)
    assert Counter(toys.epochs) == {"c0": EPOCHS + 1, "c1": EPOCHS}  # of the epoch that could not be kept


def test_a_cell_that_fails_again_and_again_goes_on_for_as_long_as_it_comes_further(tmp_path: Path) -> None:
    put(tmp_path, plan_of(1))
    failed = Counter[int]()

    def fail(_name: str, epoch: int) -> None:
        failed[epoch] += 1
        if failed[epoch] < 3:
            raise ValueError("an accident")

    assert worker(tmp_path, Toys(tmp_path, before=fail)).run().done == 1
    assert failed == dict.fromkeys(range(EPOCHS), 3)


def test_two_versions_of_the_code_do_not_share_a_folder(tmp_path: Path) -> None:
    put(tmp_path, plan_of(1, code="1111"))
    with pytest.raises(ConfigError, match=r"'code' is .1111., here it is .2222.; finish them"):
        put(tmp_path, plan_of(1, code="2222"))

    class Other(Toys):
        def __call__(self, plan: Plan) -> Any:
            plan.check("toys", plan_of(1, code="2222").fingerprint, self.folder)

    with pytest.raises(ConfigError, match=r"'code' is .1111."):
        worker(tmp_path, Other(tmp_path)).run()
    assert status_of(find_cells(tmp_path)).waiting == 1
    with pytest.raises(ConfigError, match="holds no cells"):
        find_cells(tmp_path / "elsewhere")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_worker_that_is_asked_to_stop_gives_its_cell_back_with_what_is_done(tmp_path: Path, number: int) -> None:
    put(tmp_path, plan_of(2))
    stopped = Toys(tmp_path, before=lambda name, epoch: os.kill(os.getpid(), number) if epoch == 1 else None)
    first = worker(tmp_path, stopped, pace=Pace(grace=30.0))
    with first.signals():
        end = first.run()
    assert (end.done, end.stopped, stopped.epochs) == (0, True, ["c0", "c0"])
    assert status_of(find_cells(tmp_path)).waiting == 2
    toys = Toys(tmp_path)
    assert worker(tmp_path, toys).run().done == 2
    assert Counter(toys.epochs) == {"c0": 1, "c1": EPOCHS}


def test_a_time_limit_ends_an_epoch_that_takes_too_long(tmp_path: Path) -> None:
    put(tmp_path, plan_of(1))
    slow = Toys(tmp_path, before=lambda name, epoch: signal.pause())
    limited = worker(tmp_path, slow, seconds=0.02)
    with limited.signals():
        end = limited.run()
    assert (end.done, end.stopped, slow.epochs) == (0, True, [])


def test_a_file_system_without_links_has_claims_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refused)
    plan = plan_of(1)
    cells = put(tmp_path, plan)
    assert cells.claim(plan.cells[0], plan, Identity(cells.workers)) is not None
    assert cells.claim(plan.cells[0], plan, Identity(cells.workers)) is None


def test_finished_cells_are_remembered_and_not_listed_at_every_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, plan_of(200))
    done = tmp_path / ".cells" / "done"
    for number in range(0, 200, 2):  # which others have finished
        (done / f"c{number}").write_text("{}")
    listed, listdir = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda place: (listed.append(Path(place)), listdir(place))[1])
    monkeypatch.setattr("autobatch.cells._work._LOOK_AGAIN", -1.0)
    assert worker(tmp_path, Toys(tmp_path)).run().done == 100
    assert listed.count(done.parent / "log") > 100
    assert listed.count(done) <= 4


def test_a_worker_sees_a_cell_that_was_done_and_is_put_in_again(tmp_path: Path) -> None:
    put(tmp_path, plan_of(2))

    def again(name: str, epoch: int) -> None:
        if (name, epoch, len(toys.epochs)) == ("c1", 0, EPOCHS):
            (tmp_path / "c0.part").unlink()
            (tmp_path / "c0.checkpoint").unlink()
            put(tmp_path, Plan("toys", plan_of(2).fingerprint, {}, plan_of(2).cells[:1]))

    toys = Toys(tmp_path, before=again)
    assert worker(tmp_path, toys).run().done == 3
    assert toys.parts == ["c0", "c1", "c0"]


def test_workers_that_reach_for_the_same_cells_go_out_of_one_anothers_way(tmp_path: Path) -> None:
    put(tmp_path, plan_of(300))
    mine, other = worker(tmp_path, Toys(tmp_path)), worker(tmp_path, Toys(tmp_path))
    assert mine._next() is not None
    tried, claim = [], Cells.claim
    mine.cells.claim = lambda cell, *rest: (tried.append(cell.name), claim(mine.cells, cell, *rest))[1]  # type: ignore[method-assign]
    taken = {other._next().cell.name for _ in range(200)}  # type: ignore[union-attr]
    found = mine._next()
    assert found is not None
    assert len(tried) < 60
    assert found.cell.name not in taken
    while mine._next() is not None:
        pass
    mine.cells.look()
    assert len(mine.cells.numbers) == 300


def test_a_cell_is_as_it_was_put_in_last(tmp_path: Path) -> None:
    plans = [Plan("toys", {}, {"command": command}, plan_of(2).cells) for command in ("a", "b", "c", "a")]
    for plan in plans:
        cells = put(tmp_path, plan)
        assert {plan.work["command"] for _, plan in cells.cells().values()} == {plan.work["command"]}
    assert len(put(tmp_path, plans[-1]).plans()) == 4


def test_a_worker_stays_for_as_long_as_somebody_puts_more_in(tmp_path: Path) -> None:
    giver = Identity(Cells(tmp_path).workers)
    giver.appear()

    def give(turn: int) -> None:
        put(tmp_path, Plan("toys", {}, {MORE_FROM: giver.owner}, (Cell(f"turn{turn}", 1.0),)))

    def pause(_seconds: float) -> None:
        pauses.append(len(toys.parts))
        assert not Cells(tmp_path).clear()
        if len(pauses) < 3:
            give(len(pauses))
        else:
            giver.leave()

    toys, pauses = Toys(tmp_path), list[int]()
    give(0)
    assert worker(tmp_path, toys, pause=pause).run().done == 3
    assert (toys.parts, pauses) == (["turn0", "turn1", "turn2"], [1, 2, 3])
    assert Cells(tmp_path).clear()


def test_cells_are_abandoned_unless_another_has_one_in_hand(tmp_path: Path) -> None:
    plan = plan_of(2)
    cells = put(tmp_path, plan)
    mine = Identity(cells.workers)
    mine.appear()
    assert cells.claim(plan.cells[0], plan, mine) is not None
    cells.abandon()
    assert status_of(cells).total == 2
    mine.leave()
    other = Cells(tmp_path, HASTY)
    other.abandon()
    assert cells.home.exists()  # it may only be out of sight
    other.abandon()
    assert not cells.home.exists()


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a~1"])
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, name: str) -> None:
    plan = plan_of(1)
    cell = plan.cells[0].__class__(name, 1.0)
    with pytest.raises(ConfigError, match="a name that a file can have"):
        put(tmp_path, Plan("toys", {}, {}, (cell,)))

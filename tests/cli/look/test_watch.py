"""``autobatch watch``: a run directory that grows, one that is finished, one that is none."""

import io
import json
import math
import os
import shutil
from dataclasses import replace

import pytest
import typer
from rich.cells import cell_len
from rich.console import Console

from autobatch._files import alone_in
from autobatch.cli.look import _watch
from autobatch.cli.look._watch import follow
from autobatch.policies._wording import brief
from autobatch.report import read_run
from autobatch.report._follow import RunLines, RunWatch, silence_words
from autobatch.report._watch import seconds_left, sparkline, watch_view

JSONL = ("epochs.jsonl", "decisions.jsonl")
NOON = 1_700_000_000.0


class GrowingRun:
    """A finished run told again: every ``sleep`` brings more of its lines, half a line at a time.

    Args:
        source: the finished run.
        place: where it grows.
    """

    def __init__(self, source, place) -> None:
        self.source, self.place, self.now = source, place, NOON
        place.mkdir()
        shutil.copyfile(source / "config.yaml", place / "config.yaml")
        os.utime(place / "config.yaml", (NOON, NOON))
        self._steps = self._script()

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        next(self._steps)

    def _script(self):
        epochs, decisions = ((self.source / name).read_text().splitlines(True) for name in JSONL)
        self._append("decisions.jsonl", decisions[0])
        yield
        for number, line in enumerate(epochs, start=1):
            of_it = [one for one in decisions[1:] if json.loads(one)["epoch"] == number]
            self._append("decisions.jsonl", "".join(of_it))
            self._append("epochs.jsonl", line[:50])
            yield
            self._append("epochs.jsonl", line[50:])
            yield
        shutil.copyfile(self.source / "summary.json", self.place / "summary.json")
        yield

    def _append(self, name: str, text: str) -> None:
        with (self.place / name).open("a") as file:
            file.write(text)
        os.utime(self.place / name, (self.now, self.now))


@pytest.fixture
def growing(home):
    return GrowingRun(home / "runs" / "follow", home / "growing")


@pytest.fixture
def watch(capsys):
    """Call the command with its options; returns exit code, stdout and stderr."""

    def call(run, *, wait=0.0):
        capsys.readouterr()
        code = 0
        try:
            _watch.watch(run, interval=0.1, wait=wait)
        except typer.Exit as stop:
            code = stop.exit_code
        return code, *capsys.readouterr()

    return call


def screen(*, terminal: bool, width: int = 80) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, height=24, legacy_windows=False)


def test_lines_come_once_an_epoch_then_the_summary(growing):
    target = screen(terminal=False, width=160)
    follow(RunWatch(growing.place, lambda: growing.now), target, 2.0, growing.sleep)
    told = target.file.getvalue()
    lines = [line for line in told.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]
    assert told.index("→ start with s") < told.index("epoch 1/4")
    assert "Verdict" in told
    for decision in read_run(growing.place).decisions:
        assert not decision.changed or brief(decision.reason) in told
    assert "Nothing new" not in told


def test_the_screen_shows_the_run_and_gives_way_to_the_summary(growing):
    target = screen(terminal=True)
    follow(RunWatch(growing.place, lambda: growing.now), target, 2.0, growing.sleep)
    told = target.file.getvalue()
    for phrase in ("no epoch is finished yet", "epoch 2/4", "Last change", "Best beacon", "Ctrl-C leaves", "Verdict"):
        assert phrase in told
    assert not [path for path in growing.place.iterdir() if path.name not in {*JSONL, "config.yaml", "summary.json"}]


def test_a_screen_fits_80_columns_and_24_lines(home):
    record = replace(read_run(home / "runs" / "follow"), summary=None)
    row = replace(record.epochs[-1], c_bar=123456.7, l_cum=98765.4, validation_error=0.8998, batch_size=4096)
    record = replace(record, epochs=[replace(row, epoch=epoch, seconds=100.0 * epoch) for epoch in range(1, 101)])
    record = replace(record, decisions=[replace(record.decisions[0], reason="of [bold] sizes [8, 16]")])
    target = Console(file=io.StringIO(), width=80)
    target.print(watch_view(record, silence=1.0, height=24))
    lines = target.file.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert "1 min 40 s" in target.file.getvalue()
    assert "at the start: of [bold] sizes [8, 16]" in target.file.getvalue()
    assert "123,457  98,765" in target.file.getvalue()
    assert len(lines) <= 24


def test_the_time_left_is_that_of_the_last_epochs_at_this_batch_size(home):
    record = read_run(home / "runs" / "follow")
    first, last = replace(record.epochs[0], batch_size=8, seconds=10.0), replace(record.epochs[1], batch_size=32)
    record = replace(record, epochs=[first, replace(last, epoch=2, seconds=13.0)])
    assert seconds_left(record, silence=1.0) == pytest.approx(2 * 3.0 - 1.0)
    assert seconds_left(record, silence=500.0) == pytest.approx(3.0)  # no more than this one epoch can be over


def test_a_long_silence_is_told_once_and_not_taken_for_an_end(home):
    record = replace(read_run(home / "runs" / "follow"), summary=None)
    assert silence_words(record, 30.0) is None
    assert "autobatch run --resume" in silence_words(record, 3600.0)
    lines = RunLines()
    assert sum("Nothing new" in line for silence in (3600.0, 3700.0) for line in lines.new(record, silence)) == 1
    slow = replace(record, epochs=[replace(record.epochs[0], seconds=1000.0)])
    assert silence_words(slow, 3600.0) is None
    assert silence_words(replace(record, epochs=[]), 300.0) is None


def test_a_run_that_goes_back_to_its_checkpoint_is_told_again(home):
    record = replace(read_run(home / "runs" / "follow"), summary=None)
    lines = RunLines()
    lines.new(record, 0.0)
    shorter = replace(record, epochs=record.epochs[:2])
    assert [line.split(":")[0] for line in lines.new(shorter, 0.0)] == ["the run went back to epoch 2"]
    assert [line.split()[1] for line in lines.new(record, 0.0) if line.startswith("epoch")] == ["3/4", "4/4"]


def test_sparklines():
    assert sparkline([1.0, 10.0, 100.0]) == "▁▅█"
    assert sparkline([0.0, float("nan"), 0.5, 0.1]) == "▁ █▁"
    assert sparkline([64.0, 64.0]) == "▁▁"
    assert len(sparkline([float(value) for value in range(1000)], width=40)) == 40
    assert sparkline([]) == ""


def test_a_finished_run_shows_its_summary(home, watch):
    before = {path: path.stat().st_mtime_ns for path in (home / "runs" / "follow").iterdir()}
    code, out, err = watch(home / "runs" / "follow")
    assert (code, err) == (0, "")
    assert "epoch 4/4" in out
    assert "Verdict" in out
    assert {path: path.stat().st_mtime_ns for path in (home / "runs" / "follow").iterdir()} == before


def test_what_is_no_run_is_refused_with_near_names(home, watch):
    from autobatch import CheckpointError

    with pytest.raises(CheckpointError, match=r"runs/folow: holds no run .* did you mean 'follow'\?"):
        watch(home / "runs" / "folow")
    with pytest.raises(CheckpointError, match=r"--wait SECONDS"):
        watch(home / "envs")


def test_ctrl_c_leaves_quietly(home, watch, monkeypatch):
    (home / "runs" / "follow" / "summary.json").unlink()

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(follow, "__defaults__", (interrupt,))
    code, out, err = watch(home / "runs" / "follow")
    assert (code, err) == (130, "")
    assert "epoch 4/4" in out


def test_a_run_that_nobody_trains_any_more_is_told(home):
    place, clock = home / "runs" / "follow", Clock()
    (place / "summary.json").unlink()
    clock.now = math.ceil((place / "epochs.jsonl").stat().st_mtime)  # whole, so that ten seconds are ten
    watched = RunWatch(place, lambda: clock.now)
    record, lines = watched.look(), RunLines()
    assert watched.silence() < 5.0
    with alone_in(place, busy="somebody"):  # it is trained
        clock.now += 10.0
        assert watched.silence() >= 10.0
        assert not math.isinf(watched.silence())
        assert not any("No process" in line for line in lines.new(record, watched.silence()))
        clock.now += 15.0
    assert math.isinf(watched.silence())  # looked at again
    told = [line for _ in range(2) for line in lines.new(watched.look(), watched.silence()) if "No process" in line]
    assert told == [f"No process on this machine is seen to train this run: {record.how_to_go_on}."]
    shown = io.StringIO()
    Console(file=shown, width=80).print(watch_view(record, watched.silence()))
    assert "is seen to train this run" in shown.getvalue().replace("\n", " ")


class Clock:
    now = 0.0

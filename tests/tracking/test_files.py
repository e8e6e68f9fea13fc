"""CSV and JSON Lines: what is in the files, and what is left of them after a fault."""

import csv
import json
import math
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch import OutputError
from autobatch.tracking import CSVLogger, JSONLinesLogger, Scalar
from tests.tracking.records import both, log_all, record, training

FileLogger = type[CSVLogger] | type[JSONLinesLogger]


def rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in file]
        return list(csv.DictReader(file, strict=True))


def steps(path: Path) -> list[int]:
    return [int(row["step"]) for row in rows(path)]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond ``size`` bytes, as on a full disk."""
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_csv_file_reads_as_a_table(tmp_path: Path) -> None:
    log_all(CSVLogger(tmp_path / "new" / "folder" / "log.csv"), training())
    path = tmp_path / "new" / "folder" / "log.csv"
    assert path.read_text(encoding="utf-8").splitlines()[:2] == [
        "step,epoch,progress,c_bar,region_c,batch_size,changed,reason,limit,validation_loss",
        '0,0,0.0,,,32,true,"C̄ is below the region, “größer”, ×2",,nan',
    ]
    table = pd.read_csv(path)
    assert table.step.tolist() == [0, 1000, 2000, 3000]
    assert table.changed.tolist() == [True, False, True, False]
    assert table.validation_loss[1:].tolist() == [1, 1 / 2, 1 / 3]
    assert table.reason[3] == "stay, 保持 in line 2"
    assert table.region_c.isna().all()


def test_json_lines_hold_the_values_and_null_for_what_is_not_finite(tmp_path: Path) -> None:
    logger = JSONLinesLogger(tmp_path / "log.jsonl")
    log_all(logger, training())
    logger.log({"train_loss": math.inf, "c_bar": -math.inf, "lone surrogate": "\udcff"}, 4000)
    *read, last = rows(tmp_path / "log.jsonl")
    expected = [{"step": step, **each} for each, step in training()]
    expected[0]["validation_loss"] = None
    assert read == expected
    assert last == {"step": 4000, "train_loss": None, "c_bar": None, "lone surrogate": "\udcff"}


def test_csv_columns_that_come_later_are_added_and_missing_figures_are_empty(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path / "log.csv")
    logger.log({"a": 1, "text": 'with "quotes", commas'}, 0)
    logger.log({"b\nroken": 2, "a": 3}, 10)
    logger.log({"b\nroken": 4}, 20)
    assert (tmp_path / "log.csv").read_text() == (
        'step,a,text,b roken\n0,1,"with ""quotes"", commas",\n10,3,,2\n20,,,4\n'
    )


@both
def test_a_record_cannot_change_its_step(logger: FileLogger, name: str, tmp_path: Path) -> None:
    logger(tmp_path / name).log({"step": 5, "a": 1}, 7)
    assert steps(tmp_path / name) == [7]


@both
@pytest.mark.parametrize("told", [False, True], ids=["not told", "told"])
@pytest.mark.parametrize("kept", [1, 2, 3])
def test_a_resumed_training_leaves_the_file_of_an_uninterrupted_one(
    logger: FileLogger, name: str, told: bool, kept: int, tmp_path: Path
) -> None:
    log_all(logger(tmp_path / name), training())
    whole = (tmp_path / name).read_bytes()
    for cut in range(len(whole) // 2, len(whole), 7):  # killed while the file was at most that long
        (tmp_path / name).write_bytes(whole[:cut])
        complete = whole[:cut].count(b"\n") - (logger is CSVLogger)
        again = logger(tmp_path / name)
        if told:
            again.resume(1000 * min(kept, complete) - 1)
        log_all(again, training()[min(kept, complete) :])
        again.close()
        assert (tmp_path / name).read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == [name]


@both
def test_resume_drops_what_came_after_the_checkpoint(logger: FileLogger, name: str, tmp_path: Path) -> None:
    log_all(logger(tmp_path / name), training())
    again = logger(tmp_path / name)
    again.resume(1000)
    assert steps(tmp_path / name) == [0, 1000]
    again.log(record(2), 1500)  # other decisions than before
    assert steps(tmp_path / name) == [0, 1000, 1500]


@both
def test_a_training_that_begins_anew_keeps_the_older_file(logger: FileLogger, name: str, tmp_path: Path) -> None:
    for times in range(3):
        each = logger(tmp_path / name)
        each.log({"run": times}, 0)
        each.log({"run": times, "extra": None}, 10)
    stem, _, suffix = name.partition(".")
    assert {path.name for path in tmp_path.iterdir()} == {name, f"{stem}.1.{suffix}", f"{stem}.2.{suffix}"}
    runs = [[int(row["run"]) for row in rows(tmp_path / file)] for file in (f"{stem}.1.{suffix}", name)]
    assert runs == [[0, 0], [2, 2]]


@both
def test_a_training_that_goes_back_replaces_its_records(logger: FileLogger, name: str, tmp_path: Path) -> None:
    each = logger(tmp_path / name)
    for step in (0, 0, 10, 20, 30, 20, 25, 0, 5):
        each.log({"a": step}, step)
    assert steps(tmp_path / name) == [0, 5]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@both
def test_a_file_that_is_removed_meanwhile_is_begun_again(logger: FileLogger, name: str, tmp_path: Path) -> None:
    each = logger(tmp_path / name)
    log_all(each, training()[:2])
    (tmp_path / name).unlink()
    log_all(each, training()[2:])
    assert steps(tmp_path / name) == [2000, 3000]
    assert steps(tmp_path / name) == [int(row["step"]) for row in rows(tmp_path / name)]


@both
def test_paths_that_cannot_be_written(logger: FileLogger, name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot be written: (Not a directory|File exists)"):
        logger(tmp_path / "file" / name)
    with pytest.raises(OutputError, match="expected a file"):
        logger(tmp_path)
    with pytest.raises(OutputError, match="cannot be written"):
        logger(tmp_path / "\0")


@both
@pytest.mark.parametrize(
    "content",
    ["notes of mine", "notes\nof mine\n", '{"a": 1}', '{\n  "step": 1\n}\n', '{"step": "one"}\n', "step,a\n1,2,3\n"],
)
def test_a_file_of_something_else_is_refused_and_left_alone(
    logger: FileLogger, name: str, content: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(OutputError, match="choose another file"):
        logger(tmp_path / name)
    assert (tmp_path / name).read_text() == content


@both
def test_a_damaged_line_is_named(logger: FileLogger, name: str, tmp_path: Path) -> None:
    log_all(logger(tmp_path / name), training())
    lines = (tmp_path / name).read_bytes().split(b"\n")
    lines[2] = b"\xff\0\0"
    (tmp_path / name).write_bytes(b"\n".join(lines))
    with pytest.raises(OutputError, match="line 3: expected a record with a step"):
        logger(tmp_path / name)


@both
def test_a_full_disk_leaves_whole_lines_and_a_logger_that_goes_on(
    logger: FileLogger, name: str, tmp_path: Path
) -> None:
    each = logger(tmp_path / name)
    log_all(each, training()[:2])
    before = (tmp_path / name).read_bytes()
    with largest_file(len(before) + 20):
        with pytest.raises(OutputError, match="cannot be written"):
            each.log(record(2), 2000)
        with pytest.raises(OutputError, match="cannot be written"):
            each.log(record(2, new="x" * 200), 2000)
        with pytest.raises(OutputError, match="cannot be written"):
            each.log(record(2, new="x" * 2000), 1000)
    assert steps(tmp_path / name)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == [name]
    each.log(record(3), 3000)
    assert steps(tmp_path / name)[-1] == 3000


@both
def test_a_relative_path_stays_where_it_was(
    logger: FileLogger, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / name)
    monkeypatch.chdir(tmp_path)
    each, linked = logger(name), logger("link")
    monkeypatch.chdir(tmp_path / "elsewhere")
    each.log({}, 1)
    linked.log({"a": 1}, 2)
    linked.log({"a": 1, "b": 2}, 1)
    assert steps(tmp_path / name) == [1]
    assert steps(tmp_path / "elsewhere" / name) == [1]
    assert (tmp_path / "link").is_symlink()
    assert each.path == tmp_path / name


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@both
@given(
    figures=st.lists(
        st.tuples(st.dictionaries(st.sampled_from(["a", "b", 'c, "d"', "é"]), values), st.integers(0, 50)), max_size=8
    )
)
def test_any_records_can_be_read_back(
    logger: FileLogger,
    name: str,
    figures: list[tuple[dict[str, Scalar], int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("log") / name
    expected: dict[int, dict[str, Scalar]] = {}
    make: Callable[[], CSVLogger | JSONLinesLogger] = lambda: logger(path)  # noqa: E731
    each = make()
    for number, (figure, step) in enumerate(figures):
        each.log(figure, step)
        expected = {at: kept for at, kept in expected.items() if at < step} | {step: figure}
        if number % 3 == 2 and min(expected) < step:
            each = make()
    assert steps(path) == list(expected)
    for row, figure in zip(rows(path), expected.values(), strict=True):
        assert all(row[key] in {None, ""} for key in set(row) - set(figure) - {"step"})
        for key, value in figure.items():
            if logger is JSONLinesLogger:
                finite = not isinstance(value, float) or math.isfinite(value)
                assert row[key] == (value if finite else None)
            elif isinstance(value, float):
                assert float(row[key]) == value or math.isnan(value)

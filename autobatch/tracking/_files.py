"""Records in a file, one a line: CSV for spreadsheets and pandas, JSON Lines for programs."""

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from autobatch._artefacts import expand_home
from autobatch._errors import OutputError
from autobatch._files import append_whole, naming_output, write_whole
from autobatch.tracking._protocol import Scalar


class _Line(NamedTuple):
    """A record as it stands in the file: its step, and the line without the newline at its end."""

    step: int
    text: str


class FileLogger:
    """Writes a line a record, in ascending order of their steps; the file is appended to and never left half-written.

    Args:
        path: the file; its folders are made.

    Attributes:
        path: the file.

    Raises:
        OutputError: the path cannot be written, or the file holds something else.
    """

    _start: ClassVar[str]
    """What each file of this kind begins with."""

    _with_header: ClassVar[bool]
    """Whether its first line is no record."""

    def __init__(self, path: str | Path) -> None:
        try:
            with naming_output(Path(path)):
                self.path = expand_home(str(path)).resolve()
                self.path.parent.mkdir(parents=True, exist_ok=True)
                if self.path.exists() and not self.path.is_file():
                    raise OutputError(f"{self.path}: expected a file")
                self.path.open("ab").close()
        except ValueError as error:  # a name that no file can have, such as one with a null byte
            raise OutputError(f"{Path(path)}: cannot be written: {error}") from None
        self._header = ""
        lines = self._lines()
        self._last = lines[-1].step if lines else None
        self._found = bool(lines)

    def log(self, record: Mapping[str, Scalar], step: int) -> None:
        """Write a record: the whole line or, where the disk is full, nothing of it."""
        self._make_room(step)
        header, text = self._written(record, step)
        if header == self._header:
            append_whole(self.path, _bytes(text))
            self._last = step
        else:
            more = len(_cells(header)) - len(_cells(self._header))
            older = [_Line(line.step, line.text + "," * more) for line in self._lines()]
            self._rewrite(header, [*older, _Line(step, text)])

    def resume(self, step: int) -> None:
        """Drop the records after ``step``, training examples seen where the training goes on."""
        if self._last is not None and step < self._last:
            kept = [line for line in self._lines() if line.step <= step]
            self._rewrite(self._header if kept else "", kept)
        self._found = False

    def close(self) -> None:
        """Do nothing: the file is not held open."""

    def _written(self, record: Mapping[str, Scalar], step: int) -> tuple[str, str]:
        """Return the header that the file should have, empty where it has none, and a record's line."""
        raise NotImplementedError

    def _step_of(self, text: str) -> int:
        """Return the step of a line, raise ValueError for what is none."""
        raise NotImplementedError

    def _lines(self) -> list[_Line]:
        """Read the header and the complete records."""
        with naming_output(self.path, "read"):
            content = self.path.read_bytes() if self.path.exists() else b""
        try:
            *complete, rest = content.decode().split("\n")
        except UnicodeDecodeError:
            *complete, rest = content.decode(errors="replace").split("\n")
        self._ragged = bool(rest)
        first = complete[0] if complete else rest
        if not first.startswith(self._start) and (complete or not self._start.startswith(first)):
            raise OutputError(f"{self.path}: holds something else than a log ({first[:60]!r}); choose another file")
        self._header = complete.pop(0) if complete and self._with_header else ""
        found = []
        for number, text in enumerate(complete, start=1 + self._with_header):
            try:
                found.append(_Line(self._step_of(text), text))
            except (ValueError, RecursionError):
                raise OutputError(
                    f"{self.path}, line {number}: expected a record with a step, got {text[:60]!r}; choose another file"
                ) from None
        return found

    def _make_room(self, step: int) -> None:
        """Drop the records at ``step`` and after; a file all of which would go is kept beside if it was found."""
        if self._last is not None and step <= self._last:
            kept = [line for line in self._lines() if line.step < step]
            if self._found and not kept:
                with naming_output(self.path):
                    os.replace(self.path, _free_name(self.path))
                self._header, self._last, self._ragged = "", None, False
            else:
                self._rewrite(self._header if kept else "", kept)
        elif not self.path.exists():  # removed while the training ran
            self._header = ""
        elif self._ragged:
            self._rewrite(self._header, self._lines())
        self._found = False

    def _rewrite(self, header: str, lines: Sequence[_Line]) -> None:
        """Replace the file, at once or not at all."""
        texts = [header] if header else []
        write_whole(self.path, b"".join(_bytes(text) for text in (*texts, *(line.text for line in lines))))
        self._header, self._ragged = header, False
        self._last = lines[-1].step if lines else None


class CSVLogger(FileLogger):
    """Writes a line a record into a CSV file in UTF-8: ``step``, then the figures of the first record in their order.

    What is not known is an empty cell, NaN is ``nan``, truth is ``true`` or ``false``; a line break in a text becomes a
    space, so that a line is a record. Where a later record has a new figure, a column is added at the end (the file is
    replaced at once); where it lacks one, the cell is empty.

    A file that is there already is continued: a half-written last line is dropped, and a record replaces those at its
    step and after, so a resumed training leaves the file that an uninterrupted one leaves. Where a training begins
    anew, the older file is kept as ``name.1.csv``.

    Args:
        path: the file; its folders are made.

    Raises:
        OutputError: the path cannot be written, or the file holds something else.
    """

    _start = "step"
    _with_header = True

    def _written(self, record: Mapping[str, Scalar], step: int) -> tuple[str, str]:
        row: dict[str, Scalar] = {"step": step} | {_cell(name): value for name, value in record.items()}
        row["step"] = step
        columns = list(dict.fromkeys([*_cells(self._header), *row]))
        return _joined(columns), _joined([_cell(row.get(name)) for name in columns])

    def _step_of(self, text: str) -> int:
        cells = _cells(text)
        if len(cells) != len(_cells(self._header)):
            raise ValueError("another number of cells than the header")
        return int(cells[0])


class JSONLinesLogger(FileLogger):
    """Writes an object a line: ``step``, then the figures of the record. NaN and infinity become null.

    A file that is there already is continued as ``CSVLogger`` does it.

    Args:
        path: the file; its folders are made.

    Raises:
        OutputError: the path cannot be written, or the file holds something else.
    """

    _start = '{"step": '
    _with_header = False

    def _written(self, record: Mapping[str, Scalar], step: int) -> tuple[str, str]:
        row: dict[str, Scalar] = {"step": step}
        for name, value in record.items():
            row[name] = None if isinstance(value, float) and not math.isfinite(value) else value
        row["step"] = step
        return "", json.dumps(row, allow_nan=False, ensure_ascii=False)

    def _step_of(self, text: str) -> int:
        row = json.loads(text)
        step = row.get("step") if isinstance(row, dict) else None
        if type(step) is not int:
            raise ValueError("no step")
        return step


def _free_name(path: Path) -> Path:
    number = 1
    while (candidate := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    return candidate


def _bytes(text: str) -> bytes:
    return (text + "\n").encode(errors="backslashreplace")


def _cells(text: str) -> list[str]:
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise ValueError(str(error)) from None


def _joined(cells: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(cells)
    return buffer.getvalue()


def _cell(value: Scalar) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return " ".join(str(value).splitlines())

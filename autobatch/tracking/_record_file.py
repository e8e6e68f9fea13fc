"""A file with one line a record: appended to, cut where a training went back, never left half-written."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from autobatch._errors import OutputError
from autobatch._files import append_whole, naming_output, write_whole


class Line(NamedTuple):
    """A record as it stands in the file.

    Attributes:
        step: the record's step.
        text: the line, without the newline at its end.
    """

    step: int
    text: str


class RecordFile:
    """The file of a logger, with its lines in ascending order of their steps.

    A last line that was only half written is dropped at the next record. Where a training begins anew (its first record
    replaces all that was found), the older file is kept beside as ``name.1.csv``, ``name.2.csv``, and so on.

    Args:
        path: the file; its folders are made.
        start: what each file of this kind begins with.
        header: whether the first line is no record.
        step_of: returns the step of a line under a header, raises ValueError for what is none.

    Attributes:
        path: the file.
        header: its header, without the newline; empty where there is none (yet).

    Raises:
        OutputError: the path cannot be written, or the file is something else.
    """

    def __init__(self, path: str | Path, *, start: str, header: bool, step_of: Callable[[str, str], int]) -> None:
        self._start, self._with_header, self._step_of = start, header, step_of
        with _sound_name(Path(path)):
            self.path = _expanded(path).resolve()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and not self.path.is_file():
                raise OutputError(f"{self.path}: expected a file")
            self.path.open("ab").close()
        self.header = ""
        lines = self.lines()
        self._last = lines[-1].step if lines else None
        self._found = bool(lines)

    def lines(self) -> list[Line]:
        """Read the complete records, and the header.

        Returns:
            The lines under the header.

        Raises:
            OutputError: the file cannot be read, or a line is no record.
        """
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
        self.header = complete.pop(0) if complete and self._with_header else ""
        return [self._line(number, text) for number, text in enumerate(complete, start=1 + self._with_header)]

    def make_room(self, step: int) -> None:
        """Drop the records at ``step`` and after; a file all of which would go is kept beside if it was found.

        Args:
            step: where the next record goes.
        """
        if self._last is not None and step <= self._last:
            kept = [line for line in self.lines() if line.step < step]
            if self._found and not kept:
                with naming_output(self.path):
                    os.replace(self.path, _free_name(self.path))
                self.header, self._last, self._ragged = "", None, False
            else:
                self.rewrite(self.header if kept else "", kept)
        elif not self.path.exists():  # removed while the training ran
            self.header = ""
        elif self._ragged:
            self.rewrite(self.header, self.lines())
        self._found = False

    def resume(self, step: int) -> None:
        """Drop the records after ``step``.

        Args:
            step: where the training goes on.
        """
        if self._last is not None and step < self._last:
            kept = [line for line in self.lines() if line.step <= step]
            self.rewrite(self.header if kept else "", kept)
        self._found = False

    def append(self, line: Line) -> None:
        """Append a record; the whole line or, where the disk is full, nothing of it.

        Args:
            line: the record.
        """
        append_whole(self.path, _bytes(line.text))
        self._last = line.step

    def rewrite(self, header: str, lines: list[Line]) -> None:
        """Replace the file, at once or not at all.

        Args:
            header: the header; empty for none.
            lines: the records.
        """
        texts = [header] if header else []
        write_whole(self.path, b"".join(_bytes(text) for text in (*texts, *(line.text for line in lines))))
        self.header, self._ragged = header, False
        self._last = lines[-1].step if lines else None

    def _line(self, number: int, text: str) -> Line:
        try:
            return Line(self._step_of(self.header, text), text)
        except (ValueError, RecursionError):
            raise OutputError(
                f"{self.path}, line {number}: expected a record with a step, got {text[:60]!r}; choose another file"
            ) from None


@contextmanager
def _sound_name(path: Path) -> Iterator[None]:
    """Refuse a name that no file can have, such as one with a null byte, as what cannot be written."""
    try:
        with naming_output(path):
            yield
    except ValueError as error:
        raise OutputError(f"{path}: cannot be written: {error}") from None


def _expanded(path: str | Path) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # '~somebody' without an account
        return Path(path)


def _free_name(path: Path) -> Path:
    number = 1
    while (candidate := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    return candidate


def _bytes(text: str) -> bytes:
    return (text + "\n").encode(errors="backslashreplace")


class FileLogger:
    """What the loggers that write a record a line have in common.

    Args:
        file: the file that is written.
    """

    def __init__(self, file: RecordFile) -> None:
        self._file = file

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    def resume(self, step: int) -> None:
        """Drop the records after ``step``.

        Args:
            step: training examples seen where the training goes on.
        """
        self._file.resume(step)

    def close(self) -> None:
        """Do nothing: the file is not held open."""

"""Records as comma-separated values, for spreadsheets and pandas."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from autobatch.tracking._protocol import Scalar
from autobatch.tracking._record_file import FileLogger, Line, RecordFile


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

    def __init__(self, path: str | Path) -> None:
        super().__init__(RecordFile(path, start="step", header=True, step_of=_step_of))

    def log(self, record: Mapping[str, Scalar], step: int) -> None:
        """Write a record.

        Args:
            record: the figures by name.
            step: training examples seen.

        Raises:
            OutputError: the file cannot be written.
        """
        self._file.make_room(step)
        row: dict[str, Scalar] = {"step": step} | {_cell(name): value for name, value in record.items()}
        row["step"] = step
        old = _cells(self._file.header) if self._file.header else []
        columns = list(dict.fromkeys([*old, *row]))
        line = Line(step, _line([_cell(row.get(name)) for name in columns]))
        if columns == old:
            self._file.append(line)
        else:
            padding = "," * (len(columns) - len(old))
            older = [Line(each.step, each.text + padding) for each in self._file.lines()]
            self._file.rewrite(_line(columns), [*older, line])


def _step_of(header: str, text: str) -> int:
    cells = _cells(text)
    if len(cells) != len(_cells(header)):
        raise ValueError("another number of cells than the header")
    return int(cells[0])


def _cells(text: str) -> list[str]:
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise ValueError(str(error)) from None


def _line(cells: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(cells)
    return buffer.getvalue()


def _cell(value: Scalar) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return " ".join(str(value).splitlines())

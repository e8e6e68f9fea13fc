"""A csv file as columns of text, every fault named by its line."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from autobatch._errors import DataError

_MISSING: Final = {"", "na", "n/a", "nan", "null", "none"}


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        path: the file, for messages.
        name: its name in the header.
        cells: the text of each row, without blanks around it; None where it is missing.
        lines: the line of the file that each row ends on, from 1.
    """

    path: Path
    name: str
    cells: list[str | None]
    lines: list[int]

    def error(self, row: int, problem: str) -> DataError:
        """Return the error of one cell, its row counted from 0."""
        return DataError(f"{self.path}: line {self.lines[row]}, column {self.name!r}: {problem}")


def parse_csv(path: Path, text: str) -> dict[str, Column]:
    """Cut a csv file into columns.

    An empty cell, ``NA``, ``N/A``, ``NaN``, ``null`` and ``None`` in any case are missing values. Empty lines are
    skipped.

    Args:
        path: the file, for messages.
        text: what it holds: a header of different names, then rows with as many cells.

    Returns:
        The columns by name, in their order.

    Raises:
        DataError: the file is not so.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines: list[int] = []
    rows: list[list[str]] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        for row in reader:
            if row:
                rows.append(row)
                lines.append(reader.line_num)
                if len(row) != len(header):
                    raise DataError(f"{path}: line {lines[-1]}: expected {len(header)} cells, found {len(row)}")
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}") from error
    doubled = next((name for place, name in enumerate(header) if name in header[:place]), None)
    if doubled is not None:
        raise DataError(f"{path}: line 1: expected different column names, found {doubled!r} twice")
    if len(header) < 2 or not rows:
        raise DataError(
            f"{path}: expected a line of column names, with commas between them, and rows below it, "
            f"found {len(header)} columns and {len(rows)} rows"
        )
    columns = {}
    for name, texts in zip(header, zip(*rows, strict=True), strict=True):
        cells = [None if (cell := text.strip()).lower() in _MISSING else cell for text in texts]
        columns[name] = Column(path, name, cells, lines)
    return columns

"""A run's files: JSON Lines that are appended to and cut back, and what reads them."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from autobatch._errors import CheckpointError
from autobatch._files import append_whole, write_whole
from autobatch._plain import to_json

Record = TypeVar("Record")


def read_whole(path: Path, what: str) -> bytes:
    """Read a file of a run directory; ``what`` names it in the CheckpointError where it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; {path.parent} holds no {what}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None


def load_json(path: Path, what: str, read: Callable[[Any], Record], hint: str = "") -> Record:
    """Read a record of a run directory.

    Args:
        path: the file, in JSON.
        what: the record in words, for the error where there is none.
        read: makes the record of what the file holds.
        hint: what to do about a damaged one, a clause.

    Returns:
        The record.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        return read(json.loads(read_whole(path, what)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged: {error!r}{hint}") from None


def write_json(path: Path, value: Any) -> None:
    """Write a record of a run directory, whole or not at all."""
    write_whole(path, (to_json(value, indent=2) + "\n").encode())


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace a JSON Lines file, whole or not at all."""
    write_whole(path, "".join(to_json(row) + "\n" for row in rows).encode())


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append one line of JSON a row; all of them or, where the disk is full, none."""
    append_whole(path, "".join(to_json(row) + "\n" for row in rows).encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a JSON Lines file; a last line that was only half written is left out.

    Args:
        path: the file; a missing one has no lines.

    Returns:
        One dictionary a line.

    Raises:
        CheckpointError: a line is damaged; the message names it.
    """
    if not path.exists():
        return []
    rows = []
    complete = read_whole(path, "records").split(b"\n")[:-1]
    for number, line in enumerate(complete, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise CheckpointError(f"{path}, line {number}: expected a JSON object, got {line[:60]!r}")
        rows.append(row)
    return rows

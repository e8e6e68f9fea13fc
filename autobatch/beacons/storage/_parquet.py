"""Beacons to and from one Parquet file, readable as it is by pandas, polars and DuckDB."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from autobatch._errors import LibraryError, near_names
from autobatch.beacons._beacon import Beacon, BeaconKey, check_scored
from autobatch.beacons._columns import COLUMNS, EPOCH_COLUMNS, Column
from autobatch.beacons._info import LibraryInfo

# A library of 320 epochs, 35 configurations and 5 seeds has 56,000 rows. What claims to be far larger is damaged or
# hostile, and must not be unpacked into memory.
_MOST_ROWS = 2_000_000
_MOST_BYTES = 256 * 1024 * 1024

TYPES = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string()}


def to_parquet(beacons: Sequence[Beacon], info: LibraryInfo) -> bytes:
    """Return beacons as the bytes of a Parquet file: one row per (beacon, epoch).

    Args:
        beacons: the beacons, in the order of the rows.
        info: what they have in common, stored as file metadata.

    Returns:
        The file's content.

    Raises:
        LibraryError: a beacon that finished ends without the score.
    """
    for beacon in beacons:
        check_scored(beacon, info.score)
    arrays = []
    for column in COLUMNS:
        parts: list[Any] = []
        for beacon in beacons:
            own = beacon.rows[column.name] if column.per_epoch else None
            parts.extend([getattr(beacon, column.name)] * len(beacon.rows["epoch"]) if own is None else own.tolist())
        arrays.append(pa.array(parts, type=TYPES[column.kind]))
    sink = pa.BufferOutputStream()
    # Checksums turn a flipped bit into an error instead of another number.
    pq.write_table(
        pa.Table.from_arrays(arrays, schema=stored_schema(COLUMNS, info.to_metadata())), sink, write_page_checksum=True
    )
    return bytes(sink.getvalue())


def from_parquet(path: Path) -> tuple[tuple[Beacon, ...], LibraryInfo]:
    """Read one Parquet file of beacons.

    Args:
        path: the file.

    Returns:
        The beacons, ordered by batch size, learning rate and seed, and what they have in common.

    Raises:
        LibraryError: the file cannot be read, is damaged, foreign or of another version, or holds what no run can
            produce; the message names file, column and beacon.
        FileNotFoundError: the file does not exist.
    """
    content = file_content(path)
    try:
        metadata, table = checked_table(content, COLUMNS)
        info = LibraryInfo.from_metadata(metadata)
        beacons = _beacons(table)
        for beacon in beacons:
            check_scored(beacon, info.score)
    except LibraryError as error:
        raise LibraryError(f"{path}: {error}") from None
    return beacons, info


def stored_schema(columns: Sequence[Column], metadata: Mapping[str, str]) -> Any:
    """Return a file's schema: names, types, units and meanings.

    Args:
        columns: the columns, in the order in which they are stored.
        metadata: the file metadata.

    Returns:
        The pyarrow schema.
    """
    fields = [
        pa.field(
            column.name, TYPES[column.kind], nullable=False, metadata={"unit": column.unit, "meaning": column.meaning}
        )
        for column in columns
    ]
    return pa.schema(fields, metadata=dict(metadata))


def file_content(path: Path) -> bytes:
    """Read a file that is not larger than a library can be.

    Args:
        path: the file.

    Returns:
        Its content.

    Raises:
        LibraryError: it cannot be read, or is too large.
        FileNotFoundError: it does not exist.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise LibraryError(f"{path}: a file of more than {_MOST_BYTES >> 20} MB is not read")
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise LibraryError(f"{path}: cannot be read: {error.strerror or error}") from None


def checked_table(content: bytes, columns: Sequence[Column]) -> tuple[dict[str, str], Any]:
    """Parse the bytes of a Parquet file of ours.

    Args:
        content: the bytes.
        columns: the columns that it must have.

    Returns:
        The file metadata, and the table of these columns.

    Raises:
        LibraryError: the bytes are damaged, or are no file of such columns.
    """

    def check(schema: Any, metadata: Mapping[str, str]) -> list[str]:
        if "autobatch:format" in metadata:
            _check_schema(schema, columns)
        else:
            LibraryInfo.from_metadata(metadata)
        return [column.name for column in columns]

    return untrusted_table(content, check)


def untrusted_table(
    content: bytes, check: Callable[[Any, Mapping[str, str]], Sequence[str]]
) -> tuple[dict[str, str], Any]:
    """Parse the bytes of a Parquet file, none of them trusted.

    Args:
        content: the bytes.
        check: takes the schema and the file metadata, refuses what is no such file, and returns the columns to read.

    Returns:
        The file metadata, and the table of these columns.

    Raises:
        LibraryError: the bytes are damaged, or refused.
    """
    # pyarrow answers damaged bytes with many kinds of exception (its own, OSError, ValueError, UnicodeDecodeError,
    # MemoryError, ...), so whatever it raises while parsing means: damaged.
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        raw = file.metadata.metadata or {}
        metadata = {key.decode(): value.decode() for key, value in raw.items()}
        rows, groups = file.metadata.num_rows, file.metadata.num_row_groups
        schema = file.schema_arrow
        unpacked = sum(file.metadata.row_group(group).total_byte_size for group in range(groups))
    except Exception as error:
        raise LibraryError(f"not a readable Parquet file (truncated or damaged?): {_first_line(error)}") from None
    if rows > _MOST_ROWS or unpacked > _MOST_BYTES:
        raise LibraryError(f"claims {rows} rows and {unpacked} bytes, more than any beacon library holds")
    columns = check(schema, metadata)
    try:
        table = file.read(columns=list(columns), use_threads=False)
        table.validate(full=True)
    except Exception as error:
        raise LibraryError(f"the rows are damaged: {_first_line(error)}") from None
    return metadata, table


def _check_schema(schema: Any, columns: Sequence[Column]) -> None:
    names = list(schema.names)
    for column in columns:
        count = names.count(column.name)
        if count == 0:
            raise LibraryError(f"column '{column.name}' is missing; {near_names(column.name, names)}")
        if count > 1:
            raise LibraryError(f"column '{column.name}' is stored {count} times")
        found = schema.field(column.name).type
        if found != TYPES[column.kind]:
            raise LibraryError(f"column '{column.name}' must be {column.kind}, got {found}")


def column_arrays(table: Any, columns: Sequence[Column]) -> dict[str, NDArray[Any]]:
    """Return a table's columns as arrays.

    Args:
        table: what ``checked_table`` returned.
        columns: the columns.

    Returns:
        One array, shape (rows,), by column name; strings as objects.

    Raises:
        LibraryError: a row has no value in some column.
    """
    for column in columns:
        nulls = table.column(column.name).null_count
        if nulls:
            raise LibraryError(f"column '{column.name}' has no value in {nulls} rows")
    arrays: dict[str, NDArray[Any]] = {}
    for column in columns:
        values = table.column(column.name)
        arrays[column.name] = (
            np.array(values.to_pylist(), dtype=object) if column.kind == "string" else values.to_numpy()
        )
    return arrays


def _beacons(table: Any) -> tuple[Beacon, ...]:
    columns = column_arrays(table, COLUMNS)
    keys = zip(*(columns[name].tolist() for name in ("batch_size", "lr", "seed")), strict=True)
    row_numbers: dict[BeaconKey, list[int]] = {}
    for row, key in enumerate(keys):
        row_numbers.setdefault(BeaconKey(*key), []).append(row)
    return tuple(_beacon(key, columns, np.array(row_numbers[key])) for key in sorted(row_numbers))


def _beacon(key: BeaconKey, columns: dict[str, NDArray[Any]], rows: NDArray[np.int64]) -> Beacon:
    rows = rows[np.argsort(columns["epoch"][rows], kind="stable")]
    ending = {}
    for name in ("test_error", "test_loss", "stopped_because"):
        values = columns[name][rows].tolist()
        if len(set(map(repr, values))) > 1:
            raise LibraryError(f"beacon {key.name}: column '{name}' must be the same in all its rows")
        ending[name] = values[0]
    return Beacon(*key, rows={column.name: columns[column.name][rows] for column in EPOCH_COLUMNS}, **ending)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__

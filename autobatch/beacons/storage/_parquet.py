"""Trainings to and from one Parquet file, a row an epoch, readable as it is by pandas, polars and DuckDB."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from autobatch._errors import LibraryError, first_line, near_names
from autobatch._remote import Place, Remote
from autobatch.beacons._columns import Column
from autobatch.beacons._info import LibraryInfo

# A library of 320 epochs, 35 configurations and 5 seeds has 56,000 rows. What claims to be far larger is damaged or
# hostile, and must not be unpacked into memory.
_MOST_ROWS = 2_000_000
_MOST_BYTES = 256 * 1024 * 1024

TYPES = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string()}


def encoded(
    columns: Sequence[Column], items: Sequence[Mapping[str, Any]], metadata: Mapping[str, str], compression: str
) -> bytes:
    """Return trainings as the bytes of a Parquet file.

    Args:
        columns: the columns, in the order in which they are stored.
        items: the trainings, in the order of the rows: an array for each column that changes from epoch to epoch, and
            one value for each other.
        metadata: what they have in common, stored as file metadata.
        compression: how the columns are compressed.

    Returns:
        The file's content.
    """
    arrays = []
    for column in columns:
        values: list[Any] = []
        for item in items:
            own = item[column.name]
            values.extend(own.tolist() if column.per_epoch else [own] * len(item["epoch"]))
        arrays.append(pa.array(values, type=TYPES[column.kind]))
    fields = [
        pa.field(
            column.name, TYPES[column.kind], nullable=False, metadata={"unit": column.unit, "meaning": column.meaning}
        )
        for column in columns
    ]
    sink = pa.BufferOutputStream()
    table = pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=dict(metadata)))
    # Checksums turn a flipped bit into an error instead of another number.
    pq.write_table(table, sink, compression=compression, write_page_checksum=True)
    return bytes(sink.getvalue())


Decoded = tuple[tuple[Any, ...], dict[str, Any], dict[str, NDArray[Any]]]


def decoded(table: Any, columns: Sequence[Column], by: Sequence[str], named: Callable[..., str]) -> Iterator[Decoded]:
    """Return the trainings of a table.

    Args:
        table: what ``checked_table`` returned.
        columns: its columns.
        by: those that tell the trainings apart.
        named: returns what messages call a training, from its values of these.

    Yields:
        (values of ``by``, value of each other column that is the same in all epochs, array of each other column), in
        the order of ``by``.

    Raises:
        LibraryError: a row has no value in some column, or a value that must be the same in all rows is not.
    """
    arrays = column_arrays(table, columns)
    numbers: dict[tuple[Any, ...], list[int]] = {}
    for row, key in enumerate(zip(*(arrays[name].tolist() for name in by), strict=True)):
        numbers.setdefault(key, []).append(row)
    for key in sorted(numbers):
        found = np.array(numbers[key])
        found = found[np.argsort(arrays["epoch"][found], kind="stable")]
        constants = {}
        for column in columns:
            if column.per_epoch or column.name in by:
                continue
            values = arrays[column.name][found].tolist()
            if len(set(map(repr, values))) > 1:
                raise LibraryError(f"{named(*key)}: column '{column.name}' must be the same in all its rows")
            constants[column.name] = values[0]
        yield key, constants, {column.name: arrays[column.name][found] for column in columns if column.per_epoch}


@contextmanager
def naming(path: Place) -> Iterator[None]:
    """Name the file in the LibraryError of what is wrong with it."""
    try:
        yield
    except LibraryError as error:
        raise LibraryError(f"{path}: {error}") from None


def file_content(path: Place) -> bytes:
    """Read a file that is not larger than a library can be; FileNotFoundError where it does not exist."""
    try:
        size = (path.facts() or {}).get("size") or 0 if isinstance(path, Remote) else path.stat().st_size
        if size > _MOST_BYTES:
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
        raise LibraryError(f"not a readable Parquet file (truncated or damaged?): {first_line(error)}") from None
    if rows > _MOST_ROWS or unpacked > _MOST_BYTES:
        raise LibraryError(f"claims {rows} rows and {unpacked} bytes, more than any beacon library holds")
    columns = check(schema, metadata)
    try:
        table = file.read(columns=list(columns), use_threads=False)
        table.validate(full=True)
    except Exception as error:
        raise LibraryError(f"the rows are damaged: {first_line(error)}") from None
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
    arrays: dict[str, NDArray[Any]] = {}
    for column in columns:
        values = table.column(column.name)
        if nulls := values.null_count:
            raise LibraryError(f"column '{column.name}' has no value in {nulls} rows")
        arrays[column.name] = (
            np.array(values.to_pylist(), dtype=object) if column.kind == "string" else values.to_numpy()
        )
    return arrays

"""The runs of a comparison as two Parquet files, readable as they are by pandas, polars and DuckDB."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from autobatch._errors import LibraryError
from autobatch._files import write_whole
from autobatch.training import EpochRow

RUNS, EPOCHS = "runs.parquet", "epochs.parquet"
"""The files, in the directory of a comparison."""

FORMAT_VERSION = 1
"""Version of both files; a reader refuses any other."""

_FACTS = b"autobatch"
_MOST_BYTES = 256 * 1024 * 1024
_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), float | None: pa.float64(), int | None: pa.int64()}


@dataclass(frozen=True)
class ComparedRun:
    """One run: a policy with a seed. Figures that are not known are NaN.

    Attributes:
        env: the task's name.
        policy: the policy's name.
        seed: the run's seed.
        batch_sizes: the batch sizes of successive epochs, in words.
        stopped_because: ``"finished"``, or why not.
        validation_loss: final validation loss.
        validation_error: final validation error, in [0, 1].
        test_error: final test error, in [0, 1], for reports only.
        test_loss: final test loss.
        seconds: time by the clock, measuring included.
        measuring_seconds: the part of it that measuring took.
        modelled_seconds: time by the task's cost table, measuring included.
        examples: training examples seen.
        optimizer_steps: steps taken.
        samples: measured steps.
        side_by_side: runs that trained at the same time, this one included.
        to_target_seconds: time by the clock up to the first epoch that ends with the best fixed beacon's validation
            error or less. None where the run does not get there, or does not finish.
        to_target_modelled_seconds: the same by the cost table.
        to_target_examples: training examples seen until then.
    """

    env: str
    policy: str
    seed: int
    batch_sizes: str
    stopped_because: str
    validation_loss: float
    validation_error: float
    test_error: float
    test_loss: float
    seconds: float
    measuring_seconds: float
    modelled_seconds: float
    examples: int
    optimizer_steps: int
    samples: int
    side_by_side: int
    to_target_seconds: float | None
    to_target_modelled_seconds: float | None
    to_target_examples: int | None

    @property
    def finished(self) -> bool:
        """Whether the run came to its last epoch."""
        return self.stopped_because == "finished"


_RUN_COLUMNS: dict[str, Any] = {field.name: field.type for field in fields(ComparedRun)}
_EPOCH_COLUMNS: dict[str, Any] = {
    "env": str,
    "policy": str,
    "seed": int,
    **{field.name: field.type for field in fields(EpochRow)},
}


def save_tables(
    out: Path, facts: Mapping[str, Any], runs: Sequence[ComparedRun], epochs: Sequence[Sequence[EpochRow]]
) -> None:
    """Write ``runs.parquet`` and ``epochs.parquet``, each at once or not at all.

    Args:
        out: the directory of the comparison.
        facts: what the runs have in common, plain values; kept as JSON under the key ``autobatch`` of the metadata.
        runs: the runs, in the order of the rows.
        epochs: the epochs of each of them.

    Raises:
        OutputError: a file cannot be written.
    """
    run_rows = [{name: getattr(run, name) for name in _RUN_COLUMNS} for run in runs]
    epoch_rows = [
        {"env": run.env, "policy": run.policy, "seed": run.seed, **row.to_dict()}
        for run, own in zip(runs, epochs, strict=True)
        for row in own
    ]
    metadata = {_FACTS: json.dumps({"format_version": FORMAT_VERSION, **facts}, ensure_ascii=False).encode()}
    for name, columns, rows in ((RUNS, _RUN_COLUMNS, run_rows), (EPOCHS, _EPOCH_COLUMNS, epoch_rows)):
        schema = pa.schema(
            [pa.field(key, _TYPES[kind], nullable=_nullable(kind)) for key, kind in columns.items()], metadata
        )
        table = pa.Table.from_pylist(rows, schema=schema)
        sink = pa.BufferOutputStream()
        # Checksums turn a flipped bit into an error instead of another number.
        pq.write_table(table, sink, compression="zstd", row_group_size=max(len(rows), 1), write_page_checksum=True)
        write_whole(out / name, bytes(sink.getvalue()))


def load_runs(path: str | Path) -> Any:
    """Read the runs of a comparison: one row a run, the columns of ``ComparedRun``.

    Args:
        path: the directory of the comparison, or its ``runs.parquet``.

    Returns:
        A pyarrow table.

    Raises:
        LibraryError: the file is missing, damaged, foreign or of another version.
    """
    return _load(Path(path), RUNS, _RUN_COLUMNS)


def load_epochs_table(path: str | Path) -> Any:
    """Read the epochs of a comparison: one row a run and epoch, ``env``, ``policy``, ``seed`` and the figures of a run.

    Args:
        path: the directory of the comparison, or its ``epochs.parquet``.

    Returns:
        A pyarrow table.

    Raises:
        LibraryError: the file is missing, damaged, foreign or of another version.
    """
    return _load(Path(path), EPOCHS, _EPOCH_COLUMNS)


def table_facts(table: Any) -> dict[str, Any]:
    """Return what the runs of a table have in common: task, score, seeds, device, reference, target, versions.

    Args:
        table: what ``load_runs`` or ``load_epochs_table`` returned.

    Returns:
        Plain values by name.
    """
    facts: dict[str, Any] = json.loads(table.schema.metadata[_FACTS])
    return facts


def _load(path: Path, name: str, columns: Mapping[str, Any]) -> Any:
    path = path / name if path.is_dir() else path
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise LibraryError(f"{path}: a table of more than {_MOST_BYTES >> 20} MB is not read")
        content = path.read_bytes()
    except FileNotFoundError:
        raise LibraryError(f"{path}: there is no such file; 'autobatch compare' writes it into its --out") from None
    except OSError as error:
        raise LibraryError(f"{path}: cannot be read: {error.strerror or error}") from None
    # pyarrow answers damaged bytes with many kinds of exception, so whatever it raises while parsing means: damaged.
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        schema = file.schema_arrow
        unpacked = sum(file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups))
    except Exception as error:
        raise LibraryError(f"{path}: not a readable Parquet file (truncated or damaged?): {error}") from None
    _check(path, schema, columns)
    if unpacked > _MOST_BYTES:
        raise LibraryError(f"{path}: claims {unpacked} bytes, more than any comparison holds")
    try:
        table = file.read(columns=list(columns), use_threads=False)
        table.validate(full=True)
    except Exception as error:
        raise LibraryError(f"{path}: the rows are damaged: {error}") from None
    for key, kind in columns.items():
        if not _nullable(kind) and table.column(key).null_count:
            raise LibraryError(f"{path}: column '{key}' has no value in {table.column(key).null_count} rows")
    return table


def _check(path: Path, schema: Any, columns: Mapping[str, Any]) -> None:
    try:
        facts = json.loads((schema.metadata or {})[_FACTS])
        version = facts["format_version"]
    except (KeyError, TypeError, ValueError):
        raise LibraryError(f"{path}: was not written by 'autobatch compare'") from None
    if version != FORMAT_VERSION:
        raise LibraryError(f"{path}: has format version {version!r}; this autobatch reads version {FORMAT_VERSION}")
    for key, kind in columns.items():
        if schema.names.count(key) != 1:
            raise LibraryError(f"{path}: expected one column '{key}', found {schema.names.count(key)}")
        if schema.field(key).type != _TYPES[kind]:
            raise LibraryError(f"{path}: column '{key}' must be {_TYPES[kind]}, got {schema.field(key).type}")


def _nullable(kind: Any) -> bool:
    return kind in (float | None, int | None)

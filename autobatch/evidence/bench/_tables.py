"""The runs of a comparison as two Parquet files, readable as they are by pandas, polars and DuckDB."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from autobatch._errors import LibraryError
from autobatch._files import write_whole
from autobatch._plain import Epochs
from autobatch._ranges import check_path
from autobatch.beacons._columns import FINISHED
from autobatch.beacons.storage._parquet import file_content, untrusted_table
from autobatch.evidence.bench._compared import ComparedRun
from autobatch.report import facts_dicts, load_run_facts
from autobatch.report._runs import COLUMNS
from autobatch.training import EpochRow

RUNS, EPOCHS = "runs.parquet", "epochs.parquet"
"""The files, in the directory of a comparison."""

FORMAT_VERSION = 2
"""Version of both files. Files of version 1 hold one task, and are read as well."""

_FACTS = "autobatch"
_TYPES: dict[Any, Any] = {
    str: pa.string(),
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    float | None: pa.float64(),
    int | None: pa.int64(),
    str | None: pa.string(),
    tuple[str, ...]: pa.list_(pa.string()),
}


_WHOLE_OR_NOT = (pa.int64(), pa.float64())
"""How epochs are held: whole where all of a table are."""

_RUN_COLUMNS: dict[str, Any] = {field.name: field.type for field in fields(ComparedRun)}
_LATER = frozenset(field.name for field in fields(ComparedRun) if field.default is not MISSING)
"""Columns that an older file may lack: what has come to a run since has a default."""

_EPOCH_COLUMNS: dict[str, Any] = {
    "env": str,
    "policy": str,
    "seed": int,
    **{field.name: field.type for field in fields(EpochRow)},
}


def save_tables(
    out: Path, facts: Mapping[str, Any], runs: Sequence[ComparedRun], epochs: Sequence[Sequence[EpochRow]]
) -> None:
    """Write ``runs.parquet`` and ``epochs.parquet``, each at once or not at all."""
    run_rows = [{name: getattr(run, name) for name in _RUN_COLUMNS} for run in runs]
    epoch_rows = [
        {"env": run.env, "policy": run.policy, "seed": run.seed, **row.to_dict()}
        for run, own in zip(runs, epochs, strict=True)
        for row in own
    ]
    metadata = {_FACTS: json.dumps({"format_version": FORMAT_VERSION, **facts}, ensure_ascii=False).encode()}
    for name, columns, rows in ((RUNS, _RUN_COLUMNS, run_rows), (EPOCHS, _EPOCH_COLUMNS, epoch_rows)):
        fields_of = [
            pa.field(key, _held_as(key, kind, rows), nullable=_nullable(kind)) for key, kind in columns.items()
        ]
        schema = pa.schema(fields_of, metadata)
        table = pa.Table.from_pylist(rows, schema=schema)
        sink = pa.BufferOutputStream()
        # Checksums turn a flipped bit into an error instead of another number.
        pq.write_table(table, sink, compression="zstd", row_group_size=max(len(rows), 1), write_page_checksum=True)
        write_whole(out / name, bytes(sink.getvalue()))


def load_runs(path: str | Path = "runs") -> Any:
    """Read runs, one row a run: those of a comparison, or all run directories below a folder.

        autobatch.load_runs("runs").to_pandas().groupby(["env", "policy"])["test_error"].mean()

    Args:
        path: the directory of a comparison or its ``runs.parquet``, for the columns of ``ComparedRun`` and ``state``;
            or any other folder, for those of ``RunFacts``. Columns of one name hold the same.

    Returns:
        A pyarrow table.

    Raises:
        LibraryError: there are no runs, or the file is damaged, foreign or of another version.
    """
    path = check_path(path, "path")
    if path.is_dir() and not (path / RUNS).exists() and (facts := load_run_facts(path)):
        rows = facts_dicts(facts)
        schema = pa.schema([pa.field(name, _held_as(name, kind, rows)) for name, kind in COLUMNS.items()])
        return pa.Table.from_pylist(rows, schema=schema)
    table = _load(path, RUNS, _RUN_COLUMNS)
    return table.append_column("state", pa.array(map(_state, table.column("stopped_because").to_pylist())))


def load_epochs_table(path: str | Path) -> Any:
    """Read the epochs of a comparison: one row a run and epoch, ``env``, ``policy``, ``seed`` and the figures of a run.

    Args:
        path: the directory of the comparison, or its ``epochs.parquet``.

    Returns:
        A pyarrow table.

    Raises:
        LibraryError: the file is missing, damaged, foreign or of another version.
    """
    return _load(check_path(path, "path"), EPOCHS, _EPOCH_COLUMNS)


def table_facts(table: Any) -> dict[str, Any]:
    """Return what the runs of a table have in common: task, score, seeds, device, reference, target, versions.

    Args:
        table: what ``load_runs`` or ``load_epochs_table`` returned, or one of ``tables_by_task``.

    Returns:
        Plain values by name. What only the runs of one task have in common is by the task's name under ``tasks`` where
        the table holds several.
    """
    facts: dict[str, Any] = json.loads(table.schema.metadata[_FACTS.encode()])
    tasks = facts.get("tasks", {})
    if len(tasks) != 1:
        return facts
    ((env, own),) = tasks.items()
    return {key: value for key, value in facts.items() if key != "tasks"} | {"env": env, **own}


def tables_by_task(table: Any) -> dict[str, Any]:
    """Divide a table by tasks.

    Args:
        table: what ``load_runs`` or ``load_epochs_table`` returned.

    Returns:
        The rows of each task, with its facts, by the task's name.
    """
    facts = json.loads(table.schema.metadata[_FACTS.encode()])
    tasks = facts.get("tasks")
    if tasks is None:  # version 1
        return {str(facts["env"]): table}
    found = {}
    for env, own in tasks.items():
        metadata = {_FACTS: json.dumps({**facts, "tasks": {env: own}}, ensure_ascii=False).encode()}
        found[env] = table.filter(pc.equal(table.column("env"), env)).replace_schema_metadata(metadata)
    return found


def _load(path: Path, name: str, columns: Mapping[str, Any]) -> Any:
    path = path / name if path.is_dir() else path
    try:
        content = file_content(path)
    except FileNotFoundError:
        raise LibraryError(
            f"{path}: there is no such file; 'autobatch compare' writes it into its --out, 'autobatch run' makes "
            "folders of runs"
        ) from None
    try:
        _, table = untrusted_table(content, lambda schema, metadata: _checked(schema, metadata, columns))
        for key in table.column_names:
            if not _nullable(columns[key]) and table.column(key).null_count:
                raise LibraryError(f"column '{key}' has no value in {table.column(key).null_count} rows")
    except LibraryError as error:
        raise LibraryError(f"{path}: {error}") from None
    return table


def _held_as(column: str, kind: Any, rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return the type of a column."""
    if kind != Epochs:
        return _TYPES[kind]
    return _WHOLE_OR_NOT[any(isinstance(row[column], float) for row in rows)]


def _checked(schema: Any, metadata: Mapping[str, str], columns: Mapping[str, Any]) -> list[str]:
    """Return the columns of a file; only those that have come since may be missing."""
    try:
        version = json.loads(metadata[_FACTS])["format_version"]
    except (KeyError, TypeError, ValueError):
        raise LibraryError("was not written by 'autobatch compare'") from None
    if version not in (1, FORMAT_VERSION):
        raise LibraryError(f"has format version {version!r}; this autobatch reads 1 to {FORMAT_VERSION}")
    wanted = [key for key in columns if key not in _LATER or key in schema.names]
    for key in wanted:
        if schema.names.count(key) != 1:
            raise LibraryError(f"expected one column '{key}', found {schema.names.count(key)}")
        types = _WHOLE_OR_NOT if columns[key] == Epochs else (_TYPES[columns[key]],)
        if schema.field(key).type not in types:
            raise LibraryError(f"column '{key}' must be {types[0]}, got {schema.field(key).type}")
    return wanted


def _state(stopped_because: str) -> str:
    if stopped_because == FINISHED:
        return FINISHED
    return "diverged" if stopped_because.startswith("diverged") else "stopped"


def _nullable(kind: Any) -> bool:
    return kind in (float | None, int | None)

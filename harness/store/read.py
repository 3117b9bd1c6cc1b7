"""Reading a run folder: one row a task, traces, and SQL over both."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from harness.errors import StoreError
from harness.store.convert import to_frame, unite
from harness.store.folder import RunFolder, retrying
from harness.store.manifest import TRACES
from harness.store.parquet import read_parquet, torn_file
from harness.store.schema import BY_NAME, arrow_schema, trace_schema

if TYPE_CHECKING:
    import duckdb

_SCREEN = 20


def read_measurements(path: Path | str | RunFolder) -> pd.DataFrame:
    """Read the measurement table of a run, one row a task.

    Loose and compacted files are united; of several attempts at a task the highest counts.

    Parameters
    ----------
    path
        A run folder.

    Returns
    -------
    pandas.DataFrame
        The columns of the measurement table in order, extra ones after them, sorted by
        task_id; empty if nothing was measured yet. Integers with nulls are float64.

    Raises
    ------
    StoreError
        If it is no run folder, or a file in it is torn (named).
    """
    return to_frame(read_table(path))


def read_table(path: Path | str | RunFolder) -> pa.Table:
    """Read what `read_measurements` reads, as an Arrow table."""
    folder = _opened(path)
    tables = cast("list[pa.Table]", retrying(lambda: list(folder.result_tables())))
    schema = arrow_schema()
    united = unite([schema.empty_table(), *tables])
    extras = [name for name in united.column_names if name not in BY_NAME]
    return _one_row_a_task(united.select([*schema.names, *extras]))


def read_traces(path: Path | str | RunFolder, keys: Iterable[str] | None = None) -> pd.DataFrame:
    """Read power samples.

    Parameters
    ----------
    path
        A run folder.
    keys
        Names of trace files without `.parquet`; None reads all.

    Returns
    -------
    pandas.DataFrame
        Columns of the trace schema (`key` is the name of the file), in file order.

    Raises
    ------
    StoreError
        If a trace is missing or torn (named).
    """
    folder = _opened(path)
    if keys is None:
        files = folder.trace_files()
    else:
        folder.pull_traces()
        files = [folder.path / TRACES / f"{key}.parquet" for key in keys]
    tables = [trace_schema().empty_table()]
    for file in files:
        try:
            tables.append(read_parquet(file))
        except FileNotFoundError as error:
            raise StoreError(
                f"The run has no trace {file.stem!r}.",
                where=str(file),
                fix="list the files of traces/ for the keys that exist",
            ) from error
    frame: pd.DataFrame = unite(tables).to_pandas()
    return frame


def query(path: Path | str | RunFolder, sql: str) -> pd.DataFrame:
    """Run SQL over a run folder with DuckDB; nothing can be written.

    Views: `measurements` (one row a task), `traces`, and `events` (line, time, kind, and
    fields as JSON text: `fields->>'node'`). They exist also when empty.

    Parameters
    ----------
    path
        A run folder.
    sql
        One statement of DuckDB's SQL.

    Returns
    -------
    pandas.DataFrame
        The result.

    Raises
    ------
    StoreError
        If the SQL fails (with DuckDB's message), or a file of the run is torn (named).
    """
    import duckdb

    if not sql.strip():
        raise StoreError("There is no SQL to run.", fix="give a statement, such as SHOW TABLES")
    folder = _opened(path)
    # The traces of a run in an object store are large: they come only where they are asked for.
    wanted = not folder.place.remote or "trace" in sql.lower()
    traces = folder.trace_files() if wanted else []
    with duckdb.connect(":memory:") as connection:
        _register(connection, folder, traces)
        try:
            result = connection.execute(sql)
            frame: pd.DataFrame = result.df() if result is not None else pd.DataFrame()
        except duckdb.Error as error:
            _name_torn(traces)
            raise StoreError(
                f"The SQL failed. {_on_one_screen(str(error))}",
                where=_on_one_screen(sql.strip()),
                fix="views: measurements, traces, events; `DESCRIBE measurements` lists columns",
            ) from error
        return frame


def _register(connection: duckdb.DuckDBPyConnection, folder: RunFolder, traces: list[Path]) -> None:
    """Offer the views, then close the door to files, network and settings."""
    schema = trace_schema()
    dataset = (
        ds.dataset([str(f) for f in traces], schema=schema) if traces else schema.empty_table()
    )
    connection.register("measurements", read_table(folder))
    connection.register("traces", dataset)
    connection.register("events", _events_table(folder))
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET python_enable_replacements = false")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _events_table(folder: RunFolder) -> pa.Table:
    events = list(folder.events())
    times = pd.to_datetime(
        pd.Series([str(e.get("time")) for e in events], dtype=object),
        utc=True,
        errors="coerce",
        format="ISO8601",
    )
    rest = [{k: v for k, v in e.items() if k not in {"time", "kind"}} for e in events]
    return pa.table(
        {
            "line": pa.array(range(1, len(events) + 1), pa.int64()),
            "time": pa.array(times, from_pandas=True).cast(
                pa.timestamp("us", tz="UTC"), safe=False
            ),
            "kind": pa.array([str(e.get("kind")) for e in events], pa.string()),
            "fields": pa.array([json.dumps(fields) for fields in rest], pa.string()),
        }
    )


def _name_torn(files: list[Path]) -> None:
    """Raise if one of the files cannot be opened as Parquet."""
    for path in files:
        try:
            pq.read_metadata(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise torn_file(path, error) from error


def _on_one_screen(text: str) -> str:
    lines = [line[:200] for line in text.splitlines()]
    return "\n".join(lines if len(lines) <= _SCREEN else [*lines[:_SCREEN], "..."])


def _opened(path: Path | str | RunFolder) -> RunFolder:
    return path if isinstance(path, RunFolder) else RunFolder.open(path)


def _one_row_a_task(table: pa.Table) -> pa.Table:
    """Keep the highest attempt of each task, the later row on a tie; sort by task."""
    deciding = pd.DataFrame(
        {
            "task_id": table.column("task_id").to_pandas(),
            "attempt": table.column("attempt").to_pandas().fillna(1),
        }
    )
    ordered = deciding.sort_values(["task_id", "attempt"], kind="stable")
    kept = ordered.drop_duplicates("task_id", keep="last").index.to_numpy()
    return table.take(pa.array(kept, pa.int64())).combine_chunks()

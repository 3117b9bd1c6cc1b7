"""Compaction: many loose result files of one partition become one file, crash-safe."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import StoreError
from harness.store.files import disk_errors, sync_folder, write_atomic
from harness.store.schema import BY_NAME, arrow_schema

COMPACTED = "compacted.parquet"
LOOSE = "loose-*.parquet"
ROW_GROUP = 16_384
STALE_S = 86_400.0
_UNREADABLE = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowIndexError, OSError, KeyError)


@dataclass(frozen=True, slots=True)
class _Source:
    path: Path
    schema: pa.Schema
    rows: np.ndarray


def result_files(partition: Path) -> list[Path]:
    """List the result files of a partition, the older rows first: compacted, then loose."""
    loose = sorted(partition.glob(LOOSE))
    compacted = partition / COMPACTED
    return [compacted, *loose] if compacted.exists() else loose


def torn_file(path: Path, error: BaseException | str) -> StoreError:
    """Say that a file of the run folder cannot be read, and what to do about it."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else "unreadable"
    return StoreError(
        f"A file of the run folder is torn or is not Parquet: {path.name} ({reason})",
        where=str(path),
        fix="move that file out of the run folder; its tasks are measured again by the next run",
    )


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file, or name it in a StoreError; FileNotFoundError passes through."""
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError:
        raise
    except _UNREADABLE as error:
        raise torn_file(path, error) from error


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, or name it in a StoreError; FileNotFoundError passes through."""
    with open_parquet(path) as file:
        return _read(file, path, columns)


def _read(file: pq.ParquetFile, path: Path, columns: list[str] | None) -> pa.Table:
    try:
        table = file.read(columns=columns, use_threads=False)
    except _UNREADABLE as error:
        raise torn_file(path, error) from error
    missing = [name for name in columns or [] if name not in table.column_names]
    if missing:
        raise torn_file(path, f"it has no column {missing[0]}")
    return table


def _count(path: Path) -> int:
    with open_parquet(path) as file:
        return int(file.metadata.num_rows)


def compact_partition(partition: Path, on_step: Callable[[str], None] = lambda _: None) -> int:
    """Unite the loose files of one partition with its compacted file.

    One row stays for each task, that of the highest attempt (the later file on a tie). The
    new file replaces the old one in one step, then the loose files go. Killed at any point,
    the partition holds every row at least once: the reader takes one row a task, and the next
    compaction finishes the work. Memory is bounded by the task ids and one row group.

    Parameters
    ----------
    partition
        Folder `measurements/hardware=H`.
    on_step
        Called with the name of each step once it is done: `chosen`, `written`, `replaced`,
        `deleted`.

    Returns
    -------
    int
        Number of rows of the partition.

    Raises
    ------
    StoreError
        If a file is torn (named) or the disk refuses; nothing is lost in either case.
    """
    _sweep(partition)
    files = result_files(partition)
    loose = [path for path in files if path.name != COMPACTED]
    if not loose:
        return sum(_count(path) for path in files)
    sources = _choose(files)
    on_step("chosen")
    target = partition / COMPACTED
    schema = _unified([source.schema for source in sources])

    def write(stream: BinaryIO) -> None:
        _copy(sources, schema, stream)
        on_step("written")

    write_atomic(target, write)
    on_step("replaced")
    for path in loose:
        with disk_errors(path, "deleted"):
            path.unlink(missing_ok=True)
        on_step("deleted")
    sync_folder(partition)
    return sum(len(source.rows) for source in sources)


def _sweep(partition: Path) -> None:
    """Delete what writers that died left; a younger file may belong to a writer at work."""
    for leftover in partition.glob(".*.tmp"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > STALE_S:
                leftover.unlink()


def _choose(files: list[Path]) -> list[_Source]:
    """Find the rows that stay, by the two columns that decide it."""
    best: dict[str, tuple[int, int, int]] = {}
    schemas: list[pa.Schema] = []
    for index, path in enumerate(files):
        with open_parquet(path) as file:
            schema = file.schema_arrow
            table = _read(file, path, ["task_id", "attempt"])
        schemas.append(schemas[-1] if schemas and schemas[-1].equals(schema) else schema)
        ids = table.column("task_id").to_pylist()
        attempts = table.column("attempt").to_pylist()
        for row, (task_id, attempt) in enumerate(zip(ids, attempts, strict=True)):
            if task_id is None:
                raise torn_file(path, "a row has no task_id")
            number = 1 if attempt is None else attempt
            known = best.get(task_id)
            if known is None or number >= known[0]:
                best[task_id] = (number, index, row)
    rows: list[list[int]] = [[] for _ in files]
    for _, index, row in best.values():
        rows[index].append(row)
    return [
        _Source(path, schema, np.sort(np.asarray(chosen, dtype=np.int64)))
        for path, schema, chosen in zip(files, schemas, rows, strict=True)
    ]


def _unified(schemas: list[pa.Schema]) -> pa.Schema:
    """Return the table's schema and, after it, the extra columns of all files."""
    fields = {field.name: field for field in arrow_schema(partition=False)}
    for schema in schemas:
        for field in schema:
            known = fields.setdefault(field.name, pa.field(field.name, field.type))
            if field.name not in BY_NAME and known.type != field.type:
                fields[field.name] = pa.field(field.name, pa.string())
    return pa.schema(list(fields.values()))


def _copy(sources: list[_Source], schema: pa.Schema, stream: BinaryIO) -> None:
    """Stream the chosen rows into one Parquet file, a row group at a time."""
    with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        held: list[pa.RecordBatch] = []
        count = 0
        for source in sources:
            for batch in _batches(source, schema):
                held.append(batch)
                count += batch.num_rows
                if count >= ROW_GROUP:
                    writer.write_table(pa.Table.from_batches(held).combine_chunks(), ROW_GROUP)
                    held, count = [], 0
        if held:
            writer.write_table(pa.Table.from_batches(held).combine_chunks(), ROW_GROUP)


def _batches(source: _Source, schema: pa.Schema) -> list[pa.RecordBatch]:
    """Read the chosen rows of one file in the united schema."""
    if not len(source.rows):
        return []
    out: list[pa.RecordBatch] = []
    start = 0
    with open_parquet(source.path) as file:
        try:
            for batch in file.iter_batches(batch_size=ROW_GROUP, use_threads=False):
                low, high = np.searchsorted(source.rows, [start, start + batch.num_rows])
                if high - low == batch.num_rows:
                    out.append(_fit(batch, schema))
                elif high > low:
                    wanted = pa.array(source.rows[low:high] - start)
                    out.append(_fit(batch.take(wanted), schema))
                start += batch.num_rows
        except _UNREADABLE as error:
            raise torn_file(source.path, error) from error
    return out


def _fit(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Give a batch the columns and types of `schema`; missing columns become null."""
    if batch.schema.equals(schema):
        return batch
    have = {field.name: (field.type, index) for index, field in enumerate(batch.schema)}
    arrays = []
    for field in schema:
        kind, index = have.get(field.name, (None, -1))
        if kind is None:
            arrays.append(pa.nulls(batch.num_rows, field.type))
        elif kind == field.type:
            arrays.append(batch.column(index))
        else:
            arrays.append(batch.column(index).cast(field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)

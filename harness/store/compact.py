"""Compaction: many loose result files of one partition become one file, crash-safe."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.store.convert import unite
from harness.store.files import disk_errors, sync_folder
from harness.store.jsonrows import from_json
from harness.store.parquet import (
    COMPACTED,
    UNREADABLE,
    count_rows,
    open_parquet,
    read_parquet,
    read_rows,
    result_files,
    torn_file,
)
from harness.store.place import LocalPlace, Place
from harness.store.schema import BY_NAME, arrow_schema

__all__ = ["COMPACTED", "compact_partition", "read_parquet", "result_files"]

ROW_GROUP = 16_384
AT_ONCE = 512
STALE_S = 86_400.0


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows that follow each other: of the compacted file, or of a block of loose files.

    Attributes
    ----------
    schema
        Their columns.
    rows
        How many.
    start
        Where the block begins in the spill file, bytes; None for the compacted file.
    """

    schema: pa.Schema
    rows: int
    start: int | None


class _Best:
    """Which row stays of each task: the highest attempt, the later row on a tie."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[int, int]] = {}
        self.seen = 0

    def add(self, table: pa.Table) -> None:
        """Look at the next rows, by the two columns that decide."""
        ids = table.column("task_id").to_pylist()
        attempts = table.column("attempt").to_pylist()
        for task_id, attempt in zip(ids, attempts, strict=True):
            number = 1 if attempt is None else attempt
            known = self._rows.get(task_id)
            if known is None or number >= known[0]:
                self._rows[task_id] = (number, self.seen)
            self.seen += 1

    def chosen(self) -> np.ndarray:
        """Return the numbers of the rows that stay, in order."""
        rows = np.fromiter((row for _, row in self._rows.values()), np.int64, len(self._rows))
        rows.sort()
        return rows


def compact_partition(
    partition: Path,
    on_step: Callable[[str], None] = lambda _: None,
    place: Place | None = None,
) -> int:
    """Unite the loose files of one partition with its compacted file.

    One row stays for each task, that of the highest attempt (the later file on a tie). The
    new file replaces the old one in one step, then the loose files go. Killed at any point,
    the partition holds every row at least once: the reader takes one row a task, and the next
    compaction finishes the work. Each loose file is read once; its rows wait in an unnamed
    temporary file, so memory is bounded by the task ids and one block of rows.

    Parameters
    ----------
    partition
        Folder `measurements/hardware=H`.
    on_step
        Called with the name of each step once it is done: `chosen`, `written`, `replaced`,
        `deleted`.
    place
        Where the run folder is; None for a local one.

    Returns
    -------
    int
        Number of rows of the partition.

    Raises
    ------
    StoreError
        If a file is torn (named) or the disk refuses; nothing is lost in either case.
    """
    place = place or LocalPlace(partition.parent.parent)
    _sweep(partition)
    files = result_files(partition)
    loose = [path for path in files if path.name != COMPACTED]
    if not loose:
        return sum(count_rows(path) for path in files)
    target = partition / COMPACTED
    with disk_errors(target), tempfile.TemporaryFile(dir=partition) as spill:
        best = _Best()
        parts = _gather(target, loose, best, spill)
        rows = best.chosen()
        on_step("chosen")
        schema = _unified([part.schema for part in parts])

        def write(stream: BinaryIO) -> None:
            _copy(target, parts, rows, schema, spill, stream)
            on_step("written")

        place.write(target, write)
    on_step("replaced")
    for _ in place.delete(loose):
        on_step("deleted")
    sync_folder(partition)
    return len(rows)


def _sweep(partition: Path) -> None:
    """Delete what writers that died left; a younger file may belong to a writer at work."""
    for leftover in partition.glob(".*.tmp"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > STALE_S:
                leftover.unlink()


def _gather(target: Path, loose: Sequence[Path], best: _Best, spill: IO[bytes]) -> list[_Part]:
    """Read every loose file once, keep its rows in the spill file, and find those that stay."""
    parts: list[_Part] = []
    if target.exists():
        with open_parquet(target) as file:
            try:
                for batch in file.iter_batches(ROW_GROUP, columns=["task_id", "attempt"]):
                    best.add(_with_ids(pa.table(batch), target))
            except UNREADABLE as error:
                raise torn_file(target, error) from error
            parts.append(_Part(file.schema_arrow, best.seen, None))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        held: list[pa.Table] = []
        count = 0
        for start in range(0, len(loose), AT_ONCE):
            some = loose[start : start + AT_ONCE]
            # Many small tables take far more memory than one of the same rows.
            held.append(_united(some, list(pool.map(read_rows, some))))
            count += len(held[-1])
            if count >= ROW_GROUP:
                parts.append(_spilled(held, best, spill))
                held, count = [], 0
        if count:
            parts.append(_spilled(held, best, spill))
    return parts


def _united(paths: Sequence[Path], contents: Sequence[pa.Table | str]) -> pa.Table:
    """Unite what result files hold, in their order."""
    tables: list[pa.Table] = []
    texts: list[str] = []
    for path, content in zip(paths, contents, strict=True):
        if isinstance(content, str):
            texts.append(content)
            continue
        if texts:
            tables.append(from_json(texts))
            texts = []
        tables.append(_with_ids(content, path))
    if texts:
        tables.append(from_json(texts))
    return _with_ids(unite(tables).combine_chunks(), paths[0].parent)


def _with_ids(table: pa.Table, path: Path) -> pa.Table:
    """Refuse rows that nothing identifies."""
    if len(table) and ("task_id" not in table.column_names or table["task_id"].null_count):
        raise torn_file(path, "a row has no task_id")
    for name, kind in (("task_id", pa.string()), ("attempt", pa.int64())):
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), kind))
    return table


def _spilled(tables: list[pa.Table], best: _Best, spill: IO[bytes]) -> _Part:
    block = unite(tables).combine_chunks()
    best.add(block)
    start = spill.seek(0, os.SEEK_END)
    options = pa.ipc.IpcWriteOptions(compression="lz4" if pa.Codec.is_available("lz4") else None)
    with pa.ipc.new_stream(spill, block.schema, options=options) as writer:
        writer.write_table(block, max_chunksize=ROW_GROUP)
    return _Part(block.schema, block.num_rows, start)


def _unified(schemas: list[pa.Schema]) -> pa.Schema:
    """Return the table's schema and, after it, the extra columns of all files."""
    fields = {field.name: field for field in arrow_schema(partition=False)}
    for schema in schemas:
        for field in schema:
            known = fields.setdefault(field.name, pa.field(field.name, field.type))
            if field.name not in BY_NAME and known.type != field.type:
                fields[field.name] = pa.field(field.name, pa.string())
    return pa.schema(list(fields.values()))


def _copy(
    target: Path,
    parts: Sequence[_Part],
    rows: np.ndarray,
    schema: pa.Schema,
    spill: IO[bytes],
    stream: BinaryIO,
) -> None:
    """Stream the chosen rows into one Parquet file, a row group at a time."""
    held: list[pa.RecordBatch] = []
    count = 0
    with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        first = 0
        for batch in _batches(target, parts, spill):
            low, high = np.searchsorted(rows, [first, first + batch.num_rows])
            if high - low == batch.num_rows:
                held.append(_fit(batch, schema))
            elif high > low:
                held.append(_fit(batch.take(pa.array(rows[low:high] - first)), schema))
            count += int(high - low)
            first += batch.num_rows
            if count >= ROW_GROUP:
                writer.write_table(pa.Table.from_batches(held).combine_chunks(), ROW_GROUP)
                held, count = [], 0
        if held:
            writer.write_table(pa.Table.from_batches(held).combine_chunks(), ROW_GROUP)


def _batches(target: Path, parts: Sequence[_Part], spill: IO[bytes]) -> Iterator[pa.RecordBatch]:
    """Read all rows again, in the order in which they were looked at."""
    for part in parts:
        if part.start is None:
            with open_parquet(target) as file:
                try:
                    yield from file.iter_batches(batch_size=ROW_GROUP, use_threads=False)
                except UNREADABLE as error:
                    raise torn_file(target, error) from error
        else:
            spill.seek(part.start)
            with pa.ipc.open_stream(spill) as reader:
                yield from reader


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

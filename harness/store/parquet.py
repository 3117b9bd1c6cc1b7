"""Result files as Parquet: small ones lean, every one checked and named where it is torn."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import StoreError
from harness.store.jsonrows import from_json, to_json

COMPACTED = "compacted.parquet"
LOOSE = "loose-*.parquet"
SMALL_ROWS = 64
ROWS, PAGES = b"energylens.rows", b"energylens.pages_crc32"
UNREADABLE = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowIndexError, OSError, KeyError)


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
    except UNREADABLE as error:
        raise torn_file(path, error) from error


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, or name it in a StoreError; FileNotFoundError passes through."""
    with open_parquet(path) as file:
        return _read(file, path, columns)


def loose_bytes(table: pa.Table) -> bytes:
    """Encode a result file; the footer of a small one holds its rows again, as JSON.

    A compressor for each of some ninety columns costs more than a few rows are worth, and so
    does decoding them. The checksum of the pages says whether the JSON still belongs to them.
    """
    small = table.num_rows <= SMALL_ROWS
    buffer = io.BytesIO()
    with pq.ParquetWriter(
        buffer,
        table.schema,
        compression="none" if small else "zstd",
        use_dictionary=not small,
        write_statistics=not small,
        store_schema=not small,
    ) as writer:
        writer.write_table(table)
        if small:
            pages = zlib.crc32(buffer.getbuffer()[: buffer.tell()])
            writer.add_key_value_metadata({ROWS: to_json(table), PAGES: str(pages)})
    return buffer.getvalue()


def read_loose(path: Path) -> pa.Table:
    """Read a result file: columns without any value may be missing.

    FileNotFoundError passes through.
    """
    content = read_rows(path)
    return content if isinstance(content, pa.Table) else from_json([content])


def read_rows(path: Path) -> pa.Table | str:
    """Read a result file: as the JSON of its footer, for `from_json`, where that is valid."""
    raw = path.read_bytes()
    try:
        file = pq.ParquetFile(pa.BufferReader(raw), pre_buffer=False)
        named = file.metadata.metadata or {}
    except UNREADABLE as error:
        raise torn_file(path, error) from error
    end = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    if ROWS in named and named.get(PAGES) == str(zlib.crc32(raw[:end])).encode():
        return str(named[ROWS], "utf-8")
    return _read(file, path, None)


def count_rows(path: Path) -> int:
    """Return the number of rows of a Parquet file."""
    with open_parquet(path) as file:
        return int(file.metadata.num_rows)


def _read(file: pq.ParquetFile, path: Path, columns: list[str] | None) -> pa.Table:
    try:
        table = file.read(columns=columns, use_threads=False)
    except UNREADABLE as error:
        raise torn_file(path, error) from error
    there = set(table.column_names)
    missing = [name for name in columns or [] if name not in there]
    if missing:
        raise torn_file(path, f"it has no column {missing[0]}")
    return table

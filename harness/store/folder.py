"""The run folder: everything one run wrote, resumable and readable without us."""

from __future__ import annotations

import io
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.errors import StoreError
from harness.store.compact import compact_partition, read_parquet, result_files
from harness.store.convert import Rows, to_table, to_trace_table
from harness.store.files import disk_errors, write_atomic
from harness.store.lock import driver_lock
from harness.store.manifest import (
    EVENTS,
    LAUNCHES,
    LOCK,
    MANIFEST,
    MEASUREMENTS,
    TRACES,
    plain_json,
    read_manifest,
    refuse_foreign,
)
from harness.store.schema import PARTITION, SCHEMA_VERSION

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}")
_LISTING_TRIES = 5


class RunFolder:
    """A folder with `measurements/`, `traces/`, `launches/`, `events.jsonl` and `manifest.json`.

    Make one with `create` or `open`. Reading needs no lock; a driver holds `lock()` while it
    adds rows and compacts.

    Attributes
    ----------
    path
        The folder.
    manifest
        Content of manifest.json: schema_version, created_at, and what the run recorded.
    """

    def __init__(self, path: Path, manifest: dict[str, object]) -> None:
        self.path = path
        self.manifest = manifest
        self._locked = False
        self._events_whole = False
        self._mutex = threading.Lock()

    @classmethod
    def create(cls, path: Path | str, manifest: Mapping[str, object]) -> RunFolder:
        """Make a run folder, or open the one that is there and update its manifest.

        Parameters
        ----------
        path
            The folder; made with its parents if missing.
        manifest
            JSON values to record: versions, sweep text, inventory, git commit. They replace
            those of the same name; `schema_version` and `created_at` stay.

        Raises
        ------
        StoreError
            If the path holds something else, is of another schema version, or cannot be
            written.
        """
        path = Path(path)
        if (path / MANIFEST).exists():
            folder = cls.open(path)
            folder.update_manifest(manifest)
            return folder
        if path.exists() and not path.is_dir():
            raise StoreError(
                "A run folder cannot be made here: this is a file.",
                where=str(path),
                fix="give the name of a new folder",
            )
        refuse_foreign(path)
        with disk_errors(path, "made"):
            (path / MEASUREMENTS).mkdir(parents=True, exist_ok=True)
            (path / TRACES).mkdir(exist_ok=True)
        folder = cls(
            path,
            {
                "schema_version": SCHEMA_VERSION,
                "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )
        folder.update_manifest(manifest, always=True)
        return folder

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """Open a run folder that exists.

        Raises
        ------
        StoreError
            If the path is missing, is no run folder, has a torn manifest, or was written by
            another version of the schema.
        """
        path = Path(path)
        if not path.exists():
            raise StoreError(
                "There is no such run folder.",
                where=str(path),
                fix="check the path, or make one with `energylens run` or `energylens import`",
            )
        if not path.is_dir():
            raise StoreError(
                "This is a file, not a run folder.",
                where=str(path),
                fix="give the folder that `energylens run --out` or `import --out` wrote",
            )
        if not (path / MANIFEST).exists():
            state = "is empty" if not any(path.iterdir()) else f"has no {MANIFEST}"
            raise StoreError(
                f"This is not a run folder: it {state}.",
                where=str(path),
                fix="give the folder that `energylens run --out` or `import --out` wrote",
            )
        return cls(path, read_manifest(path / MANIFEST))

    def update_manifest(self, fields: Mapping[str, object], *, always: bool = False) -> None:
        """Record more in manifest.json; `schema_version` and `created_at` stay."""
        fixed = {"schema_version", "created_at"}
        merged = {**self.manifest, **{k: v for k, v in fields.items() if k not in fixed}}
        text = json.dumps(merged, indent=2, default=str)
        if always or json.loads(text) != self.manifest:
            write_atomic(self.path / MANIFEST, lambda stream: stream.write(text.encode() + b"\n"))
        self.manifest = json.loads(text)

    @contextmanager
    def lock(self) -> Iterator[RunFolder]:
        """Hold the driver lock for the length of the block.

        Raises
        ------
        StoreError
            If another driver works on this folder; names its pid and host.
        """
        with driver_lock(self.path / LOCK) as left:
            self._locked = True
            try:
                if left is not None:
                    self.append_event("lock_taken_over", previous=left)
                yield self
            finally:
                self._locked = False

    def append_event(self, kind: str, **fields: object) -> None:
        """Append one line to events.jsonl: `time` (UTC), the fields, `kind`.

        Parameters
        ----------
        kind
            What happened, a short name.
        fields
            JSON values; others are written as text, NaN as null.
        """
        record = {"time": datetime.now(UTC).isoformat(), **fields, "kind": kind}
        line = json.dumps(plain_json(record), allow_nan=False).encode() + b"\n"
        path = self.path / EVENTS
        with self._mutex, disk_errors(path):
            handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                if not self._events_whole:
                    # A driver that died in mid-line must not spoil the first line of this one.
                    size = os.fstat(handle).st_size
                    if size and os.pread(handle, 1, size - 1) != b"\n":
                        line = b"\n" + line
                self._events_whole = False
                if os.write(handle, line) != len(line):
                    raise OSError(28, os.strerror(28))
                self._events_whole = True
            finally:
                os.close(handle)

    def events(self) -> Iterator[dict[str, object]]:
        """Yield the events in order; a line torn by a crash is passed over."""
        path = self.path / EVENTS
        if not path.exists():
            return
        with disk_errors(path, "read"), path.open("rb") as stream:
            for line in stream:
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if isinstance(record, dict):
                    yield record

    def write_result(self, key: str, hardware: str, frame: Rows) -> Path:
        """Write the result rows of one launch or attempt, whole or not at all.

        Parameters
        ----------
        key
            Name of the file, unique to the launch or attempt; writing the same key again
            replaces the file.
        hardware
            Canonical name of the GPU type, the partition of the rows.
        frame
            Rows of the measurement table; each needs a task_id.

        Returns
        -------
        Path
            `measurements/hardware=H/loose-KEY.parquet`.

        Raises
        ------
        StoreError
            If a row has no task_id or another hardware, a value does not fit its column, or
            the disk refuses.
        """
        partition = self.partition(hardware)
        table = to_table(frame)
        _check_rows(table, hardware)
        table = _filled(_filled(table, "schema_version", SCHEMA_VERSION), "attempt", 1)
        path = partition / f"loose-{_checked_key(key)}.parquet"
        buffer = io.BytesIO()
        pq.write_table(table.drop_columns([PARTITION]), buffer, compression="zstd")
        write_atomic(path, lambda stream: stream.write(buffer.getbuffer()))
        return path

    def write_trace(self, key: str, frame: Rows) -> Path:
        """Write the power samples of one attempt to `traces/KEY.parquet` (zstd).

        Parameters
        ----------
        key
            Name of the file, and the `key` column of its rows. Use `TASK_ID-ATTEMPT`, so that
            SQL can join traces to measurements.
        frame
            Samples: t_ns, gpu_uuid, power_w, energy_mj, temperature_c, sm_clock_mhz,
            mem_clock_mhz, throttle_mask, phase; what is missing becomes null.
        """
        table = to_trace_table(frame, _checked_key(key))
        path = self.path / TRACES / f"{key}.parquet"

        def write(stream: BinaryIO) -> None:
            pq.write_table(table, stream, compression="zstd", compression_level=3)

        write_atomic(path, write)
        return path

    def write_launch(self, key: str, record: Mapping[str, object]) -> Path:
        """Write what one launch knows beyond its rows to `launches/KEY.json`.

        Parameters
        ----------
        key
            Name of the file, that of the launch's result file.
        record
            JSON values: spec, environment, order, idle powers, sentinel, failures. Others are
            written as text, NaN as null.
        """
        path = self.path / LAUNCHES / f"{_checked_key(key)}.json"
        text = json.dumps(plain_json(record), indent=1, allow_nan=False)
        write_atomic(path, lambda stream: stream.write(text.encode() + b"\n"))
        return path

    def launch_record(self, key: str) -> dict[str, object] | None:
        """Read what `write_launch` wrote; None if there is no such file, or it is torn."""
        path = self.path / LAUNCHES / f"{_checked_key(key)}.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) else None

    def partition(self, hardware: str) -> Path:
        """Return the folder that holds the rows of one GPU type."""
        if not hardware or not hardware.strip():
            raise StoreError("A result needs the name of its hardware.", where=str(self.path))
        return self.path / MEASUREMENTS / f"{PARTITION}={quote(hardware, safe=' ()+,')}"

    def partitions(self) -> list[tuple[str, Path]]:
        """List the GPU types of the run and their folders, by name."""
        root = self.path / MEASUREMENTS
        found = sorted(path for path in root.glob(f"{PARTITION}=*") if path.is_dir())
        return [(unquote(path.name.partition("=")[2]), path) for path in found]

    def done_task_ids(self) -> set[str]:
        """Return the ids of all tasks that have a row.

        A row is final, also an invalid one: what may be tried again is no row but an event.
        """
        done: set[str] = set()
        for _, files in self._listing():
            for path in files:
                done.update(read_parquet(path, ["task_id"]).column("task_id").to_pylist())
        return done

    def result_tables(self) -> Iterator[pa.Table]:
        """Yield each result file as a table with its `hardware`, older rows first."""
        for hardware, files in self._listing():
            for path in files:
                table = read_parquet(path)
                if PARTITION in table.column_names:
                    table = table.drop_columns([PARTITION])
                yield table.append_column(
                    PARTITION, pa.repeat(pa.scalar(hardware, pa.string()), table.num_rows)
                )

    def trace_files(self) -> list[Path]:
        """List the trace files of the run."""
        return sorted(p for p in (self.path / TRACES).glob("*.parquet") if p.name[0] != ".")

    def compact(self, on_step: Callable[[str], None] = lambda _: None) -> int:
        """Unite the loose result files of each GPU type into one file.

        Takes the driver lock unless this object holds it. See `compact_partition` for what
        survives a crash.

        Returns
        -------
        int
            Number of rows of the run.
        """
        if not self._locked:
            with self.lock():
                return self.compact(on_step)
        return sum(compact_partition(path, on_step) for _, path in self.partitions())

    def _listing(self) -> Iterator[tuple[str, list[Path]]]:
        for hardware, partition in self.partitions():
            yield hardware, result_files(partition)


def retrying(read: Callable[[], object]) -> object:
    """Read again if a compaction took a loose file away between listing and opening."""
    for _ in range(_LISTING_TRIES - 1):
        try:
            return read()
        except FileNotFoundError:
            continue
    return read()


def _checked_key(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise StoreError(
            f"{key!r} cannot name a file of the run folder.",
            fix="use letters, digits, '.', '_', '+' and '-', not starting with '.'",
        )
    return key


def _check_rows(table: pa.Table, hardware: str) -> None:
    if table.column("task_id").null_count:
        raise StoreError("A result row has no task_id.", where="column task_id")
    named = table.column(PARTITION)
    if named.null_count < len(named) and pc.any(pc.not_equal(named, hardware)).as_py():
        other = next(v for v in named.to_pylist() if v is not None and v != hardware)
        raise StoreError(
            f"A result row of hardware {other!r} was given for the partition of {hardware!r}.",
            where="column hardware",
        )


def _filled(table: pa.Table, name: str, value: int) -> pa.Table:
    index = table.column_names.index(name)
    return table.set_column(index, name, pc.fill_null(table.column(index), value))

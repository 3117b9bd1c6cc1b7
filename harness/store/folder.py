"""The run folder: everything one run wrote, resumable and readable without us."""

from __future__ import annotations

import json
import math
import re
import time
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
from harness.store.compact import compact_partition
from harness.store.convert import Rows, to_table, to_trace_table
from harness.store.eventlog import EventLog, event_line, read_events
from harness.store.files import content_of, disk_errors
from harness.store.manifest import (
    EVENTS,
    LAUNCHES,
    MANIFEST,
    MEASUREMENTS,
    PROGRESS,
    TRACES,
    plain_json,
    read_manifest,
    refuse_foreign,
)
from harness.store.packed import in_order, packed_files
from harness.store.parquet import COMPACTED, loose_bytes, read_loose, read_parquet, result_files
from harness.store.place import Place, place_of
from harness.store.schema import PARTITION, SCHEMA_VERSION

PROGRESS_S = 10.0
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}")
_LISTING_TRIES = 5


class RunFolder:
    """A folder with `measurements/`, `traces/`, `launches/`, `events.jsonl` and `manifest.json`.

    Make one with `create` or `open`. Reading needs no lock; a driver holds `lock()` while it
    adds rows and compacts.

    Attributes
    ----------
    path
        The folder; of a run in an object store, the local mirror of it.
    place
        Where the files really are.
    manifest
        Content of manifest.json: schema_version, created_at, and what the run recorded.
    """

    def __init__(self, place: Place, manifest: dict[str, object]) -> None:
        self.place = place
        self.path = place.path
        self.manifest = manifest
        self._locked = False
        self._log = EventLog(self.path / EVENTS)
        self._progress_sent = -math.inf

    @classmethod
    def create(cls, path: Path | str, manifest: Mapping[str, object]) -> RunFolder:
        """Make a run folder, or open the one that is there and update its manifest.

        Parameters
        ----------
        path
            The folder; made with its parents if missing. Or `s3://BUCKET/NAME`.
        manifest
            JSON values to record: versions, sweep text, inventory, git commit. They replace
            those of the same name; `schema_version` and `created_at` stay.

        Raises
        ------
        StoreError
            If the path holds something else, is of another schema version, or cannot be
            written.
        """
        place = place_of(path)
        state = place.pull()
        if state == "run":
            folder = cls(place, read_manifest(place.path / MANIFEST))
            folder.update_manifest(manifest)
            return folder
        if state == "file":
            raise StoreError(
                "A run folder cannot be made here: this is a file.",
                where=place.name,
                fix="give the name of a new folder",
            )
        refuse_foreign(place.path, place.name, place.entries())
        with disk_errors(place.path, "made"):
            (place.path / MEASUREMENTS).mkdir(parents=True, exist_ok=True)
            (place.path / TRACES).mkdir(exist_ok=True)
        folder = cls(
            place,
            {
                "schema_version": SCHEMA_VERSION,
                "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )
        folder.update_manifest(manifest, always=True)
        return folder

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """Open a run folder that exists; of `s3://BUCKET/NAME`, bring what is new.

        Raises
        ------
        StoreError
            If the path is missing, is no run folder, has a torn manifest, or was written by
            another version of the schema; if an object store cannot be read.
        """
        place = place_of(path)
        state = place.pull()
        if state == "run":
            return cls(place, read_manifest(place.path / MANIFEST))
        wrote = "give the folder that `energylens run --out` or `import --out` wrote"
        what, fix = {
            "missing": (
                "There is no such run folder.",
                "check the path, or make one with `energylens run` or `energylens import`",
            ),
            "file": ("This is a file, not a run folder.", wrote),
            "empty": ("This is not a run folder: it is empty.", wrote),
            "foreign": (f"This is not a run folder: it has no {MANIFEST}.", wrote),
        }[state]
        raise StoreError(what, where=place.name, fix=fix)

    def update_manifest(self, fields: Mapping[str, object], *, always: bool = False) -> None:
        """Record more in manifest.json; `schema_version` and `created_at` stay."""
        fixed = {"schema_version", "created_at"}
        merged = {**self.manifest, **{k: v for k, v in fields.items() if k not in fixed}}
        text = json.dumps(merged, indent=2, default=str)
        if always or json.loads(text) != self.manifest:
            self.place.write(self.path / MANIFEST, content_of(text.encode() + b"\n"))
        self.manifest = json.loads(text)

    @contextmanager
    def lock(self) -> Iterator[RunFolder]:
        """Hold the driver lock for the length of the block.

        Raises
        ------
        StoreError
            If another driver works on this folder; names its pid and host.
        """
        with self.place.lock() as left:
            self._locked = True
            if self.place.remote:
                self.manifest = read_manifest(self.path / MANIFEST)
            try:
                if left is not None:
                    self.append_event("lock_taken_over", previous=left)
                yield self
            finally:
                self._locked = False
                self._log.close()

    def append_event(self, kind: str, **fields: object) -> None:
        """Append one line to events.jsonl: `time` (UTC), the fields, `kind`.

        Parameters
        ----------
        kind
            What happened, a short name.
        fields
            JSON values; others are written as text, NaN as null.
        """
        line = event_line(kind, fields)
        self._log.append(line, keep_open=self._locked)
        self.place.event_added(line)

    def events(self) -> Iterator[dict[str, object]]:
        """Yield the events in order; a line torn by a crash is passed over."""
        return read_events(self.path / EVENTS)

    def write_progress(self, values: Mapping[str, object], *, force: bool = False) -> None:
        """Write how the run stands to `progress.json`, for `read_progress` on any machine.

        Parameters
        ----------
        values
            JSON values; others are written as text, NaN as null.
        force
            Write also to an object store that was written to less than 10 s ago.
        """
        now_s = time.monotonic()
        if self.place.remote:
            if not force and now_s - self._progress_sent < PROGRESS_S:
                return
            self._progress_sent = now_s
        text = json.dumps(plain_json(values), allow_nan=False)
        self.place.write(self.path / PROGRESS, content_of(text.encode() + b"\n"))

    def read_progress(self) -> dict[str, object] | None:
        """Read what `write_progress` wrote last; None if there is none, or it is torn."""
        return _read_json(self.path / PROGRESS)

    def commit(self, files: Mapping[str, bytes]) -> None:
        """Take in the files that a launch wrote elsewhere: see `packed`.

        Records and traces are written first, result files last: a row is there only with what
        belongs to it. Each file is there whole or not at all.

        Parameters
        ----------
        files
            Content by path relative to the run folder.

        Raises
        ------
        StoreError
            If a name is none that a launch writes, or a file is torn: nothing is written then.
        """
        for group in in_order(files):
            self.place.write_many([(self.path / name, content) for name, content in group])

    def packed(self) -> dict[str, bytes]:
        """Read the result files, traces and records of this folder, for `commit` of another."""
        with disk_errors(self.path, "read"):
            return packed_files(self.path)

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
        self.place.write(path, content_of(loose_bytes(table.drop_columns([PARTITION]))))
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

        self.place.write(path, write)
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
        self.place.write(path, content_of(text.encode() + b"\n"))
        return path

    def launch_record(self, key: str) -> dict[str, object] | None:
        """Read what `write_launch` wrote; None if there is no such file, or it is torn."""
        return _read_json(self.path / LAUNCHES / f"{_checked_key(key)}.json")

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
        """Yield each result file as a table with its `hardware`, older rows first.

        Columns of which no row of a file has a value may be missing.
        """
        for hardware, files in self._listing():
            for path in files:
                table = read_parquet(path) if path.name == COMPACTED else read_loose(path)
                if PARTITION in table.column_names:
                    table = table.drop_columns([PARTITION])
                yield table.append_column(
                    PARTITION, pa.repeat(pa.scalar(hardware, pa.string()), table.num_rows)
                )

    def trace_files(self) -> list[Path]:
        """List the trace files of the run; brings them from an object store."""
        self.pull_traces()
        return sorted(p for p in (self.path / TRACES).glob("*.parquet") if p.name[0] != ".")

    def pull_traces(self) -> None:
        """Bring the traces of a run in an object store; opening it leaves them there."""
        if self.place.remote:
            self.place.pull(traces=True)

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
        return sum(compact_partition(path, on_step, self.place) for _, path in self.partitions())

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


def _read_json(path: Path) -> dict[str, object] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


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

"""events.jsonl: one line an event, appended whole, readable after any crash."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from harness.store.files import disk_errors
from harness.store.manifest import plain_json


class EventLog:
    """Appends to an event log; keeps the file open while it is the driver's.

    Parameters
    ----------
    path
        The file; made by the first event.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mutex = threading.Lock()
        self._handle: int | None = None
        self._whole = False

    def append(self, line: bytes, *, keep_open: bool = False) -> None:
        """Append one line, newline included.

        A line that a driver left half-written is ended first, so that it spoils no other.
        """
        with self._mutex, disk_errors(self._path):
            handle = self._opened()
            try:
                content = line if self._whole else self._mended(handle, line)
                self._whole = False
                if os.write(handle, content) != len(content):
                    raise OSError(28, os.strerror(28))
                self._whole = True
            except BaseException:
                self._close()
                raise
            if not keep_open:
                self._close()

    def close(self) -> None:
        """Close the file; the next event opens it again."""
        with self._mutex:
            self._close()

    def _opened(self) -> int:
        if self._handle is not None and os.fstat(self._handle).st_nlink == 0:
            self._close()
        if self._handle is None:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._handle = os.open(self._path, flags, 0o644)
            self._whole = False
        return self._handle

    def _close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
        self._handle = None

    @staticmethod
    def _mended(handle: int, line: bytes) -> bytes:
        size = os.fstat(handle).st_size
        return b"\n" + line if size and os.pread(handle, 1, size - 1) != b"\n" else line


def event_line(kind: str, fields: dict[str, object]) -> bytes:
    """Encode one event: `time` (UTC), its fields, `kind`."""
    record = {"time": datetime.now(UTC).isoformat(), **fields, "kind": kind}
    try:
        text = json.dumps(record, allow_nan=False)
    except (TypeError, ValueError):
        text = json.dumps(plain_json(record), allow_nan=False)
    return text.encode() + b"\n"


def read_events(path: Path) -> Iterator[dict[str, object]]:
    """Yield the events of a log in order; a line torn by a crash is passed over."""
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

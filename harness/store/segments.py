"""The event log in an object store, which cannot append: pieces that grow up to a size."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from harness.store.files import content_of, write_atomic
from harness.store.manifest import EVENTS

SEGMENTS = "events"
BASE = ".events.base"
SEGMENT_BYTES = 1 << 20


class Segments:
    """What one driver appended to the event log since it began, in pieces.

    The last piece is sent again, longer, until it is full: few objects, and a driver that is
    killed loses only what it appended since the last sending.

    Parameters
    ----------
    folder
        The local run folder, whose events.jsonl grows.
    token
        Names the pieces; sorts by the driver's start.
    """

    def __init__(self, folder: Path, token: str, limit: int = SEGMENT_BYTES) -> None:
        self._folder, self._token, self._limit = folder, token, limit
        log = folder / EVENTS
        self._start = self._end = log.stat().st_size if log.exists() else 0
        self._number = 0
        self._mutex = threading.Lock()

    def send(self, send: Callable[[Path], None]) -> None:
        """Write the pieces that grew below `events/`, and send them; a failure is tried again."""
        with self._mutex:
            log = self._folder / EVENTS
            if not log.exists() or log.stat().st_size == self._end:
                return
            with log.open("rb") as stream:
                stream.seek(self._start)
                while piece := stream.readlines(self._limit):
                    content = b"".join(piece)
                    path = self._folder / SEGMENTS / f"{self._token}-{self._number:05d}.jsonl"
                    write_atomic(path, content_of(content))
                    send(path)
                    self._end = self._start + len(content)
                    if len(content) >= self._limit:
                        self._start = self._end
                        self._number += 1


def unite_segments(folder: Path) -> None:
    """Make events.jsonl of the pieces below `events/`, in the order of their names.

    An events.jsonl that somebody copied into the store comes first.
    """

    def write(stream: BinaryIO) -> None:
        for path in [folder / BASE, *sorted((folder / SEGMENTS).glob("*.jsonl"))]:
            content = path.read_bytes() if path.exists() else b""
            stream.write(content if content.endswith(b"\n") or not content else content + b"\n")

    write_atomic(folder / EVENTS, write)

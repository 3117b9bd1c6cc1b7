"""The driver lock: one process at a time may add to a run folder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import StoreError
from harness.store.files import disk_errors


@contextmanager
def driver_lock(path: Path) -> Iterator[dict[str, object] | None]:
    """Hold the lock file at `path` for the length of the block.

    The lock is the kernel's (`flock`), so it dies with its process; the text in the file
    (pid, host, started_at) is for people. Text left behind by a process that died is taken
    over.

    Parameters
    ----------
    path
        The lock file; made if missing.

    Yields
    ------
    dict or None
        What a driver that died had left in the file, None after a clean end.

    Raises
    ------
    StoreError
        If another process holds the lock: names its pid, host and start.
    """
    with disk_errors(path, "locked"):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            with disk_errors(path, "locked"):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except StoreError as error:
            if isinstance(error.__cause__, BlockingIOError):
                raise _refusal(path, _holder(handle)) from None
            raise
        left = _holder(handle)
        text = json.dumps(
            {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )
        with disk_errors(path):
            os.ftruncate(handle, 0)
            os.pwrite(handle, text.encode() + b"\n", 0)
        try:
            yield left
        finally:
            with disk_errors(path, "unlocked"):
                os.ftruncate(handle, 0)
                fcntl.flock(handle, fcntl.LOCK_UN)
    finally:
        os.close(handle)


def _holder(handle: int) -> dict[str, object] | None:
    """Read who the lock file names; None if it is empty or not readable as such."""
    try:
        found = json.loads(os.pread(handle, 4096, 0) or b"null")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _refusal(path: Path, holder: dict[str, object] | None) -> StoreError:
    if holder is None:
        return StoreError(
            "Another driver is starting on this run folder.",
            where=str(path),
            fix="wait for it, or give another --out",
        )
    pid, host, since = holder.get("pid"), holder.get("host"), holder.get("started_at")
    who = f"process {pid} on host {host}, since {since}"
    if host == socket.gethostname() and isinstance(pid, int) and not _alive(pid):
        return StoreError(
            f"The driver of this run folder ({who}) is gone, but a child of it still runs.",
            where=str(path),
            fix=f"end the processes that {pid} started, then run again",
        )
    return StoreError(
        f"Another driver works on this run folder: {who}.",
        where=str(path),
        fix="wait for it, or end that process, or give another --out",
    )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

"""The driver lock of a file system: one process at a time may add to a run folder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import StoreError
from harness.store.files import disk_errors

BEAT_S = 5.0
STALE_S = 30.0
SETTLE_S = 1.0
_SHARED = (
    "nfs", "lustre", "cifs", "smb", "ceph", "gpfs", "beegfs", "fuse", "9p", "afs", "ocfs2",
    "gfs2", "glusterfs", "wekafs", "panfs", "virtiofs",
)  # fmt: skip


@contextmanager
def driver_lock(
    path: Path,
    *,
    host: str | None = None,
    shared: bool | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[dict[str, object] | None]:
    """Hold the lock file at `path` for the length of the block.

    The lock is the kernel's (`flock`), so it dies with its process; the text in the file
    (pid, host, started_at) is for people. Text left behind by a process that died is taken
    over. Not every shared file system carries `flock` from host to host: so the holder also
    touches the file every few seconds, and a file that another host touched is not taken over
    until it was still for `STALE_S`.

    Parameters
    ----------
    path
        The lock file; made if missing.
    host
        Name of this host; None asks the system.
    shared
        Whether other hosts may see the file; None looks at the kind of file system.
    sleep
        Waits, on a shared file system, before the lock is read back.

    Yields
    ------
    dict or None
        What a driver that died had left in the file, None after a clean end.

    Raises
    ------
    StoreError
        If another process holds the lock: names its pid, host and start.
    """
    host = host or socket.gethostname()
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
        _refuse_other_host(path, handle, left, host)
        text = json.dumps(
            {
                "pid": os.getpid(),
                "host": host,
                "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "beat_s": BEAT_S,
            }
        )
        with disk_errors(path):
            os.ftruncate(handle, 0)
            os.pwrite(handle, text.encode() + b"\n", 0)
        if _is_shared(path) if shared is None else shared:
            sleep(SETTLE_S)
            with disk_errors(path, "read"):
                found = path.read_bytes()
            if found != text.encode() + b"\n":
                raise _refusal(path, _parsed(found))
        try:
            with _beating(handle):
                yield left
        finally:
            with disk_errors(path, "unlocked"):
                os.ftruncate(handle, 0)
                fcntl.flock(handle, fcntl.LOCK_UN)
    finally:
        os.close(handle)


@contextmanager
def _beating(handle: int) -> Iterator[None]:
    """Touch the lock file from a thread, for hosts that the kernel's lock does not reach."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_S):
            with suppress(OSError):
                os.utime(handle)

    thread = threading.Thread(target=beat, name="driver-lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _refuse_other_host(path: Path, handle: int, left: dict[str, object] | None, host: str) -> None:
    """Refuse a lock that we got, but that another host still touches."""
    if left is None or left.get("host") == host or not left.get("beat_s"):
        return
    # The file server's clock tells both times.
    with (
        disk_errors(path, "locked"),
        tempfile.NamedTemporaryFile(dir=path.parent, prefix=".clock-") as probe,
    ):
        silence_s = (os.stat(probe.name).st_mtime_ns - os.fstat(handle).st_mtime_ns) / 1e9
    if silence_s < STALE_S:
        wait_s = max(1, round(STALE_S - max(0.0, silence_s)) + 1)
        raise _refusal(path, left, f"; if it died, its place is free in {wait_s} s")


def _is_shared(path: Path) -> bool:
    """Tell from the kind of file system whether other hosts may see the file."""
    best, kind = "", ""
    with suppress(OSError):
        target = str(path.resolve())
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
            fields = line.split()
            mount = fields[4].replace("\\040", " ")
            inside = target == mount or target.startswith(mount.rstrip("/") + "/")
            if inside and len(mount) >= len(best):
                best, kind = mount, fields[fields.index("-") + 1]
    return kind.startswith(_SHARED)


def _holder(handle: int) -> dict[str, object] | None:
    """Read who the lock file names; None if it is empty or not readable as such."""
    return _parsed(os.pread(handle, 4096, 0))


def _parsed(text: bytes) -> dict[str, object] | None:
    try:
        found = json.loads(text or b"null")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _refusal(path: Path, holder: dict[str, object] | None, more: str = "") -> StoreError:
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
        fix=f"wait for it, or end that process, or give another --out{more}",
    )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

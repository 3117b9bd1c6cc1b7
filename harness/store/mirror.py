"""A run folder in an object store: a local mirror that readers use, and what goes up and down.

A file of the mirror that came from the store has the size and the change time of its object: so
one listing tells what is new, changed or gone, and no index can go stale.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from harness.errors import StoreError
from harness.store.files import content_of, disk_errors, write_atomic
from harness.store.lease import BEAT_S, LEASE, Lease, new_token
from harness.store.lock import driver_lock
from harness.store.manifest import EVENTS, LAUNCHES, LOCK, MANIFEST, MEASUREMENTS, TRACES
from harness.store.parquet import COMPACTED
from harness.store.place import State, Writer
from harness.store.s3 import Bucket, Stamp, UnreachableError, in_parallel
from harness.store.segments import BASE, SEGMENTS, Segments, unite_segments

RETRY_S = 60.0
_TRIES = 5
_PAGE = 900
_FOLDERS = (MEASUREMENTS, LAUNCHES, SEGMENTS, TRACES)


def mirror_folder(address: str, endpoint: str) -> Path:
    """Return the local folder that mirrors an address.

    It is below ENERGYLENS_CACHE, or else below the cache folder of the user.
    """
    base = os.environ.get("ENERGYLENS_CACHE")
    if base is None:
        cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        base = f"{cache}/energylens"
    digest = hashlib.sha256(f"{endpoint} {address}".encode()).hexdigest()[:16]
    return Path(base) / "mirrors" / digest / address.rpartition("/")[2]


class ObjectPlace:
    """A run folder in an object store.

    Parameters
    ----------
    bucket
        Its objects.
    path
        The local mirror, of this run folder only.
    beat_s
        Seconds between signs of life, and between uploads of events.
    clock, sleep
        Monotonic seconds, and waiting.
    """

    remote = True

    def __init__(
        self,
        bucket: Bucket,
        path: Path,
        *,
        beat_s: float = BEAT_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.path = path
        self.name = str(bucket.address)
        self._bucket = bucket
        self._beat_s = beat_s
        self._clock, self._sleep = clock, sleep
        self._names: set[str] = set()
        self._lease: Lease | None = None
        self._segments: Segments | None = None
        self._sent: dict[str, int] = {}

    def pull(self, *, traces: bool = False) -> State:
        """Bring what is new or changed, drop what is gone; traces only when asked for.

        While a driver of this machine works on the mirror, the mirror is what the store will be,
        and stays as it is.
        """
        with self._mirror(fcntl.LOCK_EX):
            driven = self._driven()
            if driven and not traces and (self.path / MANIFEST).exists():
                return "run"
            return self._steadily(traces, driven)

    def entries(self) -> set[str]:
        """Names at the top of the folder, as of the last pull."""
        return self._names

    def write(self, path: Path, write: Writer) -> None:
        """Write to the mirror, then put the file in one request."""
        self._check()
        with self._mirror(fcntl.LOCK_SH):
            write_atomic(path, write)
            self._send(path)

    def write_many(self, contents: Sequence[tuple[Path, bytes]]) -> None:
        """Write each file to the mirror, then put all of them side by side."""
        self._check()
        with self._mirror(fcntl.LOCK_SH):
            for path, content in contents:
                write_atomic(path, content_of(content))
            in_parallel(self._send, [path for path, _ in contents])

    def delete(self, paths: Sequence[Path]) -> Iterator[Path]:
        """Delete from the store, then from the mirror."""
        self._check()
        for start in range(0, len(paths), 1000):
            group = paths[start : start + 1000]
            with self._mirror(fcntl.LOCK_SH):
                in_parallel(self._forget, group)
                for path in group:
                    with disk_errors(path, "deleted"):
                        path.unlink(missing_ok=True)
            yield from group

    def event_added(self, line: bytes) -> None:
        """Put a line at once if no driver is here to collect them."""
        if self._segments is None:
            self.write(self.path / SEGMENTS / f"{new_token()}.jsonl", content_of(line))

    @contextmanager
    def lock(self) -> Iterator[dict[str, object] | None]:
        """Hold the lease of the run folder; beats and sends events from a thread of its own."""
        with ExitStack() as held:
            with self._mirror(fcntl.LOCK_EX):  # its holders look whether there is a driver
                held.enter_context(driver_lock(self._beside("driver")))
            token = new_token()
            lease = Lease(self._bucket, self.name, token, clock=self._clock, sleep=self._sleep)
            left = lease.acquire()
            ended = threading.Event()
            keeper = threading.Thread(target=self._keep, args=(lease, ended), daemon=True)
            keeper.start()
            try:
                with self._mirror(fcntl.LOCK_EX):
                    self._steadily(traces=False, driven=False)
                self._lease = lease
                self._segments = Segments(self.path, token)
                try:
                    yield left
                finally:
                    self._close()
            finally:
                ended.set()
                keeper.join()
                self._lease = self._segments = None
                lease.release()

    def _steadily(self, traces: bool, driven: bool) -> State:
        """Pull again where a compaction took objects away between listing and reading."""
        for _ in range(_TRIES - 1):
            with suppress(FileNotFoundError, _ChangedError):
                return self._pull(traces, driven)
        return self._pull(traces, driven)

    def _close(self) -> None:
        """Send the last events, and note which files of the mirror are those of the store."""
        assert self._lease is not None
        self._check()
        self._flush()
        found = self._bucket.list()
        for key, size in self._sent.items():
            stamp = found.get(key)
            if stamp is not None and stamp.size == size:
                _adopt(self.path / key, stamp)
        self._sent = {}

    def _keep(self, lease: Lease, ended: threading.Event) -> None:
        while not ended.wait(self._beat_s):
            # What fails here is tried again by the next beat, and said by the next write.
            with suppress(StoreError, OSError):
                lease.beat()
                self._flush()

    def _flush(self) -> None:
        if self._segments is not None:
            self._segments.send(self._send)

    def _check(self) -> None:
        if self._lease is not None:
            self._patiently(self._lease.check)

    def _patiently(self, request: Callable[[], None]) -> None:
        """Do a request again while the store is away for a short time."""
        began = self._clock()
        while True:
            try:
                return request()
            except UnreachableError:
                if self._clock() - began > RETRY_S:
                    raise
                self._sleep(1.0)

    def _at(self, key: str) -> Path:
        """Return the file of the mirror that holds an object."""
        return self.path / (BASE if key == EVENTS else key)

    def _key(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    def _forget(self, path: Path) -> None:
        """Delete the object of one file of the mirror."""
        key = self._key(path)
        self._patiently(lambda: self._bucket.delete(key))
        self._sent.pop(key, None)

    def _send(self, path: Path) -> None:
        """Put one file of the mirror."""
        key, size = self._key(path), path.stat().st_size
        self._patiently(lambda: self._bucket.upload(key, path))
        self._sent[key] = size

    def _pull(self, traces: bool, driven: bool) -> State:
        found = self._bucket.list()
        found = {key: stamp for key, stamp in found.items() if not key.startswith(f"{LEASE}/")}
        self._names = {key.partition("/")[0] for key in found}
        if MANIFEST not in found:
            self._names |= {key for key in found if key.startswith(f"{MEASUREMENTS}/")}
        if driven:
            found = {key: stamp for key, stamp in found.items() if key.startswith(f"{TRACES}/")}
            self._bring({k: s for k, s in found.items() if not (self.path / k).exists()})
            return "run"
        if MANIFEST not in found:
            with suppress(FileNotFoundError):
                shutil.rmtree(self.path)
            return "foreign" if found else "missing"
        wanted = {
            key: stamp
            for key, stamp in found.items()
            if (key.partition("/")[0] in _FOLDERS if "/" in key else key != LOCK)
        }
        changed = {
            key: stamp
            for key, stamp in wanted.items()
            if (traces or not key.startswith(f"{TRACES}/")) and _differs(self._at(key), stamp)
        }
        for folder in (MEASUREMENTS, TRACES):
            (self.path / folder).mkdir(parents=True, exist_ok=True)
        self._bring(changed)
        self._still(wanted)
        gone = self._drop(wanted)
        logs = [k for k in (*changed, *gone) if k == EVENTS or k.startswith(f"{SEGMENTS}/")]
        if logs or not (self.path / EVENTS).exists():
            unite_segments(self.path)
        return "run"

    def _bring(self, stamps: dict[str, Stamp]) -> None:
        def get(item: tuple[str, Stamp]) -> None:
            key, stamp = item
            path = self._at(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            with disk_errors(path):
                try:
                    self._bucket.download(key, temporary)
                    if temporary.stat().st_size != stamp.size:
                        raise _ChangedError
                    _adopt(temporary, stamp)
                    os.replace(temporary, path)
                except BaseException:
                    with suppress(OSError):
                        temporary.unlink()
                    raise

        if stamps:
            in_parallel(get, stamps.items())

    def _still(self, wanted: dict[str, Stamp]) -> None:
        """Look again at the compacted files: a listing of many pages may be of two times."""
        if len(wanted) > _PAGE:
            for key, stamp in wanted.items():
                if key.endswith(f"/{COMPACTED}") and self._bucket.stat(key) != stamp:
                    raise _ChangedError

    def _drop(self, wanted: dict[str, Stamp]) -> list[str]:
        gone = []
        for folder in _FOLDERS:
            for path in (self.path / folder).rglob("*"):
                key = self._key(path)
                if path.is_file() and key not in wanted and path.name[0] != ".":
                    path.unlink(missing_ok=True)
                    gone.append(key)
        return gone

    def _beside(self, kind: str) -> Path:
        folder = self.path.parent
        with disk_errors(folder, "made"):
            folder.mkdir(parents=True, exist_ok=True)
        return folder / f".{kind}.lock"

    @contextmanager
    def _mirror(self, how: int) -> Iterator[None]:
        """Keep writers and those who bring the mirror up to date out of each other's way."""
        with disk_errors(self._beside("mirror"), "locked"):
            handle = os.open(self._beside("mirror"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, how)
            yield
        finally:
            os.close(handle)

    def _driven(self) -> bool:
        """Tell whether a driver of this machine works on the mirror."""
        if self._lease is not None:
            return True
        handle = os.open(self._beside("driver"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False


class _ChangedError(Exception):
    """The store changed while it was read."""


def _differs(path: Path, stamp: Stamp) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return True
    return (found.st_size, found.st_mtime_ns) != (stamp.size, stamp.mtime_ns)


def _adopt(path: Path, stamp: Stamp) -> None:
    with suppress(FileNotFoundError):
        os.utime(path, ns=(stamp.mtime_ns, stamp.mtime_ns))

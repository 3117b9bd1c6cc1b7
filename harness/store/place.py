"""Where a run folder is: on a file system, or in an object store behind a local mirror.

Readers always get local files; only how these come and go differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from harness.store.files import content_of, disk_errors, write_atomic
from harness.store.lock import driver_lock
from harness.store.manifest import LOCK, MANIFEST

State = Literal["missing", "file", "empty", "foreign", "run"]
Writer = Callable[[BinaryIO], object]


class Place(Protocol):
    """A run folder's files, and who may write them.

    Attributes
    ----------
    path
        The local folder that readers use.
    name
        What the user calls it.
    remote
        Whether `path` only mirrors what is elsewhere.
    """

    path: Path
    name: str
    remote: bool

    def pull(self, *, traces: bool = False) -> State:
        """Bring the local folder up to date, and say what is there."""

    def entries(self) -> set[str]:
        """Names at the top of the folder."""

    def write(self, path: Path, write: Writer) -> None:
        """Write a file whole or not at all."""

    def write_many(self, contents: Sequence[tuple[Path, bytes]]) -> None:
        """Write files that do not depend on each other, each whole or not at all."""

    def delete(self, paths: Sequence[Path]) -> Iterator[Path]:
        """Delete files; yields each one that is gone."""

    def event_added(self, line: bytes) -> None:
        """Pass on that a line was appended to the local event log."""

    def lock(self) -> AbstractContextManager[dict[str, object] | None]:
        """Be the only driver; yields what a driver that died had left."""


class LocalPlace:
    """A folder of a local disk or a shared file system."""

    remote = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)

    def pull(self, *, traces: bool = False) -> State:
        """Say what is there; nothing has to be brought."""
        if not self.path.exists():
            return "missing"
        if not self.path.is_dir():
            return "file"
        if (self.path / MANIFEST).exists():
            return "run"
        return "foreign" if any(self.path.iterdir()) else "empty"

    def entries(self) -> set[str]:
        """Names at the top of the folder."""
        return {path.name for path in self.path.iterdir()} if self.path.is_dir() else set()

    def write(self, path: Path, write: Writer) -> None:
        """Write a file under a dot name and move it into place."""
        write_atomic(path, write)

    def write_many(self, contents: Sequence[tuple[Path, bytes]]) -> None:
        """Write each file in turn."""
        for path, content in contents:
            write_atomic(path, content_of(content))

    def delete(self, paths: Sequence[Path]) -> Iterator[Path]:
        """Delete files; yields each one that is gone."""
        for path in paths:
            with disk_errors(path, "deleted"):
                path.unlink(missing_ok=True)
            yield path

    def event_added(self, line: bytes) -> None:
        """Nothing: the local event log is the event log."""

    def lock(self) -> AbstractContextManager[dict[str, object] | None]:
        """Hold the lock file of the folder."""
        return driver_lock(self.path / LOCK)


def place_of(path: Path | str) -> Place:
    """Tell from a path or an address where its files are."""
    from harness.store.s3 import Bucket, is_object, parse_address

    if not is_object(path):
        return LocalPlace(Path(path))
    from harness.store.mirror import ObjectPlace, mirror_folder

    address = parse_address(path)
    bucket = Bucket(address)
    return ObjectPlace(bucket, mirror_folder(str(address), bucket.endpoint or ""))


def local_folder(path: Path | str) -> Path:
    """Return the local folder of a run: the path itself, or the mirror of an object store.

    For files that belong beside a run but not into it: a report, a saved evaluation. A mirror
    is not brought up to date here; `RunFolder.open` does that.
    """
    return place_of(path).path

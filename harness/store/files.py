"""Files that are whole or not there: atomic writes, and what to tell when a disk refuses."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from harness.errors import StoreError

_KEPT = "What was measured before stays as it is."
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}


@contextmanager
def disk_errors(path: Path, doing: str = "written") -> Iterator[None]:
    """Turn an OSError about `path` into a StoreError that says what is safe and what to do."""
    try:
        yield
    except OSError as error:
        code = error.errno
        if code in _FULL:
            raise StoreError(
                f"The disk is full: {path.name} could not be {doing}. {_KEPT}",
                where=str(path),
                fix="free space (or lift the file size limit or quota) and run again: it resumes",
            ) from error
        if code in _CLOSED:
            raise StoreError(
                f"The folder may not be written: {path.name} could not be {doing}. {_KEPT}",
                where=str(path),
                fix="make the folder writable for this user, or give another --out",
            ) from error
        raise StoreError(
            f"{path.name} could not be {doing}: {error.strerror or error}. {_KEPT}",
            where=str(path),
            fix="check that the path exists and that its disk is healthy, then run again",
        ) from error


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under a temporary dot name and move it into place.

    A reader sees the old file or the new one, never a part of one; after a crash at most a
    file `.NAME.tmp` is left, which no Parquet reader looks at.

    Parameters
    ----------
    path
        The final name; its folder is made if missing.
    write
        Writes the content to the open file.

    Raises
    ------
    StoreError
        If the disk is full, read-only or broken. The temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with disk_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)


def content_of(content: bytes) -> Callable[[BinaryIO], object]:
    """Return a function that writes these bytes."""
    return lambda stream: stream.write(content)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power loss, where the file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)

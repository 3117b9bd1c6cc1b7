"""Where results go when the run folder cannot be written: nothing measured is lost.

The next run of the same folder on this machine takes them in first.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO

from harness.store import RunFolder
from harness.store.files import write_atomic
from harness.store.packed import in_order, packed_files


def rescue_folder(location: str) -> Path:
    """The place for results of the run folder at `location`."""
    name = hashlib.sha256(location.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"energylens-rescue-{os.getuid()}" / name


def rescue(location: str, files: Mapping[str, bytes]) -> Path:
    """Keep files that the run folder at `location` did not take.

    Raises
    ------
    StoreError
        If this place is full too.
    """
    root = rescue_folder(location)
    for group in in_order(files):
        for name, content in group:
            write_atomic(root / name, partial(_put, content))
    return root


def address_of(folder: RunFolder) -> str:
    """One name for a run folder, however it was typed."""
    return folder.place.name if folder.place.remote else str(folder.path.resolve())


def take_in_rescued(folder: RunFolder, location: str) -> int:
    """Commit what was kept for this run folder; returns the number of files.

    Raises
    ------
    StoreError
        If the folder still cannot be written; what was kept stays.
    """
    root = rescue_folder(location)
    if not root.is_dir() or root.stat().st_uid != os.getuid():
        return 0
    files = packed_files(root)
    if files:
        folder.commit(files)
    shutil.rmtree(root, ignore_errors=True)
    return len(files)


def _put(content: bytes, stream: BinaryIO) -> None:
    stream.write(content)

"""Where results go when the run folder cannot be written: nothing measured is lost.

The next run of the same folder on this machine takes them in first.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from harness.store import RunFolder
from harness.store.files import write_atomic


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
    RunFolder.create(root, {"of": location})
    RunFolder.open(root).commit(files)
    write_atomic(root / "belongs-to.txt", lambda stream: stream.write(location.encode()))
    return root


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
    files = RunFolder.open(root).packed()
    folder.commit(files)
    shutil.rmtree(root, ignore_errors=True)
    return len(files)

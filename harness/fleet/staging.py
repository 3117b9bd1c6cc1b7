"""Folders on a node where a launch puts its files before they go to the driver.

The driver is the only writer of the run folder, so that nodes need neither a shared file system
nor credentials of a store, and a node that was cut off can never write late.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.fleet.janitor import holder
from harness.store.files import write_atomic

PREFIX = "energylens-launch-"
_TRIAL = b"\0" * 2**20


@contextmanager
def staging_folder() -> Iterator[Path]:
    """Make a folder for one launch; it goes with the block.

    Folders of workers that were killed go first, so that they do not fill the disk.
    """
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{holder(os.getpid()).replace(':', '-')}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def disk_works(folder: Path) -> str:
    """Write a megabyte there; return what the disk says if it does not let us, else nothing."""
    trial = folder / ".trial"
    try:
        with trial.open("wb") as stream:
            stream.write(_TRIAL)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        return f"{error.strerror or error}: {folder}"
    finally:
        with suppress(OSError):
            trial.unlink()
    return ""


def model_files(models: Mapping[str, str]) -> dict[str, Path]:
    """Put the config of each model on this node's disk.

    Parameters
    ----------
    models
        model_id -> text of its config.json.

    Returns
    -------
    dict
        model_id -> file, named by its content, so that the next launch finds it there.
    """
    root = Path(tempfile.gettempdir()) / f"energylens-models-{os.getuid()}"
    out = {}
    for model_id, text in models.items():
        path = root / hashlib.sha256(text.encode()).hexdigest()[:16] / "config.json"
        with suppress(OSError):
            if path.read_text(encoding="utf-8") == text:
                out[model_id] = path
                continue
        content = text.encode()
        write_atomic(path, lambda stream, content=content: stream.write(content))  # type: ignore[misc]
        out[model_id] = path
    return out


def _sweep() -> None:
    """Delete folders of this user whose worker is gone, if it was of this process namespace."""
    ours = holder(os.getpid()).rpartition(":")[2]
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*-*-*"):
        with suppress(OSError, ValueError):
            pid, ticks, namespace = path.name.removeprefix(PREFIX).split("-")[:3]
            if not ticks or namespace != ours or path.stat().st_uid != os.getuid():
                continue
            if holder(int(pid)) != f"{pid}:{ticks}:{namespace}":
                shutil.rmtree(path, ignore_errors=True)

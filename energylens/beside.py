"""Results that are kept beside a run, and hold only as long as its measurements do."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energylens.fingerprint import fingerprint

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Beside:
    """A result of one run, and where it was kept.

    Attributes
    ----------
    data
        The result as plain values, with the fingerprint of the measurements.
    saved_to
        The file it was written to; None where the folder cannot be written.
    """

    data: dict[str, Any]
    saved_to: Path | None

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return self.data


def read_beside(path: Path, version: int, frame: pd.DataFrame) -> dict[str, Any] | None:
    """Return a saved result if it is of this version and belongs to these very measurements.

    Parameters
    ----------
    path
        The JSON file.
    version
        What its key `version` must be.
    frame
        The measurements of the run now; their fingerprint must be that in the file.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(data, dict) or data.get("version") != version:
        return None
    return data if data.get("fingerprint") == fingerprint(frame) else None


def save_beside(path: Path, data: dict[str, Any]) -> Path | None:
    """Write whole or not at all; a folder of somebody else's that is read-only is no error."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(data, allow_nan=False), encoding="utf-8")
        os.replace(partial, path)
    except OSError:
        return None
    return path

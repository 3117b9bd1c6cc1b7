"""Where characterisations of sensors are kept: one JSON file a GPU, good for one driver version.

$ENERGYLENS_CACHE/sensors/GPU-....json      ~/.cache/energylens/sensors without the variable
"""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import MeterError
from harness.meters.base import SensorFacts
from harness.meters.sensor_report import Characterisation

VARIABLE = "ENERGYLENS_CACHE"


@dataclass(frozen=True, slots=True)
class Cached:
    """What the cache holds of one GPU.

    Attributes
    ----------
    found
        The characterisation; None where there is none that can be used.
    warning
        Why a file that is there is not used; empty if there is nothing to say.
    """

    found: Characterisation | None
    warning: str = ""


def cache_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Folder of the characterisations; it need not exist."""
    environ = os.environ if environ is None else environ
    named = environ.get(VARIABLE)
    return (Path(named).expanduser() if named else Path("~/.cache/energylens").expanduser()) / (
        "sensors"
    )


def _path(uuid: str, folder: Path | None) -> Path:
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", uuid).lstrip(".") or "_"
    return (folder or cache_folder()) / f"{safe}.json"


def load(uuid: str, driver: str | None, folder: Path | None = None) -> Cached:
    """Look up a GPU.

    Parameters
    ----------
    uuid
        The GPU.
    driver
        The driver version of today; another one invalidates what is there. None takes any.
    folder
        Where to look; `cache_folder()` if None.
    """
    path = _path(uuid, folder)
    cached = _read(path)
    if cached.found is None:
        return cached
    if cached.found.uuid != uuid:
        return Cached(None, f"{path} is about {cached.found.uuid}: ignored")
    if driver is not None and cached.found.driver != driver:
        return Cached(
            None,
            f"{uuid} was characterised under driver {cached.found.driver}, now it is {driver}: "
            "run `energylens doctor --sensors` again",
        )
    return cached


def _read(path: Path) -> Cached:
    try:
        return Cached(Characterisation.from_json(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Cached(None)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "torn, or of another version"
        return Cached(
            None, f"{path} cannot be used ({reason}): run `energylens doctor --sensors` again"
        )


def load_facts(uuid: str, driver: str, folder: Path | None = None) -> SensorFacts | None:
    """Facts of a GPU characterised under this driver; None where there are none.

    A file that is there and cannot be used is told by a warning. Facts without a known period
    are none: a window could not be sized by them.
    """
    cached = load(uuid, driver, folder)
    if cached.warning:
        warnings.warn(cached.warning, stacklevel=2)
    if cached.found is None or not cached.found.facts.counter_period_s > 0:
        return None
    return cached.found.facts


def entries(folder: Path | None = None) -> list[Cached]:
    """Everything in the cache, by file name."""
    where = folder or cache_folder()
    return [_read(path) for path in sorted(where.glob("*.json"))]


def store(found: Characterisation, folder: Path | None = None) -> Path:
    """Keep a characterisation; the file is whole or not there at all.

    Raises
    ------
    MeterError
        If the folder cannot be written.
    """
    path = _path(found.uuid, folder)
    name = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(found.to_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError as error:
        if name:
            Path(name).unlink(missing_ok=True)
        raise MeterError(
            f"the characterisation cannot be kept: {error.strerror}",
            where=str(path),
            fix=f"set {VARIABLE} to a folder that can be written",
        ) from error
    return path

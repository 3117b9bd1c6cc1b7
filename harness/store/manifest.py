"""What a run folder is made of, and manifest.json, which makes a folder one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.errors import StoreError
from harness.store.files import disk_errors
from harness.store.schema import SCHEMA_VERSION

MANIFEST = "manifest.json"
EVENTS = "events.jsonl"
LOCK = "driver.lock"
PROGRESS = "progress.json"
MEASUREMENTS = "measurements"
TRACES = "traces"
LAUNCHES = "launches"


def refuse_foreign(path: Path, name: str, entries: Iterable[str]) -> None:
    """Refuse a folder, whose top has these entries, if it holds things we did not write."""
    ours = {MEASUREMENTS, TRACES, LAUNCHES, EVENTS, LOCK, PROGRESS}
    foreign = sorted(entry for entry in entries if entry not in ours and entry[0] != ".")
    orphans = next((path / MEASUREMENTS).rglob("*.parquet"), None)
    if foreign or orphans:
        what = "holds other files" if foreign else f"holds measurements but no {MANIFEST}"
        raise StoreError(
            f"A run folder cannot be made here: the folder {what}.",
            where=f"{name}/{foreign[0]}" if foreign else str(orphans),
            fix="give the name of a new or empty folder",
        )


def read_manifest(path: Path) -> dict[str, object]:
    """Read manifest.json, or say what is wrong with it in a StoreError."""
    with disk_errors(path, "read"):
        raw = path.read_bytes()
    try:
        manifest = json.loads(raw)
    except ValueError as error:
        raise StoreError(
            f"{MANIFEST} is torn or is not JSON: {error}",
            where=str(path),
            fix="restore it from a copy; the measurements beside it are plain Parquet",
        ) from error
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version is None:
        raise StoreError(
            f"{MANIFEST} does not name a schema_version, so this is not a run folder.",
            where=str(path),
            fix="give the folder that `energylens run --out` or `import --out` wrote",
        )
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"The run folder has schema version {version!r}; "
            f"this EnergyLens reads version {SCHEMA_VERSION}.",
            where=f"{path}, key schema_version",
            fix="read it with the EnergyLens that wrote it, or make a new run folder",
        )
    return dict(manifest)


def plain_json(value: object) -> object:
    """Turn a value into one that JSON has: NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(k): plain_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain_json(v) for v in value]
    item = getattr(value, "item", None)
    if item is not None and not isinstance(value, str):
        value = item()
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)

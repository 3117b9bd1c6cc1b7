"""What a launch wrote in a staging folder, as bytes that travel, and what of it is let in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from harness.errors import StoreError
from harness.store.manifest import LAUNCHES, MEASUREMENTS, TRACES
from harness.store.schema import PARTITION

_NAME = r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,240}"
_ALLOWED = {
    MEASUREMENTS: re.compile(
        rf"{MEASUREMENTS}/{PARTITION}=[A-Za-z0-9._~%+,() -]{{1,200}}/loose-{_NAME}\.parquet"
    ),
    TRACES: re.compile(rf"{TRACES}/{_NAME}\.parquet"),
    LAUNCHES: re.compile(rf"{LAUNCHES}/{_NAME}\.json"),
}


def packed_files(folder: Path) -> dict[str, bytes]:
    """Read the result files, traces and records of a folder, by path relative to it."""
    found: dict[str, bytes] = {}
    for top in _ALLOWED:
        for path in sorted((folder / top).rglob("*")):
            if path.is_file() and path.name[0] != ".":
                found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def in_order(files: Mapping[str, bytes]) -> list[list[tuple[str, bytes]]]:
    """Sort files into those to write first and, last, the result files that commit them.

    Raises
    ------
    StoreError
        If a name is none that a launch writes, or a result file or trace is no Parquet file.
    """
    first: list[tuple[str, bytes]] = []
    last: list[tuple[str, bytes]] = []
    for name, content in files.items():
        top = PurePosixPath(name).parts[0] if name else ""
        allowed = _ALLOWED.get(top)
        if allowed is None or not allowed.fullmatch(name):
            raise StoreError(
                f"{name!r} is no file that a launch writes.",
                where="the files that a worker sent",
                fix="run the same version of EnergyLens on every node",
            )
        whole = content[:4] == content[-4:] == b"PAR1" and len(content) > 12
        if top != LAUNCHES and not whole:
            raise StoreError(
                f"{name} arrived torn: it is no whole Parquet file.",
                where="the files that a worker sent",
                fix="run again: its tasks are measured again",
            )
        (last if top == MEASUREMENTS else first).append((name, bytes(content)))
    return [group for group in (first, last) if group]

"""The measurement table on disk: schema, atomic writes, compaction, reading.

Names are loaded when first used, so that `import harness.store` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from harness.errors import EnergyLensError, FitError, StoreError

if TYPE_CHECKING:
    from harness.store.code import code_version
    from harness.store.folder import RunFolder
    from harness.store.identity import IDENTITY_DEFAULTS, task_id_of
    from harness.store.place import local_folder
    from harness.store.read import query, read_measurements, read_table, read_traces
    from harness.store.schema import COLUMNS, SCHEMA_VERSION, Column, arrow_schema, conform

_HOME = {
    "COLUMNS": "schema",
    "Column": "schema",
    "IDENTITY_DEFAULTS": "identity",
    "RunFolder": "folder",
    "SCHEMA_VERSION": "schema",
    "arrow_schema": "schema",
    "code_version": "code",
    "conform": "schema",
    "local_folder": "place",
    "query": "read",
    "read_measurements": "read",
    "read_table": "read",
    "read_traces": "read",
    "task_id_of": "identity",
}

__all__ = [
    "COLUMNS",
    "IDENTITY_DEFAULTS",
    "SCHEMA_VERSION",
    "Column",
    "EnergyLensError",
    "FitError",
    "RunFolder",
    "StoreError",
    "arrow_schema",
    "code_version",
    "conform",
    "local_folder",
    "query",
    "read_measurements",
    "read_table",
    "read_traces",
    "task_id_of",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)

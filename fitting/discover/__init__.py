"""Search for the structure of energy laws: engines, their candidates, and one kind of result.

Names are loaded when first used, so that `import fitting.discover` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fitting.discover.engine import Engine, Probe, engine_names, get_engine
    from fitting.discover.result import Discovery, Law, PhaseSearch
    from fitting.discover.search import discover_frame

_HOME = {
    "Discovery": "result",
    "Engine": "engine",
    "Law": "result",
    "PhaseSearch": "result",
    "Probe": "engine",
    "discover_frame": "search",
    "engine_names": "engine",
    "get_engine": "engine",
}

__all__ = [
    "Discovery",
    "Engine",
    "Law",
    "PhaseSearch",
    "Probe",
    "discover_frame",
    "engine_names",
    "get_engine",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)

"""The fleet: a driver that fans launches out over Ray and collects their rows.

Names are loaded when first used, so that a node that only probes itself loads little.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.fleet.budget import Budget
    from harness.fleet.driver import RunSummary, run_sweep
    from harness.fleet.progress import ProgressSink, Quiet

_HOME = {
    "Budget": "budget",
    "ProgressSink": "progress",
    "Quiet": "progress",
    "RunSummary": "driver",
    "run_sweep": "driver",
}

__all__ = ["Budget", "ProgressSink", "Quiet", "RunSummary", "run_sweep"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)

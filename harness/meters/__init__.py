"""Meters read power and energy; windows and phases turn their samples into joules.

Names are loaded when first used: the sampler's process imports modules of this package, and must
stay small.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.meters.base import Meter, Samples, SensorFacts
    from harness.meters.phases import PhaseEnergies, PhaseSamples, combine_repeats
    from harness.meters.window import WindowEnergy, window_energy

__all__ = [
    "Meter",
    "PhaseEnergies",
    "PhaseSamples",
    "Samples",
    "SensorFacts",
    "WindowEnergy",
    "combine_repeats",
    "window_energy",
]

_HOME = {
    "Meter": "base",
    "PhaseEnergies": "phases",
    "PhaseSamples": "phases",
    "Samples": "base",
    "SensorFacts": "base",
    "WindowEnergy": "window",
    "combine_repeats": "phases",
    "window_energy": "window",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)

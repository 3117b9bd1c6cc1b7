"""Meters read power and energy; windows and phases turn their samples into joules."""

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

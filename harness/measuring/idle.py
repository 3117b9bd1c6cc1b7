"""Loaded idle power: what all devices of a deployment draw while they wait."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from harness.engines import Session
from harness.meters.window import window_energy

IDLE_WINDOW_S = 5.0


@dataclass(frozen=True, slots=True)
class Idle:
    """One idle window.

    Attributes
    ----------
    power_w
        Mean power of all devices; NaN without a power meter.
    stderr_w
        What the position of the counter's steps adds to it.
    processes
        Most processes on a device meanwhile; NaN if not known.
    counters_j
        Sum of the energy counters of all devices at its end; NaN where one has none.
    """

    power_w: float
    stderr_w: float = math.nan
    processes: float = math.nan
    counters_j: float = math.nan

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is not known is null."""
        return {k: v if math.isfinite(v) else None for k, v in asdict(self).items()}


def idle_power(session: Session) -> Idle:
    """Let the devices rest and read what they draw; no rest without a power meter."""
    meter = session.meter
    if not meter.has_power:
        return Idle(math.nan)
    start, end = session.rest(max(IDLE_WINDOW_S, meter.sensor.shortest_window_s))
    samples = meter.read(start, end)
    energy, _ = window_energy(samples, start, end, meter.sensor)
    seconds = (end - start) / 1e9
    return Idle(
        energy.energy_j / seconds,
        energy.stderr_j / seconds,
        energy.processes,
        float(samples.energy_mj[:, -1].sum()) / 1e3 if samples.energy_mj.size else math.nan,
    )


def drawn_between(before: Idle, after: Idle) -> float | None:
    """Energy of all devices from one idle window to a later one, by their counters, joules.

    None where a counter is missing, or ran backwards in between.
    """
    drawn_j = after.counters_j - before.counters_j
    return drawn_j if drawn_j > 0 else None

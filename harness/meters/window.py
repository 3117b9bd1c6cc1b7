"""Energy of one time window from sampled counters, cross-checked by the integral of power.

    counter   __|~~|__|~~|__   steps every period; a poll sees a step up to one poll late
    window       [-----------]
                 ^ edges fall between two steps: interpolate between the steps around them

The counter is primary. Its steps are turned into a broken line; each step is placed half way
between the last poll that showed the old value and the first that showed the new one, else every
reading would lag by half a poll and charge a phase with a piece of the one before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.meters.base import Samples, SensorFacts

MAX_DISAGREEMENT = 0.05
"""Counter and integral may differ by this share before a row is flagged."""

MAX_GAP_PERIODS = 5.0
"""Longest gap between two polls, in polling periods, before samples count as missing."""


@dataclass(frozen=True, slots=True)
class WindowEnergy:
    """Energy of all devices between two instants.

    Attributes
    ----------
    energy_j
        From the counters.
    integral_j
        Trapezoid integral of instant power over the same interval.
    stderr_j
        One standard deviation of `energy_j` from the position of the edges between two steps.
    samples
        Number of polls inside the window.
    throttled
        Whether any device reported reduced clocks.
    reasons
        Why the window must not be trusted; empty if it may.
    """

    energy_j: float
    integral_j: float
    stderr_j: float
    samples: int
    throttled: bool
    reasons: tuple[str, ...]

    @property
    def counter_vs_integral(self) -> float:
        """Counter over integral, minus one."""
        return self.energy_j / self.integral_j - 1 if self.integral_j > 0 else float("nan")


class EnergyLine:
    """Cumulative energy over time of all devices together, from their stepped counters.

    Parameters
    ----------
    samples
        Polls that cover every instant that will be asked for.
    """

    def __init__(self, samples: Samples) -> None:
        self._lines: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = []
        self.frozen = False
        self.backwards = False
        t_ns = samples.t_ns
        steps = np.diff(samples.energy_mj, axis=1)
        self.backwards = bool((steps < 0).any())
        for device, step in zip(samples.energy_mj, steps, strict=True):
            seen = np.flatnonzero(step > 0) + 1
            if seen.size < 2:
                self.frozen = True
                continue
            when = (t_ns[seen - 1] + t_ns[seen]) / 2.0
            self._lines.append((when, device[seen] / 1e3))

    def at(self, t_ns: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Cumulative energy in joules at each instant, summed over the devices."""
        t = np.asarray(t_ns, dtype=np.float64)
        total = np.zeros(t.shape)
        for when, energy in self._lines:
            total += np.interp(t, when, energy)
        return total


def window_energy(
    samples: Samples, start_ns: int, end_ns: int, sensor: SensorFacts
) -> tuple[WindowEnergy, EnergyLine]:
    """Energy between `start_ns` and `end_ns`, and the line it was read from.

    Parameters
    ----------
    samples
        Polls that begin before `start_ns` and end after `end_ns` by at least one counter period.
    start_ns, end_ns
        The window, on the clock of the samples.
    sensor
        Facts about the sensor.
    """
    line = EnergyLine(samples)
    reasons: list[str] = []
    if line.backwards:
        reasons.append("counter_backwards")
    if line.frozen:
        reasons.append("counter_frozen")
    inside = (samples.t_ns >= start_ns) & (samples.t_ns <= end_ns)
    gaps_s = np.diff(samples.t_ns) / 1e9
    covered = samples.t_ns[0] <= start_ns and samples.t_ns[-1] >= end_ns
    if not covered or gaps_s.max(initial=0.0) > MAX_GAP_PERIODS * sensor.poll_period_s:
        reasons.append("samples_missing")
    duration_s = (end_ns - start_ns) / 1e9
    if duration_s < 0.999 * sensor.shortest_window_s:
        reasons.append("window_too_short")
    start_j, end_j = line.at([start_ns, end_ns])
    energy_j = float(end_j - start_j)
    integral_j = float(_integral(samples, start_ns, end_ns).sum())
    if integral_j > 0 and abs(energy_j / integral_j - 1) > MAX_DISAGREEMENT:
        reasons.append("meter_disagreement")
    throttled = bool(samples.throttle_mask[:, inside].any())
    if throttled:
        reasons.append("throttled")
    devices = len(samples.gpu_uuids)
    mean_power_w = energy_j / duration_s / devices if duration_s > 0 else 0.0
    # Each edge lies anywhere between two steps: uniform, so period / sqrt(12), two edges.
    stderr_j = mean_power_w * sensor.counter_period_s * np.sqrt(2 / 12 * devices)
    return (
        WindowEnergy(
            energy_j, integral_j, float(stderr_j), int(inside.sum()), throttled, tuple(reasons)
        ),
        line,
    )


def _integral(samples: Samples, start_ns: int, end_ns: int) -> npt.NDArray[np.float64]:
    """Trapezoid integral of power per device, joules, with the edges interpolated."""
    t = samples.t_ns.astype(np.float64)
    inside = (t > start_ns) & (t < end_ns)
    grid = np.concatenate(([start_ns], t[inside], [end_ns])).astype(np.float64)
    out = np.empty(len(samples.gpu_uuids))
    for i, power in enumerate(samples.power_w):
        values = np.concatenate(
            ([np.interp(start_ns, t, power)], power[inside], [np.interp(end_ns, t, power)])
        )
        out[i] = np.trapezoid(values, grid) / 1e9
    return out

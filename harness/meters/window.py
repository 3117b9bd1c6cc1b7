"""Energy of one time window from sampled counters, cross-checked by the integral of power.

    power    idle ____|~~~~~~~~~~~~~~~|____ idle
    window            [---------------]
    anchors      * *                    * *       steps of the counter late in the rests around it

The counter is primary. Where the devices are known to rest before and after the window, its edges
are anchored in the rests: energy at the edge is that of a step in the rest, less the power of the
rest times the distance. That is right whatever the lag of the sensor, as long as the rest is
longer, and however coarse its steps, since little is drawn while resting. Without rests the edges
are interpolated between the steps around them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from harness.meters.base import Samples, SensorFacts
from harness.meters.counter import CounterLine, read_lines

MAX_DISAGREEMENT = 0.05
"""Counter and integral may differ by this share before a row is flagged."""
MAX_GAP_PERIODS = 5.0
"""Longest gap between two polls, in polling periods, before samples count as missing."""
MAX_PART_TIME_ERROR = 0.01
"""Share of the energy that two standard deviations of a part-time sensor may reach."""
ANCHOR_PERIODS = 6.0
"""Counter periods of rest that an anchored edge needs."""
ASSUMED_PERIOD_S = 0.1
"""Counter period to go on with where none was found; such windows are flagged."""
ANCHOR_SHARE = 0.25
"""Share of the distance to the anchor that counts as unknown at full power."""


@dataclass(frozen=True, slots=True)
class WindowEnergy:
    """Energy of all devices between two instants.

    Attributes
    ----------
    energy_j
        From the counters; from the integral where the sensor has no counter; NaN where
        neither could be read.
    integral_j
        Trapezoid integral of instant power over the same interval; NaN without readings.
    stderr_j
        One standard deviation of `energy_j` from the position of the edges between two steps,
        from polls that are missing there, and from the time a part-time sensor looks away.
    samples
        Number of polls inside the window.
    throttled
        Whether any device reported reduced clocks.
    reasons
        Why the window must not be trusted; empty if it may.
    temperature_c, processes
        Highest temperature and highest number of processes on a device; NaN if not read.
    """

    energy_j: float
    integral_j: float
    stderr_j: float
    samples: int
    throttled: bool
    reasons: tuple[str, ...]
    temperature_c: float = float("nan")
    processes: float = float("nan")

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
    sensor
        Facts about the sensor.
    """

    def __init__(self, samples: Samples, sensor: SensorFacts) -> None:
        self.lines, self.reasons = read_lines(samples, sensor)

    def at(self, t_ns: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Cumulative energy in joules at each instant, summed over the devices."""
        t = np.asarray(t_ns, dtype=np.float64)
        total = np.zeros(t.shape)
        for line in self.lines:
            total += line.at(t)
        return total


def rest_needed_s(sensor: SensorFacts) -> float:
    """How long devices must rest around a window for its edges to be anchored, seconds.

    A simulated sensor has no lag, and its edges are interpolated: 5 periods to see the last step.
    """
    if sensor.origin == "simulated":
        return 5 * sensor.counter_period_s
    slow_s = max(sensor.lag_s, sensor.power_averaging_s)
    return max(0.3, ANCHOR_PERIODS * sensor.counter_period_s + 2 * slow_s)


def window_energy(
    samples: Samples,
    start_ns: int,
    end_ns: int,
    sensor: SensorFacts,
    *,
    rest_s: float = 0.0,
) -> tuple[WindowEnergy, EnergyLine]:
    """Energy between `start_ns` and `end_ns`, and the line it was read from.

    Parameters
    ----------
    samples
        Polls that begin before `start_ns` and end after `end_ns` by at least one counter period,
        and by `rest_s` where that is given.
    start_ns, end_ns
        The window, on the clock of the samples.
    sensor
        Facts about the sensor.
    rest_s
        How long all devices rested just before and just after the window; 0 if they did not.
        Edges are anchored where this reaches 4 counter periods.
    """
    unknown = not math.isfinite(sensor.counter_period_s)
    if unknown:
        sensor = replace(sensor, counter_period_s=ASSUMED_PERIOD_S)
    line = EnergyLine(samples, sensor)
    reasons = set(line.reasons) | ({"period_unknown"} if unknown else set())
    duration_s = (end_ns - start_ns) / 1e9
    inside = (samples.t_ns >= start_ns) & (samples.t_ns <= end_ns)
    if not _covered(samples, start_ns, end_ns, sensor):
        reasons.add("samples_missing")
    if duration_s < 0.999 * sensor.shortest_window_s:
        reasons.add("window_too_short")
    rest_ns = rest_s * 1e9 if rest_s >= 4 * sensor.counter_period_s else 0.0
    integral_j = _integral(samples, start_ns, end_ns, rest_ns, sensor)
    if sensor.has_counter:
        energy_j, stderr_j = _counter_energy(line.lines, sensor, start_ns, end_ns, rest_ns)
        if len(line.lines) < len(samples.gpu_uuids):
            energy_j = stderr_j = float("nan")
    else:
        reasons -= {"counter_missing", "counter_frozen"}
        energy_j, stderr_j = integral_j, _integral_stderr(samples, start_ns, end_ns, sensor)
    if integral_j > 0 and abs(energy_j / integral_j - 1) > MAX_DISAGREEMENT:
        reasons.add("meter_disagreement")
    part_j = _part_time_stderr(samples, inside, duration_s, sensor)
    if part_j > 0:
        stderr_j = float(np.hypot(stderr_j, part_j))
        if 2 * part_j > MAX_PART_TIME_ERROR * energy_j:
            reasons.add("sensor_part_time")
    if samples.status is not None:
        unread = (samples.status != 0) & ~np.isfinite(samples.energy_mj)
        if (unread & ~np.isfinite(samples.power_w))[:, inside].any():
            reasons.add("device_lost")
    throttled = bool(samples.throttle_mask[:, inside].any())
    if throttled:
        reasons.add("throttled")
    return (
        WindowEnergy(
            energy_j,
            integral_j,
            stderr_j,
            int(inside.sum()),
            throttled,
            tuple(sorted(reasons)),
            _highest(samples.temperature_c, inside),
            _highest(samples.process_count, inside),
        ),
        line,
    )


def _covered(samples: Samples, start_ns: int, end_ns: int, sensor: SensorFacts) -> bool:
    """Whether polls reach over the window without a long gap."""
    if not samples.t_ns.size or samples.t_ns[0] > start_ns or samples.t_ns[-1] < end_ns:
        return False
    gaps_s = np.diff(samples.t_ns) / 1e9
    return bool(gaps_s.max(initial=0.0) <= MAX_GAP_PERIODS * sensor.poll_period_s)


def _counter_energy(
    lines: Sequence[CounterLine],
    sensor: SensorFacts,
    start_ns: float,
    end_ns: float,
    rest_ns: float,
) -> tuple[float, float]:
    """Energy of all devices and its standard error, joules."""
    energy_j = variance = 0.0
    duration_ns = max(end_ns - start_ns, 1.0)
    for line in lines:
        start_j, start_gap = _edge(line, sensor, start_ns, start_ns - rest_ns, start_ns)
        end_j, end_gap = _edge(line, sensor, end_ns, end_ns, end_ns + rest_ns)
        energy_j += end_j - start_j
        # Mean power between the steps outside: losing a poll can only raise it.
        power = line.outer_energy_j(start_ns, end_ns) / duration_ns
        variance += power**2 * (start_gap**2 + end_gap**2) / 12
    return energy_j, float(np.sqrt(variance))


def _edge(
    line: CounterLine, sensor: SensorFacts, edge_ns: float, from_ns: float, to_ns: float
) -> tuple[float, float]:
    """Energy at an edge and the stretch of time, ns, that is unknown about it.

    The edge is anchored at the last step of the rest, with the slope of the rest's later half:
    what a lagging sensor still owes of the load before has come in by then. If there is no rest,
    or it shows too few steps, the edge is interpolated.
    """
    before, after = line.around(edge_ns)
    resting = np.flatnonzero((line.when_ns >= from_ns) & (line.when_ns <= to_ns))
    if to_ns <= from_ns or resting.size < 3:
        known_ns = 2e9 * sensor.poll_period_s
        return float(line.at(edge_ns)), max(
            1e9 * sensor.counter_period_s, after - before - known_ns
        )
    late = resting[-((resting.size + 1) // 2) :]
    span_ns = line.when_ns[late[-1]] - line.when_ns[late[0]]
    slope = (line.energy_j[late[-1]] - line.energy_j[late[0]]) / span_ns
    value = line.energy_j[late[-1]] + slope * (edge_ns - line.when_ns[late[-1]])
    near_ns = edge_ns - before if to_ns == edge_ns else after - edge_ns
    return float(value), ANCHOR_SHARE * max(near_ns, 0.0)


def _integral(
    samples: Samples, start_ns: float, end_ns: float, rest_ns: float, sensor: SensorFacts
) -> float:
    """Trapezoid integral of instant power over all devices, joules; NaN without readings.

    Every poll counts, repeated readings too, and the edges are interpolated. A trailing mean shows
    what was drawn half its width earlier, so the interval is moved by that; with a rest after
    the window the tail of the mean lies in it, and is added less the power of the rest.
    """
    shift_ns = sensor.power_averaging_s / 2 * 1e9
    total = 0.0
    for i, power in enumerate(samples.power_w):
        t = samples.t_ns.astype(np.float64)
        if samples.delay_ns is not None:
            t = t + samples.delay_ns[i]
        known = np.isfinite(power)
        if not known.any():
            return float("nan")
        t, power = t[known], power[known]
        if rest_ns > 0:
            late = power[(t > end_ns + rest_ns / 2) & (t <= end_ns + rest_ns)]
            if late.size:
                tail_j = _trapezoid(t, power, end_ns, end_ns + rest_ns)
                total += _trapezoid(t, power, start_ns, end_ns)
                total += tail_j - float(np.median(late)) * rest_ns / 1e9
                continue
        total += _trapezoid(t, power, start_ns + shift_ns, end_ns + shift_ns)
    return total


def _trapezoid(
    t: npt.NDArray[np.float64], power: npt.NDArray[np.float64], start_ns: float, end_ns: float
) -> float:
    inside = (t > start_ns) & (t < end_ns)
    grid = np.concatenate(([start_ns], t[inside], [end_ns]))
    edges = np.interp([start_ns, end_ns], t, power)
    values = np.concatenate((edges[:1], power[inside], edges[1:]))
    return float(np.trapezoid(values, grid) / 1e9)


def _integral_stderr(
    samples: Samples, start_ns: float, end_ns: float, sensor: SensorFacts
) -> float:
    """Standard error of the integral where it is all there is, joules.

    Between two polls, and over the width of the mean at both edges, power may have been anything
    up to the highest reading.
    """
    variance = 0.0
    for power in samples.power_w:
        highest = float(np.nanmax(power)) if np.isfinite(power).any() else 0.0
        t = samples.t_ns[np.isfinite(power)].astype(np.float64)
        gaps_s = np.diff(t[(t >= start_ns) & (t <= end_ns)]) / 1e9
        edge_s = sensor.power_averaging_s + sensor.poll_period_s
        variance += highest**2 * (float((gaps_s**2).sum()) + 2 * edge_s**2) / 12
    return float(np.sqrt(variance))


def _part_time_stderr(
    samples: Samples, inside: npt.NDArray[np.bool_], duration_s: float, sensor: SensorFacts
) -> float:
    """What a sensor adds that looks only for a part of each period, joules.

    Each period is a random draw of that part of its power; the spread of the readings inside the
    window says how much the draws differ.
    """
    if sensor.sampled_fraction >= 1 or not inside.any():
        return 0.0
    power = samples.power_w[:, inside]
    if not np.isfinite(power).any():
        return 0.0
    spread_w = float(np.sqrt(np.nansum(np.nanvar(power, axis=1))))
    periods = max(duration_s / sensor.counter_period_s, 1.0)
    return spread_w * duration_s * float(np.sqrt((1 - sensor.sampled_fraction) / periods))


def _highest(values: npt.NDArray[np.float64] | None, inside: npt.NDArray[np.bool_]) -> float:
    if values is None or not inside.any() or not np.isfinite(values[:, inside]).any():
        return float("nan")
    return float(np.nanmax(values[:, inside]))

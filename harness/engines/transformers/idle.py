"""Idle is not one number: bare, with a device context, with a model loaded."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

from harness.meters.base import Meter

REST_S = 1.5
"""Long enough for a dozen counter updates; the launch measures loaded idle again, longer."""


def idle_power_w(
    meter: Meter,
    seconds: float = REST_S,
    clock_ns: Callable[[], int] = time.monotonic_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> float | None:
    """Return mean power of all devices of the meter over a short rest, or None without a sensor.

    Power readings are used where the meter has them, else the energy counters.
    """
    if not meter.has_power:
        return None
    start_ns = clock_ns()
    sleep(seconds)
    end_ns = clock_ns()
    samples = meter.read(start_ns, end_ns)
    inside = (samples.t_ns >= start_ns) & (samples.t_ns <= end_ns)
    if int(inside.sum()) < 2:
        return None
    power = samples.power_w[:, inside]
    if not np.isnan(power).all(axis=1).any():
        return float(np.nanmean(power, axis=1).sum())
    energy = samples.energy_mj[:, inside]
    span_s = float(samples.t_ns[inside][-1] - samples.t_ns[inside][0]) / 1e9
    mean_w = float((energy[:, -1] - energy[:, 0]).sum()) / 1e3 / span_s
    return mean_w if math.isfinite(mean_w) else None


def processes_on(meter: Meter, clock_ns: Callable[[], int] = time.monotonic_ns) -> int | None:
    """Return the most compute processes on a device just now, or None where nobody can say.

    Before this process has a context of its own, all of them are foreign.
    """
    if not meter.has_power:
        return None
    now_ns = clock_ns()
    count = meter.read(now_ns - round(1e9 * REST_S), now_ns).process_count
    if count is None or not np.isfinite(count).any():
        return None
    return int(np.nanmax(count))

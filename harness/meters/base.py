"""What every meter offers: samples over time, and the facts about its sensor.

    sensor -> Reader (one read of all devices) -> sampler process -> Meter -> Samples

A `Reader` talks to one vendor's library. Readers run in the sampler's process, never beside the
engine; a `Meter` is what a session holds and a launch reads windows from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from harness.meters.records import READING_FIELDS

__all__ = ["READING_FIELDS", "Meter", "Origin", "Reader", "Samples", "SensorFacts"]

Origin = Literal["characterised", "assumed", "simulated"]


@dataclass(frozen=True, slots=True)
class SensorFacts:
    """How a power sensor behaves; it sets the shortest window that can be trusted.

    Attributes
    ----------
    counter_period_s
        Time between two updates of the energy counter; of the power reading where there is
        no counter.
    poll_period_s
        Time between two polls of the sampler.
    gain_error
        One standard deviation of the sensor's unknown relative gain, as stated by its maker.
    power_period_s
        Time between two updates of the instant power reading; NaN if not known.
    power_averaging_s
        Width of the trailing mean behind that reading; 0 for an instant one.
    lag_s
        How long after it was drawn energy appears in the counter.
    sampled_fraction
        Share of the time in which the sensor looks at all. Below 1 (A100, H100: about 0.25,
        arXiv 2312.02741) energy of uneven power is an estimate, and its error is stated.
    has_counter
        Whether there is an energy counter; without one energy is the integral of power.
    origin
        `characterised` on this very device, `assumed` from documentation, or `simulated`.
    """

    counter_period_s: float
    poll_period_s: float
    gain_error: float
    power_period_s: float = math.nan
    power_averaging_s: float = 0.0
    lag_s: float = 0.0
    sampled_fraction: float = 1.0
    has_counter: bool = True
    origin: Origin = "assumed"

    @property
    def shortest_window_s(self) -> float:
        """Shortest window whose edges cost less than about one per cent: 50 counter periods.

        Without a counter the trailing mean behind the power reading counts in its place.
        """
        if self.has_counter:
            return 50 * self.counter_period_s
        return 50 * max(self.counter_period_s, self.power_averaging_s)


@dataclass(frozen=True, slots=True)
class Samples:
    """Readings of all devices of a deployment, in time order.

    Attributes
    ----------
    t_ns
        int64 (n,), monotonic time of each poll.
    gpu_uuids
        Names of the g devices.
    power_w
        float64 (g, n), instant power; NaN where it could not be read.
    energy_mj
        float64 (g, n), the counters in millijoules; NaN where a device has none.
    throttle_mask
        int64 (g, n), bits of the reasons for reduced clocks; 0 is none.
    temperature_c, sm_clock_mhz, mem_clock_mhz
        float64 (g, n), or None where the meter does not read them.
    process_count
        float64 (g, n), compute processes on each device, or None.
    status
        int64 (g, n), 0 or the vendor's code of the read that failed, or None.
    delay_ns
        int64 (g, n), how long after `t_ns` each device was read, or None for at once.
    wall_ns
        int64 (n,), wall clock of each poll, nanoseconds since 1970, or None.
    missed
        Polls of the schedule that were skipped between the first and the last sample.
    """

    t_ns: npt.NDArray[np.int64]
    gpu_uuids: tuple[str, ...]
    power_w: npt.NDArray[np.float64]
    energy_mj: npt.NDArray[np.float64]
    throttle_mask: npt.NDArray[np.int64]
    temperature_c: npt.NDArray[np.float64] | None = None
    sm_clock_mhz: npt.NDArray[np.float64] | None = None
    mem_clock_mhz: npt.NDArray[np.float64] | None = None
    process_count: npt.NDArray[np.float64] | None = None
    status: npt.NDArray[np.int64] | None = None
    delay_ns: npt.NDArray[np.int64] | None = None
    wall_ns: npt.NDArray[np.int64] | None = None
    missed: int = 0


class Reader(Protocol):
    """One vendor's sensors, opened once and read again and again; lives in the sampler."""

    @property
    def device_ids(self) -> tuple[str, ...]:
        """Names of the devices, in the order of `read`."""
        ...

    def read(self, slow: bool) -> list[tuple[float, ...]]:
        """Read every device once: one tuple of `READING_FIELDS` a device.

        A device that cannot be read has NaN and its error code in `status`; it never raises.
        With `slow` false only energy and power are read anew, the rest may be of the last
        slow read.
        """
        ...

    def close(self) -> None:
        """Let the vendor's library go."""
        ...


class Meter(Protocol):
    """A source of power samples.

    Attributes
    ----------
    name
        What the table says under `meter`: nvml, amdsmi, rapl, twin, none.
    has_power
        False for a machine without a power sensor: it gives times, never joules.
    simulated
        True if no physical sensor took part: its rows are never called measured.
    scope
        What the counter covers: gpu, module, package, ...
    gpu_uuids
        Names of the devices, in the order of the samples.
    """

    name: str
    has_power: bool
    simulated: bool
    scope: str
    gpu_uuids: tuple[str, ...]

    @property
    def sensor(self) -> SensorFacts:
        """Facts about the sensor behind this meter."""
        ...

    def read(self, start_ns: int, end_ns: int) -> Samples:
        """All samples from just before `start_ns` to just after `end_ns`.

        A real meter waits until the last of them has come in.
        """
        ...

    def read_host(self, start_ns: int, end_ns: int) -> float | None:
        """Energy of the host's CPUs and memory in an interval, joules; None if not read."""
        ...

    def wait_for_tick(self) -> None:
        """Return just after the energy counter moved, so that a window starts on a step."""
        ...

    def close(self) -> None:
        """End the sampler."""
        ...

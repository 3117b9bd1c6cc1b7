"""What every meter offers: samples over time, and the facts about its sensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class SensorFacts:
    """How a power sensor behaves; it sets the shortest window that can be trusted.

    Attributes
    ----------
    counter_period_s
        Time between two updates of the energy counter.
    poll_period_s
        Time between two polls of the sampler.
    gain_error
        One standard deviation of the sensor's unknown relative gain, as stated by its maker.
    """

    counter_period_s: float
    poll_period_s: float
    gain_error: float

    @property
    def shortest_window_s(self) -> float:
        """Shortest window whose edges cost less than about one per cent: 50 counter periods."""
        return 50 * self.counter_period_s


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
        float64 (g, n), instant power.
    energy_mj
        float64 (g, n), the counters in millijoules; NaN where a device has none.
    throttle_mask
        int64 (g, n), bits of the reasons for reduced clocks; 0 is none.
    """

    t_ns: npt.NDArray[np.int64]
    gpu_uuids: tuple[str, ...]
    power_w: npt.NDArray[np.float64]
    energy_mj: npt.NDArray[np.float64]
    throttle_mask: npt.NDArray[np.int64]


class Meter(Protocol):
    """A source of power samples."""

    name: str

    @property
    def sensor(self) -> SensorFacts:
        """Facts about the sensor behind this meter."""
        ...

    def read(self, start_ns: int, end_ns: int) -> Samples:
        """All samples from just before `start_ns` to just after `end_ns`."""
        ...

"""The meter of a machine without a power sensor: it gives times, never joules."""

from __future__ import annotations

import math

import numpy as np

from harness.meters.base import Samples, SensorFacts


class NoMeter:
    """Reads nothing.

    Parameters
    ----------
    reason
        Why there is no sensor, for the log of the launch.
    """

    name = "none"
    has_power = False
    simulated = False
    scope = "none"
    gpu_uuids: tuple[str, ...] = ()

    def __init__(self, reason: str = "") -> None:
        self.reason = reason

    @property
    def sensor(self) -> SensorFacts:
        """Facts without a period: no window is too short for no sensor."""
        return SensorFacts(
            counter_period_s=0.0, poll_period_s=0.0, gain_error=math.nan, has_counter=False
        )

    def read(self, start_ns: int, end_ns: int) -> Samples:
        """Samples of no device at no time."""
        nothing = np.empty((0, 0))
        return Samples(
            t_ns=np.empty(0, dtype=np.int64),
            gpu_uuids=(),
            power_w=nothing,
            energy_mj=nothing,
            throttle_mask=np.empty((0, 0), dtype=np.int64),
            wall_ns=np.empty(0, dtype=np.int64),
        )

    def read_host(self, start_ns: int, end_ns: int) -> float | None:
        """No energy of the host either."""
        return None

    def wait_for_tick(self) -> None:
        """Return at once: there is no counter to wait for."""

    def close(self) -> None:
        """Nothing to end."""

    def __enter__(self) -> NoMeter:
        return self

    def __exit__(self, *_: object) -> None:
        return None

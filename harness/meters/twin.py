"""A simulated power sensor that reads a known power curve as a real one would.

It reproduces what measurement needs to be tested against: counters that step at their own
period and phase and count whole millijoules, instant power that is averaged and noisy, a gain
that is unknown but fixed per device, and faults on demand. Nothing here is a measurement: what
it reports is the projection of the twin engine, seen through a sensor.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.meters.base import Samples, SensorFacts


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the power curve: `count` identical periods, all devices alike.

    Attributes
    ----------
    start_ns
        Where the first period starts.
    knots_s, energy_j
        (k,) the broken line of cumulative energy of one device inside one period; the last
        knot is the length of the period.
    count
        How often the period repeats.
    """

    start_ns: int
    knots_s: npt.NDArray[np.float64]
    energy_j: npt.NDArray[np.float64]
    count: int

    @property
    def duration_s(self) -> float:
        """Length of the whole stretch."""
        return float(self.knots_s[-1]) * self.count

    def energy_at(self, seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Cumulative energy of one device, `seconds` after the start of the stretch."""
        period = float(self.knots_s[-1])
        whole = np.clip(np.floor(seconds / period), 0, self.count - 1)
        inside: npt.NDArray[np.float64] = np.interp(
            seconds - whole * period, self.knots_s, self.energy_j
        )
        return whole * float(self.energy_j[-1]) + inside


@dataclass(frozen=True, slots=True)
class SensorFaults:
    """What goes wrong with device 0, as fractions of the reading's samples.

    Attributes
    ----------
    freeze_from
        The counter stands still from this share of the samples on.
    backwards_at
        The counter jumps back by one joule at this share of the samples.
    lose_from, lose_to
        Polls in this share of the samples are lost (all devices).
    throttle_from
        Clocks are reduced from this share on.
    """

    freeze_from: float | None = None
    backwards_at: float | None = None
    lose_from: float | None = None
    lose_to: float | None = None
    throttle_from: float | None = None


class TwinMeter:
    """Reads the power curve of a twin session.

    Parameters
    ----------
    hardware
        Name of the device type; with the index it names each device, and fixes its gain.
    devices
        Number of devices.
    idle_power_w
        What a device draws outside every stretch.
    seed
        Seed of the reading noise.
    sensor
        What is believed of the sensor: periods, polling period, spread of the gains.
    behaviour
        What the sensor really does, where that differs from what is believed: period, lag,
        averaging of power, the share of time in which it looks. For tests.
    noise_w
        One standard deviation of the instant power reading.
    faults
        Faults to inject, for tests of the verdicts.
    """

    name = "twin"
    has_power = True
    simulated = True
    scope = "gpu"

    def __init__(
        self,
        hardware: str,
        devices: int,
        idle_power_w: float,
        *,
        seed: int,
        sensor: SensorFacts | None = None,
        behaviour: SensorFacts | None = None,
        noise_w: float = 2.0,
        faults: SensorFaults | None = None,
    ) -> None:
        self._sensor = sensor or SensorFacts(
            counter_period_s=0.1, poll_period_s=0.05, gain_error=0.005, origin="simulated"
        )
        self.gpu_uuids = tuple(f"TWIN-{hardware}-{i}" for i in range(devices))
        self._behaviour = behaviour or self._sensor
        # A device keeps its gain and its counter phase for life, whatever the seed of the run.
        fixed = [np.random.default_rng(zlib.crc32(uuid.encode())) for uuid in self.gpu_uuids]
        self._gain = np.array([1 + self._sensor.gain_error * g.standard_normal() for g in fixed])
        self._phase_s = np.array([g.random() for g in fixed])
        self._phase_s *= self._behaviour.counter_period_s
        self._idle_power_w = idle_power_w
        self._noise_w = noise_w
        self._rng = np.random.default_rng(seed)
        self._faults = faults
        self._segments: list[Segment] = []

    @property
    def sensor(self) -> SensorFacts:
        """Facts about the simulated sensor."""
        return self._sensor

    def record(self, segment: Segment) -> None:
        """Add a stretch to the power curve; only the last few are kept."""
        self._segments.append(segment)
        del self._segments[:-4]

    def read_host(self, start_ns: int, end_ns: int) -> float | None:
        """A projected host is not projected: None."""
        return None

    def wait_for_tick(self) -> None:
        """Virtual time does not pass by waiting."""

    def close(self) -> None:
        """Nothing runs, so nothing has to end."""

    def read(self, start_ns: int, end_ns: int) -> Samples:
        """Polls from four counter periods before `start_ns` to four after `end_ns`."""
        sensor = self._sensor
        margin_ns = int(4e9 * sensor.counter_period_s)
        poll_ns = int(1e9 * sensor.poll_period_s)
        # The sampler keeps an absolute schedule of its own: its phase is random to the window.
        first = start_ns - margin_ns - int(self._rng.integers(poll_ns))
        t_ns = np.arange(first, end_ns + margin_ns + poll_ns, poll_ns, dtype=np.int64)
        origin_ns = int(t_ns[0])
        t_s = (t_ns - origin_ns) / 1e9
        energy_j = self._counters_j(t_s, origin_ns)
        power_w = np.empty((len(self.gpu_uuids), t_s.size))
        power_w[:] = self._power_w(t_s, origin_ns)
        power_w *= self._gain[:, None]
        power_w += self._noise_w * self._rng.standard_normal(power_w.shape)
        counter_mj = np.floor(energy_j * self._gain[:, None] * 1e3)
        throttle = np.zeros(counter_mj.shape, dtype=np.int64)
        samples = Samples(t_ns, self.gpu_uuids, np.maximum(power_w, 0), counter_mj, throttle)
        return samples if self._faults is None else _with_faults(samples, self._faults)

    def _counters_j(self, t_s: npt.NDArray[np.float64], origin_ns: int) -> npt.NDArray[np.float64]:
        """What the counter of each device holds at each poll, before gain and rounding."""
        period, lag_s = self._behaviour.counter_period_s, self._behaviour.lag_s
        # Last update before each poll, per device: (devices, polls).
        number = np.floor((t_s[None, :] - self._phase_s[:, None]) / period)
        updates = number * period + self._phase_s[:, None] - lag_s
        share = self._behaviour.sampled_fraction
        if share >= 1:
            return self._cumulative(updates.ravel(), origin_ns).reshape(updates.shape)
        out = np.empty(updates.shape)
        for i, phase_s in enumerate(self._phase_s):
            first = number[i, 0]
            ticks = np.arange(first, number[i, -1] + 1) * period + phase_s - lag_s
            seen = self._cumulative(ticks, origin_ns)
            seen -= self._cumulative(ticks - share * period, origin_ns)
            out[i] = np.cumsum(seen / share)[(number[i] - first).astype(np.int64)]
        return out

    def _power_w(self, t_s: npt.NDArray[np.float64], origin_ns: int) -> npt.NDArray[np.float64]:
        """Power reading of one device at each poll: a trailing mean, as wide as a poll at least."""
        facts = self._behaviour
        width_s = max(facts.power_averaging_s, self._sensor.poll_period_s)
        when = t_s - facts.lag_s
        if np.isfinite(facts.power_period_s):
            when = np.floor(when / facts.power_period_s) * facts.power_period_s
        if facts.sampled_fraction < 1:
            width_s = facts.sampled_fraction * facts.counter_period_s
        before = self._cumulative(when - width_s, origin_ns)
        return (self._cumulative(when, origin_ns) - before) / width_s

    def _cumulative(
        self, seconds: npt.NDArray[np.float64], origin_ns: int
    ) -> npt.NDArray[np.float64]:
        """True energy of one device since `origin_ns` minus an arbitrary constant, joules."""
        total = self._idle_power_w * (seconds + 1.0)
        for segment in self._segments:
            since = seconds - (segment.start_ns - origin_ns) / 1e9
            clipped = np.clip(since, 0.0, segment.duration_s)
            total += segment.energy_at(clipped) - self._idle_power_w * clipped
        return total


def _with_faults(samples: Samples, faults: SensorFaults) -> Samples:
    """Apply the faults to a clean reading."""
    n = samples.t_ns.size
    energy = samples.energy_mj.copy()
    throttle = samples.throttle_mask.copy()
    keep = np.ones(n, dtype=bool)
    if faults.freeze_from is not None:
        at = int(faults.freeze_from * n)
        energy[0, at:] = energy[0, at]
    if faults.backwards_at is not None:
        energy[0, int(faults.backwards_at * n) :] -= 1e6
    if faults.throttle_from is not None:
        throttle[0, int(faults.throttle_from * n) :] = 1 << 5
    if faults.lose_from is not None and faults.lose_to is not None:
        keep[int(faults.lose_from * n) : int(faults.lose_to * n)] = False
    return Samples(
        samples.t_ns[keep],
        samples.gpu_uuids,
        samples.power_w[:, keep],
        energy[:, keep],
        throttle[:, keep],
    )

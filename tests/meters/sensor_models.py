"""A power sensor of known ways on a clock of its own, and the load that it looks at."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, field

import numpy as np

NAN = math.nan
UNIFORM = np.random.default_rng(1).random(8191)
NORMAL = np.random.default_rng(2).standard_normal(8191)


def _random(number: int, kind: int) -> float:
    """A number between 0 and 1 that depends on nothing but its arguments."""
    return float(UNIFORM[(number * 7919 + kind * 104729) % UNIFORM.size])


@dataclass
class Sensor:
    """One GPU: true power in steps, seen through a counter and two power readings."""

    counter_period_s: float = 0.1
    power_period_s: float = 0.1
    averaging_s: float = 0.0
    average_width_s: float = 1.0
    lag_s: float = 0.0
    duty: float = 1.0
    noise_w: float = 0.0
    gain: float = 1.0
    power_gain: float = 1.0
    idle_w: float = 70.0
    has_counter: bool = True
    frozen: bool = False
    lost_from_ns: int | None = None
    processes: float = 0.0
    phase_s: float = 0.0123
    now_ns: int = 1_000_000_000
    device_ids: tuple[str, ...] = ("GPU-test",)
    reads: int = 0
    jitter_s: float = 0.0
    tick_jitter_s: float = 0.0
    _t: list[float] = field(default_factory=lambda: [0.0])
    _w: list[float] = field(default_factory=list)
    _e: list[float] = field(default_factory=lambda: [0.0])
    _cache: tuple[int, float] = (-1, 0.0)
    _ticks: int = 0
    _total_mj: float = 0.0

    def __post_init__(self) -> None:
        self._w = [self.idle_w]

    def clock(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += max(0, round(seconds * 1e9))

    def set_power(self, t_s: float, power_w: float) -> None:
        self._e.append(self.energy_j(t_s))
        self._t.append(t_s)
        self._w.append(power_w)

    def energy_j(self, t_s: float) -> float:
        i = max(0, bisect.bisect_right(self._t, t_s) - 1)
        return self._e[i] + self._w[i] * (t_s - self._t[i])

    def mean_w(self, end_s: float, width_s: float) -> float:
        width = max(width_s, 1e-6)
        return (self.energy_j(end_s) - self.energy_j(end_s - width)) / width

    def _noise(self, tick: int, kind: int) -> float:
        if not self.noise_w:
            return 0.0
        return self.noise_w * float(NORMAL[(tick * 7919 + kind * 104729) % NORMAL.size])

    def _tick_delay(self, tick: int) -> float:
        return self.tick_jitter_s * _random(tick, 2)

    def _counter_mj(self, now_s: float) -> float:
        """Sum of what each update added, mJ."""
        tick = math.floor((now_s - self.phase_s) / self.counter_period_s)
        if self.tick_jitter_s and self._tick_delay(tick) > (
            now_s - self.phase_s - tick * self.counter_period_s
        ):
            tick -= 1
        period = self.counter_period_s
        while self._ticks < tick:
            self._ticks += 1
            end = self.phase_s + self._ticks * period - self.lag_s
            self._total_mj += 1e3 * self.gain * self.mean_w(end, self.duty * period) * period
        return math.floor(self._total_mj)

    def _power_w(self, now_s: float, width_s: float, kind: int) -> float:
        tick = math.floor(now_s / self.power_period_s)
        width = self.duty * self.power_period_s if self.duty < 1 and kind == 0 else width_s
        value = self.mean_w(tick * self.power_period_s - self.lag_s, width)
        return max(0.0, round(self.power_gain * value + self._noise(tick, kind), 3))

    def read(self, slow: bool) -> list[tuple[float, ...]]:
        self.reads += 1
        self.now_ns += 20_000
        if self.jitter_s:
            self.now_ns += int(1e9 * self.jitter_s * _random(self.reads, 1))
        if self.lost_from_ns is not None and self.now_ns >= self.lost_from_ns:
            return [(NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, 15.0, 0.0)]
        now_s = self.now_ns / 1e9
        energy = NAN
        if self.has_counter:
            energy = 5e6 if self.frozen else self._counter_mj(now_s)
        power = self._power_w(now_s, self.averaging_s, 0)
        average = self._power_w(now_s, self.average_width_s, 1)
        return [(energy, power, average, 40.0, 1000.0, 1000.0, 0.0, self.processes, 0.0, 0.0)]

    def close(self) -> None: ...


@dataclass
class SensorLoad:
    """A load on that GPU: square, with exactly known edges."""

    sensor: Sensor
    high_w: float = 600.0
    context_w: float = 110.0
    spans: list[tuple[int, int]] = field(default_factory=list)
    _end_ns: int = 0
    closed: bool = False

    def prepare(self) -> None:
        self.sensor.set_power(self.sensor.now_ns / 1e9, self.context_w)

    def start(self, seconds: float) -> None:
        start = self.sensor.now_ns
        self._end_ns = start + round(seconds * 1e9)
        self.sensor.set_power(start / 1e9, self.high_w)
        self.sensor.set_power(self._end_ns / 1e9, self.context_w)
        self.spans.append((start, self._end_ns))

    def done(self) -> bool:
        return self.sensor.now_ns >= self._end_ns

    def edges(self) -> list[tuple[int, int]]:
        spans, self.spans = self.spans, []
        return spans

    def close(self) -> None:
        self.closed = True

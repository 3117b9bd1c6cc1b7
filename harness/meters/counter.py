"""Energy counters read as broken lines, and what is wrong with them.

    counter   __|~~|__|~~|__     steps every period
    polls     . . . . . . .      a poll sees a step up to one poll late
                a b              the step lies between the last poll that showed the old value
                                 and the first that showed the new one

Each step is placed half way between those two polls, else every reading would lag by half a poll
and charge a phase with a piece of the one before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.meters.base import Samples, SensorFacts

Floats = npt.NDArray[np.float64]

FROZEN_PERIODS = 8.0
"""A counter that does not move for so many periods, while power is drawn, stands still."""
JUMP_FACTOR = 2.0
"""A step of more than this times what the highest power reading could have filled is a jump."""


@dataclass(frozen=True, slots=True)
class CounterLine:
    """Cumulative energy of one device.

    Attributes
    ----------
    when_ns, energy_j
        (s,) the steps: when (lag taken off), and the value from there on, joules.
    before_ns, after_ns
        (s,) the polls between which each step happened.
    """

    when_ns: Floats
    energy_j: Floats
    before_ns: Floats
    after_ns: Floats

    def at(self, t_ns: npt.ArrayLike) -> Floats:
        """Energy at each instant, straight lines between steps, joules."""
        return np.interp(np.asarray(t_ns, dtype=np.float64), self.when_ns, self.energy_j)

    def around(self, t_ns: float) -> tuple[float, float]:
        """Latest poll surely before the step ahead of `t_ns`, first poll after the step behind.

        Losing a poll can only move these two apart, so an error that is stated in proportion
        to their distance never shrinks.
        """
        left = int(np.searchsorted(self.after_ns, t_ns, side="right")) - 1
        right = int(np.searchsorted(self.before_ns, t_ns, side="left"))
        before = self.before_ns[left] if left >= 0 else self.before_ns[0]
        after = self.after_ns[right] if right < self.after_ns.size else self.after_ns[-1]
        return float(before), float(after)

    def outer_energy_j(self, start_ns: float, end_ns: float) -> float:
        """Energy between the steps just outside an interval, joules."""
        left = max(int(np.searchsorted(self.after_ns, start_ns, side="right")) - 1, 0)
        right = min(
            int(np.searchsorted(self.before_ns, end_ns, side="left")), self.energy_j.size - 1
        )
        return float(self.energy_j[max(right, left)] - self.energy_j[left])


def read_lines(samples: Samples, sensor: SensorFacts) -> tuple[list[CounterLine], list[str]]:
    """Turn the counters of all devices into lines.

    Parameters
    ----------
    samples
        Polls; those that could not be read are NaN and passed over.
    sensor
        Facts about the sensor; its lag is taken off.

    Returns
    -------
    tuple
        A line for each device whose counter moved, and reason codes: counter_missing (a device
        gave none, or lost its own), counter_frozen, counter_backwards, counter_jump.
    """
    lines: list[CounterLine] = []
    reasons: set[str] = set()
    for i, counter in enumerate(samples.energy_mj):
        t_ns = samples.t_ns.astype(np.float64)
        if samples.delay_ns is not None:
            t_ns = t_ns + samples.delay_ns[i]
        known = np.isfinite(counter)
        if not known.all():
            t_ns, counter = t_ns[known], counter[known]
        steps = np.diff(counter)
        if (steps < 0).any():
            reasons.add("counter_backwards")
        seen = np.flatnonzero(steps > 0) + 1
        if not counter.size:
            reasons.add("counter_missing")
            continue
        if seen.size < 2:
            reasons.add("counter_frozen")
            continue
        lag_ns = sensor.lag_s * 1e9
        before, after = t_ns[seen - 1] - lag_ns, t_ns[seen] - lag_ns
        line = CounterLine((before + after) / 2, counter[seen] / 1e3, before, after)
        lines.append(line)
        power = samples.power_w[i][known] if not known.all() else samples.power_w[i]
        reasons |= _faults(line, t_ns, power, sensor)
    return lines, sorted(reasons)


def _faults(line: CounterLine, t_ns: Floats, power_w: Floats, sensor: SensorFacts) -> set[str]:
    """Find where a counter stood still or jumped."""
    found = set()
    when_ns = line.when_ns + 1e9 * sensor.lag_s
    gaps_s = np.diff(np.concatenate(([t_ns[0]], when_ns, [t_ns[-1]]))) / 1e9
    limit_s = FROZEN_PERIODS * sensor.counter_period_s + 2 * sensor.poll_period_s
    polls_s = float(np.diff(t_ns).max(initial=0.0)) / 1e9
    if gaps_s.max() > limit_s + polls_s:
        found.add("counter_frozen")
    highest_w = float(np.nanmax(power_w)) if np.isfinite(power_w).any() else float("nan")
    if np.isfinite(highest_w) and line.energy_j.size > 2:
        # The slack of two periods and polls: steps are placed, and averaged power lags.
        since_s = (line.after_ns[1:] - line.before_ns[:-1]) / 1e9
        slack_s = 2 * sensor.counter_period_s + 2 * sensor.poll_period_s
        if (np.diff(line.energy_j) > JUMP_FACTOR * highest_w * (since_s + slack_s)).any():
            found.add("counter_jump")
    return found

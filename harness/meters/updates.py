"""When a reading is renewed: its update times and its period, from polls of it.

    sensor   |         |         |         |      renewed every period
    polls    . . . . . . . . . . . . . . . .
    change           ^         ^         ^        seen at the first poll after it

A change lies between two polls, so it is placed half way between them. Where the changes keep
a regular beat, the beat places them better than any single poll can.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FEWEST_UPDATES = 6
RESOLVED_POLLS = 2.5
"""A period of fewer polls than this is told from a shorter one only by chance."""


@dataclass(frozen=True, slots=True)
class Period:
    """Time between two updates of a reading.

    Attributes
    ----------
    period_s
        The period; an upper bound where it is not resolved; NaN where too few updates were seen.
    resolved
        False if the reading is renewed about as often as it was polled, or more often.
    updates
        Number of updates seen.
    jitter_s
        Median distance of an update from the beat.
    """

    period_s: float
    resolved: bool
    updates: int
    jitter_s: float = math.nan


UNKNOWN = Period(math.nan, False, 0)


def changes(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Positions of the polls that first showed a new value; NaN is no value."""
    previous, current = values[:-1], values[1:]
    return np.flatnonzero((current != previous) & ~np.isnan(current) & ~np.isnan(previous)) + 1


def change_times(t_ns: npt.NDArray[np.int64], at: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Seconds since the first poll of each change: half way between the polls around it."""
    t = (t_ns - t_ns[0]) / 1e9
    middle: npt.NDArray[np.float64] = (t[at - 1] + t[at]) / 2
    return middle


def update_period(t_ns: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> Period:
    """Period of the updates behind polled values.

    Parameters
    ----------
    t_ns
        (n,) time of each poll.
    values
        (n,) what was read; an update that brings the same value again is not seen.
    """
    at = changes(values)
    if at.size < FEWEST_UPDATES:
        return Period(math.nan, False, int(at.size))
    spacing_s = float(np.median(np.diff(t_ns))) / 1e9
    intervals = np.diff(change_times(t_ns, at))
    middle = float(np.median(intervals))
    if middle < RESOLVED_POLLS * spacing_s:
        return Period(RESOLVED_POLLS * spacing_s, False, int(at.size))
    for divisor in range(1, max(3, int(middle / (4 * spacing_s))) + 1):
        period = middle / divisor
        for part in (intervals[intervals <= 1.5 * middle], intervals):
            counts = np.maximum(1, np.round(part / period))
            period = float(part.sum() / counts.sum())
        # Two update times differ by up to a poll; their 80 % point is 0.55 polls.
        slack = 0.8 * spacing_s if divisor > 3 else max(1.4 * spacing_s, 0.05 * period)
        counts = np.maximum(1, np.round(intervals / period))
        off = np.abs(intervals - counts * period)
        if np.quantile(off, 0.8) <= slack:
            near = off <= 2 * slack  # a glitch is no update
            period = float(intervals[near].sum() / counts[near].sum())
            return _bounded(period, spacing_s, int(at.size), float(np.median(off)))
    low, high = np.quantile(intervals, (0.1, 0.9)).tolist()
    if high < 1.6 * low:  # an unsteady beat, but one of its own
        off = np.abs(intervals - middle)
        return _bounded(middle, spacing_s, int(at.size), float(np.median(off)))
    return Period(low, False, int(at.size))


def _bounded(period_s: float, spacing_s: float, updates: int, jitter_s: float) -> Period:
    if period_s < RESOLVED_POLLS * spacing_s:
        return Period(RESOLVED_POLLS * spacing_s, False, updates)
    return Period(period_s, True, updates, jitter_s)


def on_beat(times_s: npt.NDArray[np.float64], period: Period) -> npt.NDArray[np.float64]:
    """Move update times onto their beat where they keep one, else return them as they are.

    The beat may drift slowly: it is a line through the neighbours, not through all of them.
    """
    if not period.resolved or times_s.size < 2 * FEWEST_UPDATES:
        return times_s
    steps = np.concatenate(([0.0], np.maximum(1, np.round(np.diff(times_s) / period.period_s))))
    number = np.cumsum(steps)
    out = times_s.copy()
    half = 10
    for i in range(times_s.size):
        near = slice(max(0, i - half), i + half + 1)
        slope, height = np.polyfit(number[near] - number[i], times_s[near], 1)
        if abs(slope / period.period_s - 1) > 0.1:
            return times_s
        out[i] = height
    regular = np.quantile(np.abs(out - times_s), 0.9) <= max(0.005, 0.1 * period.period_s)
    return out if regular else times_s

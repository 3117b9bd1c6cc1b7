"""Whether a sensor can be trusted to give energy within one per cent, and if not, why."""

from __future__ import annotations

import math

from harness.meters.base import SensorFacts

FULL_TIME = 0.9
"""A sensor that looks at least at this share of the time counts as full-time."""

MAX_LAG_S = 0.5
"""A known lag is taken off by the windows; a longer one is beyond what is characterised well."""

MAX_DISAGREEMENT = 0.05
"""Counter and integral of power may differ by this share under a steady load."""

MAX_AVERAGING_S = 0.5
"""A power reading that is averaged over longer says little of a window of 5 s."""

WORDS = {
    "counter_missing": "no energy counter",
    "counter_frozen": "the energy counter does not move",
    "counter_backwards": "the energy counter ran backwards",
    "period_unknown": "too few updates to tell its period",
    "sensor_part_time": "looks only part of the time",
    "sensor_lag": "energy shows up late",
    "power_averaged": "power is a long trailing mean",
    "meter_disagreement": "counter and power disagree",
    "not_loaded": "no load could be run: lag, averaging and sampled share are not known",
    "load_not_followed": "readings did not follow the load: lag and sampled share are doubtful",
}
"""What each reason code means, in words; the last two say what was not found out."""


def trusted(facts: SensorFacts, agreement: float = math.nan) -> list[str]:
    """Reason codes against a sensor; an empty list means that it can be trusted.

    Parameters
    ----------
    facts
        How the sensor behaves.
    agreement
        Counter over integral of power under a steady load, minus one; NaN if not known.
    """
    reasons = []
    if not facts.has_counter:
        reasons.append("counter_missing")
        if facts.power_averaging_s > MAX_AVERAGING_S:
            reasons.append("power_averaged")
    if math.isnan(facts.counter_period_s):
        reasons.append("period_unknown")
    if facts.sampled_fraction < FULL_TIME:
        reasons.append("sensor_part_time")
    if abs(facts.lag_s) > MAX_LAG_S:
        reasons.append("sensor_lag")
    if abs(agreement) > MAX_DISAGREEMENT:
        reasons.append("meter_disagreement")
    return reasons

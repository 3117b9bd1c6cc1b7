"""Reason codes of rows: what each means, and whether it makes a row unfit for use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """One code.

    Attributes
    ----------
    hard
        True if a row that carries it is not valid; else the row is to be read with care.
    text
        What it means, in words.
    """

    hard: bool
    text: str


REASONS: dict[str, Reason] = {
    "no_power_meter": Reason(True, "no power sensor could be read: times only, no joules"),
    "throttled": Reason(True, "clocks were held down while measuring"),
    "meter_disagreement": Reason(
        True, "energy counter and integral of power differ by more than 5 %"
    ),
    "window_too_short": Reason(True, "the window is shorter than 50 updates of the sensor"),
    "period_unknown": Reason(True, "the sensor moved too seldom to tell its period"),
    "samples_missing": Reason(True, "polls of the sensor are missing in or around a window"),
    "counter_missing": Reason(True, "a device has no energy counter, or lost it"),
    "counter_frozen": Reason(True, "an energy counter stood still while power was drawn"),
    "counter_backwards": Reason(True, "an energy counter ran backwards"),
    "counter_jump": Reason(True, "an energy counter jumped ahead of what power could fill"),
    "sensor_part_time": Reason(
        True, "the sensor looks only part of the time, and power was too uneven for that"
    ),
    "device_lost": Reason(True, "a device could not be read any more"),
    "foreign_process": Reason(True, "somebody else's process ran on a device"),
    "not_additive": Reason(True, "prefill and decode do not add up to the whole"),
    "drift": Reason(True, "the sentinel changed from the first trial to the last"),
    "not_flat": Reason(False, "power was still rising when the warm-up ended"),
    "wide_interval": Reason(False, "the interval is wider than asked for"),
    "single_repeat": Reason(
        False, "one repeat: the interval knows the sensor, not how repeats scatter"
    ),
    "meter_lost": Reason(False, "the power sensor could not be read any more before all repeats"),
    "budget_spent": Reason(False, "the time of the launch ran out before all repeats"),
    "out_of_memory": Reason(True, "the workload does not fit into memory"),
    "timed_out": Reason(True, "one run takes longer than allowed, or than the budget"),
    "not_reached": Reason(
        True, "the time of the launch ran out before it: no row, the next run does it"
    ),
    "crashed": Reason(True, "the process of the launch ended in this workload"),
    "pruned": Reason(True, "not tried: a smaller workload failed in a way that this one must too"),
    "not_supported": Reason(True, "the engine cannot run this model, precision or input"),
    "engine_refused": Reason(True, "the engine refused the deployment"),
    "engine_broken": Reason(True, "the engine became unusable in this workload or before it"),
    "workload_refused": Reason(True, "the engine refused the workload"),
    "workload_failed": Reason(True, "the workload failed while it was measured"),
}
"""Every code that a launch puts into `reasons`."""


def valid(codes: Iterable[str]) -> bool:
    """Whether a row with these codes is fit for use; unknown codes are not."""
    return all(code in REASONS and not REASONS[code].hard for code in codes)


def markdown_table() -> str:
    """Return the codes as a Markdown table, the one that docs/measuring.md shows."""
    lines = ["| code | | meaning |", "|---|---|---|"]
    lines += [
        f"| `{code}` | {'not valid' if reason.hard else 'with care'} | {reason.text} |"
        for code, reason in REASONS.items()
    ]
    return "\n".join(lines) + "\n"

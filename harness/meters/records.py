"""What a reader reports and how the sampler writes it down: fixed-size records in segment files.

    folder/00000000.samples  [record][record]...   full: the parent removes it once read
    folder/00000001.samples  [record][rec          being written; a torn record is not read yet

Standard library only: the sampler's process loads this, and nothing heavier.
"""

from __future__ import annotations

import struct

READING_FIELDS = (
    "energy_mj",
    "power_w",
    "average_power_w",
    "temperature_c",
    "sm_clock_mhz",
    "mem_clock_mhz",
    "throttle_mask",
    "process_count",
    "status",
    "delay_s",
)
"""What a reader reports of one device at one poll, in this order; NaN where unknown.

energy_mj: energy counter, mJ. power_w: instant power. average_power_w: the vendor's averaged
power. throttle_mask: bits of the reasons for reduced clocks. process_count: compute processes on
the device. status: 0, or the vendor's error code of the read that failed. delay_s: seconds
between the time stamp of the poll and the read of this device.
"""

MIN_PERIOD_S, MAX_PERIOD_S = 0.01, 0.05
"""The sampler polls 20 to 100 times a second."""

SEGMENT_BYTES = 4 << 20
"""A segment file is closed at about this size."""

SEGMENT_SUFFIX = ".samples"


def record_struct(devices: int) -> struct.Struct:
    """Little-endian layout of one poll: slot, monotonic ns, wall ns, then fields by device."""
    return struct.Struct(f"<qqq{devices * len(READING_FIELDS)}d")


def segment_name(index: int) -> str:
    """Name of the segment file with this number; names sort by number."""
    return f"{index:08d}{SEGMENT_SUFFIX}"

"""Which catalog entry a device is, by the name and memory that its driver reports."""

from __future__ import annotations

import re

from harness.catalog.hardware import known_hardware, load_hardware

MEMORY_RANGE = (0.85, 1.05)
"""Reported over nominal memory: drivers keep a little back, ECC on GDDR up to an eighth."""


def identify(name: str, memory_bytes: float | None) -> str | None:
    """Return the canonical id of a GPU type, or None if the catalog does not have it.

    Names are compared whole, without vendor, case and spacing: an ``NVIDIA H200 NVL`` is no
    ``NVIDIA H200``, and a MIG slice is nothing at all.

    Parameters
    ----------
    name
        As the driver says it, such as ``NVIDIA A100-SXM4-80GB``.
    memory_bytes
        Memory that the driver reports; it tells variants with one name apart. None where the
        driver has no figure, as with unified memory.
    """
    wanted = _plain(name)
    low, high = MEMORY_RANGE
    found = [
        hardware
        for hardware in (load_hardware(known) for known in known_hardware())
        if wanted in {_plain(alias) for alias in (hardware.hardware, *hardware.aliases)}
    ]
    fitting = [
        hardware.hardware
        for hardware in found
        if memory_bytes is None
        or low * hardware.memory_bytes <= memory_bytes <= high * hardware.memory_bytes
    ]
    return fitting[0] if len(fitting) == 1 else None


def _plain(name: str) -> str:
    text = re.sub(r"[\s_-]+", "-", name.strip().lower())
    for vendor in ("nvidia-", "tesla-", "amd-instinct-", "amd-"):
        text = text.removeprefix(vendor)
    return text

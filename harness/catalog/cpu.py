"""A CPU as hardware: its canonical id, and the rough facts that planning needs.

Rates follow from the id alone, so that a table reads the same on every machine; memory and power
limit are read where the CPU is that of this machine. No rate is a datasheet number: all of them
are assumptions, named in ``estimated``.
"""

from __future__ import annotations

import re

from harness.catalog.hardware import Hardware
from harness.catalog.machine import Machine

_ID = re.compile(r"cpu-(?P<model>[a-z0-9][a-z0-9._-]*)-(?P<cores>[1-9]\d{0,4})c", re.IGNORECASE)
_NOISE = re.compile(
    r"\((?:r|tm|c)\)|®|™|@.*$|\bwith radeon.*$|\b\d+-core\b|\bcpu\b|\bprocessor\b", re.IGNORECASE
)

FMA_FLOPS_PER_CYCLE = 32.0
"""8 fp32 lanes x 2 fused multiply-add units x 2 FLOP."""
CLOCK_HZ = 2.5e9
BANDWIDTH_PER_CORE_BYTES_PER_S = 12e9
BANDWIDTH_LIMIT_BYTES_PER_S = 300e9
EMULATION = 64.0
"""How much slower 16-bit arithmetic is taken to be where the CPU has no instructions for it."""
POWER_PER_CORE_W = 5.0
MEMORY_PER_CORE_BYTES = 4.0 * 2**30
_FAST_16_BIT = frozenset({"amx_bf16", "avx512_bf16", "bf16"})


def is_cpu(name: str) -> bool:
    """Say whether a hardware name is the id of a CPU."""
    return _ID.fullmatch(name.strip()) is not None


def cpu_id(model_name: str, cores: int) -> str:
    """Return the canonical id of a CPU.

    Parameters
    ----------
    model_name
        As the operating system names the CPU.
    cores
        Logical processors that may be used.

    Examples
    --------
    >>> cpu_id("AMD EPYC 9R14 96-Core Processor", 2)
    'CPU-AMD-EPYC-9R14-2C'
    """
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", _NOISE.sub(" ", model_name)).strip("-.")
    return f"CPU-{plain or 'unknown'}-{cores}C"


def cpu_hardware(name: str, machine: Machine | None = None) -> Hardware:
    """Return the facts of a CPU.

    Parameters
    ----------
    name
        A name for which `is_cpu` holds.
    machine
        The machine that asks; memory, power limit and instructions are taken from it if it has
        this CPU, else they are assumed.
    """
    match = _ID.fullmatch(name.strip())
    if match is None:
        raise ValueError(f"not the id of a CPU: {name!r}")
    cores = int(match["cores"])
    here = machine
    if machine is not None:
        own = cpu_id(machine.cpu_model, machine.cores)
        here, name = (machine, own) if own.lower() == name.strip().lower() else (None, name)
    fp32 = FMA_FLOPS_PER_CYCLE * CLOCK_HZ * cores
    bandwidth = min(BANDWIDTH_PER_CORE_BYTES_PER_S * cores, BANDWIDTH_LIMIT_BYTES_PER_S)
    emulated = here is not None and not (_FAST_16_BIT & here.cpu_flags)
    sources = {
        "memory_bandwidth_bytes_per_s": f"estimated: assumed "
        f"{BANDWIDTH_PER_CORE_BYTES_PER_S / 1e9:g} GB/s a core, at most "
        f"{BANDWIDTH_LIMIT_BYTES_PER_S / 1e9:g}",
        "peak_flops.fp32": "estimated: assumed 8 fp32 lanes x 2 FMA units x 2 FLOP x "
        f"{CLOCK_HZ / 1e9:g} GHz x {cores} cores",
        "peak_flops.bf16": f"estimated: assumed 1/{EMULATION:g} of fp32: this CPU has no 16-bit "
        "arithmetic"
        if emulated
        else "estimated: assumed as fp32",
        "interconnect_bytes_per_s": "estimated: one device; its memory bandwidth",
        "gpus_per_node": "estimated: the CPU of a machine counts as one device",
    }
    memory, sources["memory_bytes"] = _memory(here, cores)
    power, sources["power_limit_w"] = _power(here, cores)
    return Hardware(
        hardware=name.strip(),
        vendor="cpu",
        architecture="CPU",
        aliases=(),
        memory_type="system memory",
        memory_bytes=memory,
        memory_bandwidth_bytes_per_s=bandwidth,
        peak_flops={"fp32": fp32, "bf16": fp32 / EMULATION if emulated else fp32},
        power_limit_w=power,
        idle_power_w=None,
        loaded_idle_power_w=None,
        interconnect_bytes_per_s=bandwidth,
        gpus_per_node=1,
        twin_system=None,
        twin_version=None,
        sources=sources,
        estimated=tuple(k for k, text in sources.items() if text.startswith("estimated:")),
        notes="A CPU: rates are assumptions for planning, good for an order of magnitude.",
    )


def _memory(here: Machine | None, cores: int) -> tuple[float, str]:
    if here is not None:
        return here.memory_bytes, here.memory_source
    return (
        MEMORY_PER_CORE_BYTES * cores,
        f"estimated: another machine; assumed {MEMORY_PER_CORE_BYTES / 2**30:g} GiB a core",
    )


def _power(here: Machine | None, cores: int) -> tuple[float, str]:
    if here is not None and here.power_limit_w is not None:
        return here.power_limit_w, "RAPL: long-term power limits of the packages of this machine"
    return (
        POWER_PER_CORE_W * cores,
        f"estimated: no readable limit; assumed {POWER_PER_CORE_W:g} W a core, for planning only",
    )

"""Checks of power sensors: NVIDIA through NVML, AMD, and the CPU's RAPL."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from energylens.doctor.diagnosis import Check, Section, attempt
from harness.meters.nvml_library import code_of, explain

POWERCAP = Path("/sys/class/powercap")


def nvidia(bindings: Any = None) -> tuple[Section, bool, str]:
    """Check every GPU that NVML shows.

    Parameters
    ----------
    bindings
        A module with the calls of NVML; `pynvml` if None.

    Returns
    -------
    tuple
        The section; whether at least one GPU can be measured; the reason in words.
    """
    title = "NVIDIA GPUs"
    if bindings is None:
        if find_spec("pynvml") is None:
            reason = "nvidia-ml-py is not installed"
            check = Check("NVML", reason, "no", "pip install nvidia-ml-py")
            return Section(title, (check,)), False, reason
        import pynvml

        bindings = pynvml
    try:
        bindings.nvmlInit()
    except bindings.NVMLError as error:
        text, fix = explain(code_of(error), str(error))
        return Section(title, (Check("NVML", text, "no", fix),)), False, text
    try:
        return _devices(bindings, title)
    finally:
        attempt(bindings.nvmlShutdown)


def _devices(nvml: Any, title: str) -> tuple[Section, bool, str]:
    count = int(nvml.nvmlDeviceGetCount())
    checks = [
        Check("driver", _text(attempt(nvml.nvmlSystemGetDriverVersion, "unknown")), "ok"),
        Check("GPUs", str(count), "ok" if count else "no", None if count else "check nvidia-smi"),
    ]
    able = 0
    for index in range(count):
        found, can = _device(nvml, index)
        checks += found
        able += can
    if not count:
        reason = "the driver shows no GPU"
    elif not able:
        reason = f"none of {count} GPUs has an energy counter or a power reading we can use"
    else:
        reason = f"{able} of {count} GPUs"
    return Section(title, tuple(checks)), able > 0, reason


def _device(nvml: Any, index: int) -> tuple[list[Check], bool]:
    handle = attempt(lambda: nvml.nvmlDeviceGetHandleByIndex(index))
    label = f"GPU {index}"
    if handle is None:
        return [
            Check(label, "lost: the driver gives no handle", "no", "see dmesg for Xid errors")
        ], False
    name = _text(attempt(lambda: nvml.nvmlDeviceGetName(handle), "unknown"))
    uuid = _text(attempt(lambda: nvml.nvmlDeviceGetUUID(handle), "no UUID"))
    checks = [Check(label, f"{name}, {uuid}", "ok")]
    counter_mj = attempt(lambda: int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)))
    power_mw = attempt(lambda: int(nvml.nvmlDeviceGetPowerUsage(handle)))
    checks.append(_counter(label, counter_mj))
    checks.append(_power(nvml, handle, label, power_mw))
    partitioned = attempt(lambda: nvml.nvmlDeviceGetMigMode(handle)[0] == 1, False)
    if partitioned:
        checks.append(
            Check(
                f"{label} MIG",
                "on: a slice has no power of its own",
                "no",
                f"turn it off to measure (nvidia-smi -i {index} -mig 0)",
            )
        )
    checks += _state_of(nvml, handle, label)
    can = (counter_mj is not None or power_mw is not None) and not partitioned
    return checks, can


def _counter(label: str, counter_mj: object) -> Check:
    if counter_mj is None:
        return Check(
            f"{label} energy",
            "no energy counter",
            "warn",
            "energy is then the integral of power; counters need Volta or newer",
        )
    if counter_mj == 0:
        return Check(f"{label} energy", "counter reads zero", "warn", "watch it under load")
    return Check(f"{label} energy", "counter readable", "ok")


def _power(nvml: Any, handle: Any, label: str, power_mw: object) -> Check:
    limit_mw = attempt(lambda: int(nvml.nvmlDeviceGetEnforcedPowerLimit(handle)))
    factory_mw = attempt(lambda: int(nvml.nvmlDeviceGetPowerManagementDefaultLimit(handle)))
    if not isinstance(power_mw, int):
        return Check(
            f"{label} power", "not readable", "warn", "check permissions and nvidia-smi -q"
        )
    text = f"{power_mw / 1000:.0f} W now"
    if isinstance(limit_mw, int):
        text += f", limit {limit_mw / 1000:.0f} W"
    if isinstance(limit_mw, int) and isinstance(factory_mw, int) and limit_mw != factory_mw:
        return Check(
            f"{label} power",
            f"{text}, factory limit {factory_mw / 1000:.0f} W",
            "warn",
            "results hold for this limit; it is recorded in every row",
        )
    return Check(f"{label} power", text, "ok")


def _state_of(nvml: Any, handle: Any, label: str) -> list[Check]:
    checks = []
    persistence = attempt(lambda: nvml.nvmlDeviceGetPersistenceMode(handle))
    if persistence == 0:
        checks.append(
            Check(
                f"{label} persistence",
                "off: the driver unloads between processes and the counter restarts",
                "warn",
                "sudo nvidia-smi -pm 1",
            )
        )
    processes = attempt(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle), [])
    foreign = (
        [p.pid for p in processes if p.pid != os.getpid()] if isinstance(processes, list) else []
    )
    if foreign:
        checks.append(
            Check(
                f"{label} processes",
                f"{len(foreign)} foreign, pid {', '.join(map(str, foreign[:5]))}",
                "warn",
                "their energy would be counted as ours: rows are flagged while they run",
            )
        )
    return checks


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def amd() -> Section:
    """Check for AMD GPUs without importing amdsmi, which can break Ray in the same process."""
    present = Path("/dev/kfd").exists()
    if not present:
        return Section("AMD GPUs", (Check("driver", "no AMD GPU driver (/dev/kfd is missing)"),))
    if find_spec("amdsmi") is None:
        check = Check(
            "amdsmi", "a driver, but no Python bindings", "warn", "install the amdsmi of your ROCm"
        )
    else:
        check = Check("amdsmi", "installed; it is loaded in a process of its own", "ok")
    return Section("AMD GPUs", (Check("driver", "/dev/kfd is there", "ok"), check))


def cpu_energy(root: Path = POWERCAP) -> Section:
    """Check whether the energy counters of the CPU (RAPL) are there and readable."""
    domains = sorted(root.glob("intel-rapl:*")) if root.is_dir() else []
    if not domains:
        return Section("CPU energy", (Check("RAPL", f"not offered here ({root})"),))
    readable = [d for d in domains if attempt(lambda d=d: int((d / "energy_uj").read_text()))]  # type: ignore[misc]
    if readable:
        return Section("CPU energy", (Check("RAPL", f"{len(readable)} domains readable", "ok"),))
    return Section(
        "CPU energy",
        (
            Check(
                "RAPL",
                f"{len(domains)} domains, none readable by this user",
                "warn",
                f"sudo chmod a+r {root}/intel-rapl:*/energy_uj",
            ),
        ),
    )

"""Which NVIDIA GPUs there are, which of them CUDA would use, and the state that they are in.

NVML knows nothing of CUDA_VISIBLE_DEVICES: everything here goes by UUID.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import MeterError
from harness.meters.nvml_library import attempt, meter_error, opened, text
from harness.meters.nvml_sensor import probe

SIMULATED_DRIVER = "scripted"
"""Version that a driver starts with when there is no GPU behind it: never called measured."""


@dataclass(frozen=True, slots=True)
class GpuInfo:
    """One GPU as NVML shows it; None where the driver does not say.

    Attributes
    ----------
    index
        Index of NVML, which counts in order of the PCI bus.
    uuid, name, pci_bus_id
        As NVML writes them.
    memory_bytes
        Whole memory.
    mig_enabled
        Whether the GPU is split into slices, which have no power of their own.
    driver_version
        Version of the driver.
    simulated
        Whether the driver is a scripted one.
    has_counter, has_instant_power, has_average_power
        What the sensor offers.
    power_limit_w, default_power_limit_w
        Limit in force, and that of the factory.
    persistence, ecc
        Whether these modes are on.
    compute_capability
        Major and minor number.
    process_pids
        Compute processes on the GPU, as far as this user may see them.
    lost
        The code of NVML if the driver gives no access to this GPU, else 0.
    """

    index: int
    uuid: str
    name: str
    memory_bytes: int
    pci_bus_id: str
    mig_enabled: bool
    driver_version: str
    simulated: bool
    has_counter: bool
    has_instant_power: bool
    has_average_power: bool
    power_limit_w: float | None
    default_power_limit_w: float | None
    persistence: bool | None
    ecc: bool | None
    compute_capability: tuple[int, int] | None
    process_pids: tuple[int, ...]
    lost: int = 0


def find_devices() -> list[GpuInfo]:
    """Every GPU of this machine, in the order of NVML.

    Raises
    ------
    MeterError
        NVML does not start: no bindings, no driver, no permission.
    """
    with opened() as nvml:
        driver = text(attempt(nvml, nvml.nvmlSystemGetDriverVersion, "unknown"))
        try:
            count = int(nvml.nvmlDeviceGetCount())
        except nvml.NVMLError as error:
            raise meter_error(error, "NVML (nvmlDeviceGetCount)") from None
        return [_describe(nvml, index, driver) for index in range(count)]


def _describe(nvml: Any, index: int, driver: str) -> GpuInfo:
    simulated = driver.startswith(SIMULATED_DRIVER)
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid = text(nvml.nvmlDeviceGetUUID(handle))
    except nvml.NVMLError as error:
        return GpuInfo(
            index=index,
            uuid=f"GPU {index}",
            name="unknown",
            memory_bytes=0,
            pci_bus_id="",
            mig_enabled=False,
            driver_version=driver,
            simulated=simulated,
            has_counter=False,
            has_instant_power=False,
            has_average_power=False,
            power_limit_w=None,
            default_power_limit_w=None,
            persistence=None,
            ecc=None,
            compute_capability=None,
            process_pids=(),
            lost=int(error.value),
        )
    sensor = probe(nvml, handle)
    return GpuInfo(
        index=index,
        uuid=uuid,
        name=text(attempt(nvml, lambda: nvml.nvmlDeviceGetName(handle), "unknown")),
        memory_bytes=attempt(nvml, lambda: int(nvml.nvmlDeviceGetMemoryInfo(handle).total), 0),
        pci_bus_id=text(attempt(nvml, lambda: nvml.nvmlDeviceGetPciInfo(handle).busId, "")),
        mig_enabled=mig_enabled(nvml, handle),
        driver_version=driver,
        simulated=simulated,
        has_counter=sensor.has_counter,
        has_instant_power=sensor.has_instant_power,
        has_average_power=sensor.has_average_power,
        power_limit_w=_watts(nvml, nvml.nvmlDeviceGetEnforcedPowerLimit, handle),
        default_power_limit_w=_watts(nvml, nvml.nvmlDeviceGetPowerManagementDefaultLimit, handle),
        persistence=attempt(nvml, lambda: bool(nvml.nvmlDeviceGetPersistenceMode(handle)), None),
        ecc=attempt(nvml, lambda: bool(nvml.nvmlDeviceGetEccMode(handle)[0]), None),
        compute_capability=attempt(
            nvml, lambda: tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle)), None
        ),
        process_pids=process_pids(nvml, handle),
    )


def mig_enabled(nvml: Any, handle: Any) -> bool:
    """Whether a GPU is split into slices."""
    return attempt(nvml, lambda: bool(nvml.nvmlDeviceGetMigMode(handle)[0] == 1), False)


def process_pids(nvml: Any, handle: Any) -> tuple[int, ...]:
    """Compute processes on a GPU."""
    found: list[Any] = attempt(nvml, lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle), [])
    return tuple(int(process.pid) for process in found)


def refuse_mig(uuid: str, index: int | None = None) -> MeterError:
    """Error for a GPU that is split, or for a slice of one."""
    number = "N" if index is None else str(index)
    return MeterError(
        "MIG is on, and a slice has no power of its own",
        where=uuid,
        fix=f"turn it off to measure (nvidia-smi -i {number} -mig 0)",
    )


def visible_devices(
    environ: Mapping[str, str] | None = None, devices: Sequence[GpuInfo] | None = None
) -> list[str]:
    """UUIDs of the GPUs that CUDA would show, in its order.

    Parameters
    ----------
    environ
        Where CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER are looked up; `os.environ` if None.
    devices
        The GPUs of the machine; asked of NVML if None.

    Raises
    ------
    MeterError
        An index or UUID that no GPU has, one that is named twice, a slice of MIG, or indices
        on a machine with GPUs of different types, which CUDA numbers by speed and not by bus.
    """
    environ = os.environ if environ is None else environ
    devices = find_devices() if devices is None else devices
    words = environ.get("CUDA_VISIBLE_DEVICES")
    if words is None:
        chosen = list(devices)
        if len({d.name for d in chosen if not d.lost}) > 1:
            _need_bus_order(environ, "CUDA_VISIBLE_DEVICES is not set")
    else:
        chosen = []
        for token in (t.strip() for t in words.split(",")):
            # CUDA ends the list at the first word that names nothing on purpose.
            if token in ("", "NoDevFiles") or token.startswith("-"):
                break
            chosen.append(_named(token, devices, environ, words))
    uuids = [d.uuid for d in chosen]
    if doubled := {u for u in uuids if uuids.count(u) > 1}:
        raise MeterError(
            f"{', '.join(sorted(doubled))} is named twice",
            where=f"CUDA_VISIBLE_DEVICES={words}",
            fix="name each GPU once",
        )
    for device in chosen:
        if device.mig_enabled:
            raise refuse_mig(device.uuid, device.index)
    return uuids


def _named(
    token: str, devices: Sequence[GpuInfo], environ: Mapping[str, str], words: str
) -> GpuInfo:
    where = f"CUDA_VISIBLE_DEVICES={words}"
    if token.startswith("MIG-"):
        raise refuse_mig(f"{where}: {token}")
    if token.isdigit():
        if len({d.name for d in devices if not d.lost}) > 1:
            _need_bus_order(environ, where)
        found = [d for d in devices if d.index == int(token)]
    else:
        found = [d for d in devices if token.startswith("GPU-") and d.uuid.startswith(token)]
    if len(found) == 1:
        return found[0]
    raise MeterError(
        f"{token} names {len(found) or 'no'} GPU{'s' if found else ''} of this machine",
        where=where,
        fix="there are " + (", ".join(f"{d.index} ({d.uuid})" for d in devices) or "none"),
    )


def _need_bus_order(environ: Mapping[str, str], where: str) -> None:
    if environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        raise MeterError(
            "GPUs of different types: CUDA numbers them by speed, the driver by PCI bus",
            where=where,
            fix="set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name the GPUs by UUID",
        )


def device_environment(uuid: str) -> dict[str, Any]:
    """State of one GPU as it goes into the record of a measurement; None where unknown.

    Raises
    ------
    MeterError
        NVML does not start, or knows no such GPU.
    """
    with opened() as nvml:
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            index = int(nvml.nvmlDeviceGetIndex(handle))
        except nvml.NVMLError as error:
            raise meter_error(error, uuid) from None
        driver = text(attempt(nvml, nvml.nvmlSystemGetDriverVersion, "unknown"))
        gpu = _describe(nvml, index, driver)
        cuda = attempt(nvml, nvml.nvmlSystemGetCudaDriverVersion, None)
        clock = nvml.nvmlDeviceGetClockInfo
        return {
            "uuid": gpu.uuid,
            "name": gpu.name,
            "index": gpu.index,
            "pci_bus_id": gpu.pci_bus_id,
            "memory_bytes": gpu.memory_bytes,
            "driver": gpu.driver_version,
            "cuda_driver": None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
            "vbios": attempt(nvml, lambda: text(nvml.nvmlDeviceGetVbiosVersion(handle)), None),
            "compute_capability": gpu.compute_capability and list(gpu.compute_capability),
            "power_limit_w": gpu.power_limit_w,
            "default_power_limit_w": gpu.default_power_limit_w,
            "persistence": gpu.persistence,
            "ecc": gpu.ecc,
            "mig": gpu.mig_enabled,
            "sm_clock_mhz": attempt(nvml, lambda: int(clock(handle, nvml.NVML_CLOCK_SM)), None),
            "mem_clock_mhz": attempt(nvml, lambda: int(clock(handle, nvml.NVML_CLOCK_MEM)), None),
            "temperature_c": attempt(
                nvml,
                lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
                None,
            ),
            "throttle_mask": probe(nvml, handle).throttle_mask(),
            "process_pids": list(gpu.process_pids),
            "simulated": gpu.simulated,
        }


def _watts(nvml: Any, call: Any, handle: Any) -> float | None:
    return attempt(nvml, lambda: float(call(handle)) / 1e3, None)

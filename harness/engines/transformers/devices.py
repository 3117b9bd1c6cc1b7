"""The one device that a session runs on: which it is, how full, how to wait for it."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from harness.catalog.identify import identify
from harness.errors import MeterError, NotSupportedError

Kind = Literal["cuda", "rocm", "cpu"]


@dataclass(frozen=True, slots=True)
class Device:
    """A device as torch and its driver see it.

    Attributes
    ----------
    kind
        cuda, rocm or cpu: what is read by the meter.
    torch_name
        ``cuda:0`` or ``cpu``: what does the work. A GPU that is only simulated leaves the work
        to the CPU.
    name
        As the driver says it.
    uuid
        As NVML says it; empty for a CPU.
    memory_bytes
        Total memory.
    """

    kind: Kind
    torch_name: str
    name: str
    uuid: str
    memory_bytes: int

    @property
    def works_on_cpu(self) -> bool:
        """Whether torch computes on the host."""
        return self.torch_name == "cpu"


def wanted_kind(hardware: str) -> Literal["gpu", "cpu"]:
    """Return what a deployment's hardware asks for: names that start with CPU are CPUs."""
    return "cpu" if hardware.upper().startswith("CPU") else "gpu"


def find_device(hardware: str, device: str = "auto") -> Device:
    """Return the device that `hardware` names. Makes no context on a GPU.

    Parameters
    ----------
    hardware
        Canonical id of the deployment.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    NotSupportedError
        If another device is there, or none.
    MeterError
        If CUDA_VISIBLE_DEVICES names a MIG slice or nothing that is there.
    """
    if wanted_kind(hardware) == "cpu":
        if device not in ("auto", "cpu"):
            raise NotSupportedError(
                f"the deployment names {hardware}, but the engine is told to run on {device}",
                where="engine option device",
                fix="leave the option out",
            )
        _check_cpu(hardware)
        return Device("cpu", "cpu", cpu_name(), "", _host_memory("MemTotal"))
    index = int(device.partition(":")[2] or 0)
    found = _by_driver(index) or _by_torch(index)
    if found is None:
        raise NotSupportedError(
            f"the deployment names {hardware}, but there is no GPU here",
            where=f"CPU: {cpu_name()}",
            fix="run on a machine with that GPU and a torch built for it, or name hardware CPU",
        )
    there = identify(found.name, found.memory_bytes)
    if there != hardware:
        raise NotSupportedError(
            f"the deployment names {hardware}, but the GPU here is {found.name} "
            f"({found.memory_bytes / 2**30:.0f} GiB): {there or 'a type not in the catalog'}",
            where=found.uuid,
            fix="name the hardware that is there, or add it to harness/catalog/hardware.json",
        )
    if device == "cpu":
        return replace(found, torch_name="cpu")
    if not _torch_sees(index):
        raise NotSupportedError(
            f"torch does not see the {found.name}",
            where=found.uuid,
            fix="install a torch that is built for this GPU and its driver",
        )
    return found


def _check_cpu(hardware: str) -> None:
    """Refuse the name of another CPU; the bare name CPU means the one that is there."""
    from harness.catalog.cpu import cpu_id
    from harness.catalog.machine import this_machine

    here = this_machine()
    there = cpu_id(here.cpu_model, here.cores)
    if hardware.startswith("CPU-") and hardware != there:
        raise NotSupportedError(
            f"the deployment names {hardware}, but the CPU here is {there}",
            where=f"CPU: {cpu_name()}",
            fix="write hardware: local in the sweep, or run on that machine",
        )


def _by_driver(index: int) -> Device | None:
    from harness.meters.nvml_devices import find_devices, visible_devices

    try:
        every = {gpu.uuid: gpu for gpu in find_devices()}
    except MeterError:
        return None
    visible = visible_devices(devices=list(every.values()))
    if index >= len(visible):
        return None
    gpu = every[visible[index]]
    return Device("cuda", f"cuda:{index}", gpu.name, gpu.uuid, gpu.memory_bytes)


def _torch_sees(index: int) -> bool:
    import torch

    return bool(torch.cuda.is_available()) and index < int(torch.cuda.device_count())


def _by_torch(index: int) -> Device | None:
    import torch

    if not _torch_sees(index):
        return None
    facts = torch.cuda.get_device_properties(index)
    kind: Kind = "rocm" if getattr(torch.version, "hip", None) else "cuda"
    uuid = str(getattr(facts, "uuid", ""))
    if kind == "cuda" and uuid and not uuid.startswith("GPU-"):
        uuid = f"GPU-{uuid}"
    return Device(kind, f"cuda:{index}", str(facts.name), uuid, int(facts.total_memory))


def synchroniser(device: Device) -> Callable[[], None]:
    """Return a function that waits until the device has finished its work."""
    if device.works_on_cpu:
        return lambda: None
    import torch

    return lambda: torch.cuda.synchronize(device.torch_name)


def free_memory_bytes(device: Device) -> int:
    """Memory that a new allocation could get, bytes."""
    if device.works_on_cpu:
        return min(_host_memory("MemAvailable"), _group_memory())
    import torch

    free, _ = torch.cuda.mem_get_info(device.torch_name)
    cached = int(torch.cuda.memory_reserved(device.torch_name))
    used = int(torch.cuda.memory_allocated(device.torch_name))
    return int(free) + cached - used


def cpu_name() -> str:
    """Return the model name of the CPU."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


_UNKNOWN = 2**62
"""Stands for "no limit known": refusals are made only where one is."""


def _host_memory(key: str) -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return _UNKNOWN


def _group_memory() -> int:
    """Memory left to the control group of this process (a container's limit)."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text().strip()
        if limit == "max":
            return _UNKNOWN
        return max(0, int(limit) - int((root / "memory.current").read_text()))
    except (OSError, ValueError):
        return _UNKNOWN

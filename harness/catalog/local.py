"""Hardware `local`: the accelerators of this very machine, under their canonical ids."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.catalog.cpu import cpu_hardware, cpu_id
from harness.catalog.hardware import DATA, Hardware, load_hardware, name_key
from harness.catalog.identify import identify
from harness.catalog.machine import Machine, this_machine
from harness.errors import CatalogError

LOCAL = "local"
_NO_DRIVER = ("NVMLError_LibraryNotFound", "NVMLError_DriverNotLoaded")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as its driver names it; memory in bytes, None where the driver tells none."""

    name: str
    memory_bytes: float | None
    uuid: str


def is_local(name: str) -> bool:
    """Say whether a hardware name of a sweep means this machine."""
    return name_key(name) == LOCAL


def local_hardware(
    gpus: Callable[[], Sequence[Gpu]] | None = None,
    machine: Callable[[], Machine] = this_machine,
) -> tuple[Hardware, ...]:
    """Return the hardware types of this machine: its GPU types, or its CPU if it has no GPU.

    Parameters
    ----------
    gpus
        Lists the GPUs; NVML where None.
    machine
        Reads the facts of the CPU.

    Raises
    ------
    CatalogError
        If a GPU is of a type that the catalog does not know, or its driver does not answer.
    """
    found = list(visible(gpus() if gpus is not None else nvidia_gpus(), os.environ))
    if not found:
        here = machine()
        if gpus is None:
            _refuse_amd()
        return (cpu_hardware(cpu_id(here.cpu_model, here.cores), here),)
    types = {_canonical(gpu): None for gpu in found}
    return tuple(load_hardware(name) for name in types)


def _canonical(gpu: Gpu) -> str:
    name = identify(gpu.name, gpu.memory_bytes)
    if name is not None:
        return name
    size = "" if gpu.memory_bytes is None else f", {gpu.memory_bytes / 2**30:.0f} GiB"
    raise CatalogError(
        f"the catalog does not know the GPU of this machine: {gpu.name}{size}",
        where=f"hardware local, {gpu.uuid}",
        fix=f"add its datasheet to harness/catalog/{DATA.name} with {gpu.name!r} among the aliases "
        "and a source for every number, or hide the GPU with CUDA_VISIBLE_DEVICES= to take the CPU",
    )


def visible(gpus: Sequence[Gpu], environment: Mapping[str, str]) -> Sequence[Gpu]:
    """Leave out the GPUs that CUDA_VISIBLE_DEVICES hides, which NVML shows all the same.

    Parameters
    ----------
    gpus
        In the order of the bus.
    environment
        Environment variables.
    """
    text = environment.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return gpus
    shown: list[Gpu] = []
    for word in (part.strip() for part in text.split(",")):
        if word.isdigit() and int(word) < len(gpus):
            shown.append(gpus[int(word)])
            continue
        named = [gpu for gpu in gpus if len(word) > 4 and gpu.uuid.startswith(word)]
        if not named:
            break  # CUDA itself stops at the first device that is not there
        shown += named[:1]
    return shown


def nvidia_gpus(bindings: Any = None) -> list[Gpu]:
    """List the NVIDIA GPUs that NVML shows; empty without a driver.

    Parameters
    ----------
    bindings
        A module with the calls of NVML; `pynvml` if None.

    Raises
    ------
    CatalogError
        If there is a driver that does not answer.
    """
    if bindings is None:
        try:
            import pynvml
        except ImportError:
            return []
        bindings = pynvml
    try:
        bindings.nvmlInit()
    except bindings.NVMLError as error:
        if type(error).__name__ in _NO_DRIVER:
            return []
        raise _silent(error) from error
    try:
        handles = [
            bindings.nvmlDeviceGetHandleByIndex(index)
            for index in range(int(bindings.nvmlDeviceGetCount()))
        ]
        return [_gpu(bindings, handle) for handle in handles]
    except bindings.NVMLError as error:
        raise _silent(error) from error
    finally:
        bindings.nvmlShutdown()


def _gpu(nvml: Any, handle: Any) -> Gpu:
    try:
        memory: float | None = float(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    except nvml.NVMLError:
        memory = None  # unified memory, such as GB10: the driver has no size of its own
    return Gpu(_text(nvml.nvmlDeviceGetName(handle)), memory, _text(nvml.nvmlDeviceGetUUID(handle)))


def _silent(error: Exception) -> CatalogError:
    return CatalogError(
        f"the NVIDIA driver of this machine does not answer: {error}",
        where="hardware local",
        fix="run energylens doctor, or name the hardware in the sweep",
    )


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _refuse_amd(nodes: Path = Path("/sys/class/kfd/kfd/topology/nodes")) -> None:
    """Refuse to take the CPU where an AMD GPU is there, whose type is not read yet."""
    for properties in sorted(nodes.glob("*/properties")):
        try:
            words = properties.read_text().split()
        except OSError:
            continue
        fields = dict(zip(words[::2], words[1::2], strict=False))
        if fields.get("simd_count", "0") != "0":
            raise CatalogError(
                "the AMD GPU of this machine is not told by itself yet",
                where="hardware local",
                fix="name it in the sweep, such as hardware: MI300X-192GB",
            )

"""The machine of an acceptance run: its packages, its GPU, and what the catalog calls it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from harness.errors import MeterError, RunError

MODULES = ("numpy", "pandas", "pyarrow", "pydantic", "torch", "transformers", "pynvml")
_PACKAGES = {"pynvml": "nvidia-ml-py"}


@dataclass(frozen=True, slots=True)
class CheckedGpu:
    """The GPU that is measured.

    Attributes
    ----------
    index
        As CUDA counts it in this process.
    uuid, name, driver, memory_bytes
        As the driver says.
    hardware
        Canonical id in the catalog.
    simulated
        Whether the driver is a scripted one.
    """

    index: int
    uuid: str
    name: str
    driver: str
    memory_bytes: int
    hardware: str
    simulated: bool = False


def check_packages(names: Sequence[str] = MODULES) -> None:
    """Refuse to start where a package is missing.

    Raises
    ------
    RunError
        Naming all that are missing.
    """
    missing = [_PACKAGES.get(name, name) for name in names if find_spec(name) is None]
    if missing:
        raise RunError(
            f"the GPU check needs {', '.join(missing)}",
            where="this Python environment",
            fix=f"pip install {' '.join(missing)}, or name another Python: make gpu-check PYTHON=",
        )


def find_gpu(device: str = "cuda:0") -> CheckedGpu:
    """Find the GPU without opening a CUDA context.

    Parameters
    ----------
    device
        ``cuda`` or ``cuda:N``, N among the GPUs that CUDA_VISIBLE_DEVICES leaves.

    Raises
    ------
    MeterError
        If there is no driver, no such GPU, or it is split by MIG.
    RunError
        If the device is not named that way, or the catalog does not know the GPU.
    """
    from harness.catalog.identify import identify
    from harness.meters.nvml_devices import find_devices, refuse_mig, visible_devices

    kind, _, number = device.partition(":")
    if kind != "cuda" or not (number or "0").isdigit():
        raise RunError(
            f"{device!r} is no CUDA device", where="--device", fix="name it cuda:0, cuda:1, ..."
        )
    index = int(number or 0)
    every = {gpu.uuid: gpu for gpu in find_devices()}
    visible = visible_devices(devices=list(every.values()))
    if index >= len(visible):
        raise MeterError(
            f"there is no {device}: {len(visible)} GPUs are visible here",
            where="--device, CUDA_VISIBLE_DEVICES",
            fix="run on a machine with an NVIDIA GPU, or name one that is visible",
        )
    gpu = every[visible[index]]
    if gpu.mig_enabled:
        raise refuse_mig(gpu.uuid, gpu.index)
    hardware = identify(gpu.name, gpu.memory_bytes)
    if hardware is None:
        raise RunError(
            f"the catalog does not know {gpu.name} with {gpu.memory_bytes / 2**30:.0f} GiB",
            where=gpu.uuid,
            fix="add its datasheet to harness/catalog/hardware.json",
        )
    return CheckedGpu(
        index,
        gpu.uuid,
        gpu.name,
        gpu.driver_version,
        gpu.memory_bytes,
        hardware,
        gpu.simulated,
    )

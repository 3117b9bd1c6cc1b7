"""NVIDIA's management library: opened, closed, and its errors in words that say what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, TypeVar

from harness.errors import MeterError

T = TypeVar("T")

NOT_SUPPORTED = 3
NO_PERMISSION = 4
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
"""Return codes of NVML (nvml.h, enum nvmlReturn_enum)."""

REASONS: dict[int, tuple[str, str]] = {
    3: (
        "this GPU does not offer the reading",
        "energy counters need Volta or newer and a driver that knows the call",
    ),
    4: (
        "this user may not talk to the NVIDIA driver",
        "check the permissions of /dev/nvidia*",
    ),
    9: (
        "the NVIDIA driver is installed but not loaded",
        "load it (modprobe nvidia) or reboot after the update",
    ),
    12: (
        "no NVIDIA driver on this machine (libnvidia-ml.so.1 is missing)",
        "on a GPU machine install the driver; in a container pass the GPUs (--gpus all)",
    ),
    13: (
        "the driver's library lacks a call that is needed",
        "install a newer NVIDIA driver",
    ),
    15: (
        "the GPU is lost: it does not answer the driver any more",
        "see dmesg for Xid errors; reset the GPU or reboot",
    ),
    16: (
        "the GPU must be reset before it can be used again",
        "nvidia-smi --gpu-reset, or reboot",
    ),
    18: (
        "driver library and kernel module are of different versions",
        "reboot, or load the module that belongs to the library",
    ),
}
"""What is wrong and what to do, by return code of NVML."""

NOT_INSTALLED = ("nvidia-ml-py is not installed", "pip install nvidia-ml-py")


def explain(code: int, words: str = "") -> tuple[str, str]:
    """What is wrong and what to do, for a return code of NVML and the library's own words."""
    unknown = f"NVML answers with error {code}" + (f": {words}" if words else "")
    return REASONS.get(code, (unknown, "check that nvidia-smi works"))


def code_of(error: Exception) -> int:
    """Return code of NVML that an exception of its bindings carries."""
    return int(getattr(error, "value", 999))


def meter_error(error: Exception, where: str) -> MeterError:
    """Turn an exception of the bindings into an error that says what, where and what to do."""
    what, fix = explain(code_of(error), str(error))
    return MeterError(what, where=where, fix=fix)


def start() -> Any:
    """Start NVML and return its bindings; every start needs one `stop`.

    Returns
    -------
    module
        `pynvml` of nvidia-ml-py.

    Raises
    ------
    MeterError
        No bindings, no driver, a driver that does not match, no permission.
    """
    if find_spec("pynvml") is None:
        raise MeterError(NOT_INSTALLED[0], where="import pynvml", fix=NOT_INSTALLED[1])
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise meter_error(error, "NVML (nvmlInit)") from None
    return pynvml


def stop(nvml: Any) -> None:
    """Undo one `start`; a library that is gone already is no error."""
    attempt(nvml, nvml.nvmlShutdown, None)


@contextmanager
def opened() -> Iterator[Any]:
    """NVML's bindings for the length of a `with` block."""
    nvml = start()
    try:
        yield nvml
    finally:
        stop(nvml)


def attempt(nvml: Any, call: Callable[[], T], missing: T) -> T:
    """What `call` returns, or `missing` where NVML refuses."""
    try:
        return call()
    except nvml.NVMLError:
        return missing


def text(value: str | bytes) -> str:
    """Text of NVML, which older bindings hand over as bytes."""
    return value.decode() if isinstance(value, bytes) else value

"""A stand-in for AMD's library: GPUs of known power, read from a script in JSON.

The file named by AMD_SCRIPT: {"gpus": [{"power_w", "uuid", "lost", "old", ...}], "init": code}.
"""

from __future__ import annotations

import json
import os
import time
from enum import IntEnum
from pathlib import Path
from typing import Any

print("the library prints when it is imported")

RESOLUTION_UJ = 15.3
START_S = 1.0


class AmdSmiException(Exception):  # noqa: N818 (the library's name)
    pass


class AmdSmiLibraryException(AmdSmiException):
    def __init__(self, err_code: int) -> None:
        super().__init__(f"Error code:\n\t{err_code} | scripted")
        self.err_code = err_code


class AmdSmiTemperatureType(IntEnum):
    EDGE, HOTSPOT = 0, 1


class AmdSmiTemperatureMetric(IntEnum):
    CURRENT = 0


class AmdSmiClkType(IntEnum):
    GFX, MEM = 1, 4


def _script() -> dict[str, Any]:
    return json.loads(Path(os.environ["AMD_SCRIPT"]).read_text())


def _gpu(handle: int) -> dict[str, Any]:
    gpu = _script()["gpus"][handle]
    if gpu.get("lost"):
        raise AmdSmiLibraryException(34)
    return gpu


def amdsmi_init() -> None:
    if _script().get("init"):
        raise AmdSmiLibraryException(_script()["init"])


def amdsmi_shut_down() -> None:
    pass


def amdsmi_get_processor_handles() -> list[int]:
    return list(range(len(_script()["gpus"])))


def amdsmi_get_gpu_device_uuid(handle: int) -> str:
    return _gpu(handle)["uuid"]


def amdsmi_get_gpu_enumeration_info(handle: int) -> dict[str, Any]:
    return {"hip_id": handle, "hip_uuid": f"GPU-hip{handle}"}


def amdsmi_get_gpu_device_bdf(handle: int) -> str:
    return f"0000:0{handle}:00.0"


def amdsmi_get_energy_count(handle: int) -> dict[str, Any]:
    gpu = _gpu(handle)
    if "energy_error" in gpu:
        raise AmdSmiLibraryException(gpu["energy_error"])
    seconds = gpu.get("frozen_at_s") or time.monotonic()
    count = int(gpu["power_w"] * seconds * 1e6 / RESOLUTION_UJ)
    name = "power" if gpu.get("old") else "energy_accumulator"
    return {name: count, "counter_resolution": RESOLUTION_UJ, "timestamp": time.time_ns()}


def amdsmi_get_power_info(handle: int) -> dict[str, Any]:
    gpu = _gpu(handle)
    current, average = gpu["power_w"], 0xFFFFFFFF
    if gpu.get("old"):
        current, average = "N/A", gpu["power_w"]
    return {"current_socket_power": current, "average_socket_power": average}


def amdsmi_get_temp_metric(handle: int, kind: int, metric: int) -> int:
    assert (kind, metric) == (AmdSmiTemperatureType.HOTSPOT, AmdSmiTemperatureMetric.CURRENT)
    return 61


def amdsmi_get_clock_info(handle: int, kind: int) -> dict[str, Any]:
    mhz = {AmdSmiClkType.GFX: 2100, AmdSmiClkType.MEM: 1300}[AmdSmiClkType(kind)]
    return {"cur_clk" if _gpu(handle).get("old") else "clk": mhz}


def amdsmi_get_gpu_metrics_info(handle: int) -> dict[str, Any]:
    gpu = _gpu(handle)
    if gpu.get("old"):
        return {"throttle_status": gpu.get("throttle_status", 0)}
    return {
        "throttle_status": "N/A",
        "ppt_residency_acc": gpu.get("ppt", 0),
        "socket_thm_residency_acc": gpu.get("thermal", 0),
    }


def amdsmi_get_gpu_process_list(handle: int) -> list[dict[str, Any]]:
    return [{"pid": pid} for pid in _gpu(handle).get("pids", [])]

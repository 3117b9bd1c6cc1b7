"""Reads energy, power and state of NVIDIA GPUs through NVML, device by device, by UUID.

    one poll:  [energy|power|throttle] GPU a   [energy|power|throttle] GPU b   ...
               ^ began         ^ delay_s of a: the middle of its energy read

Standard library and nvidia-ml-py only: the sampler's process loads this, and nothing heavier.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from harness.errors import MeterError
from harness.meters.nvml_devices import (
    SIMULATED_DRIVER,
    GpuInfo,
    device_environment,
    find_devices,
    mig_enabled,
    refuse_mig,
    visible_devices,
)
from harness.meters.nvml_fields import NAN
from harness.meters.nvml_library import (
    REASONS,
    attempt,
    code_of,
    explain,
    meter_error,
    start,
    stop,
    text,
)
from harness.meters.nvml_sensor import (
    SCOPES,
    THROTTLE_BITS,
    NvmlSensor,
    is_gone,
    probe,
)

__all__ = [
    "REASONS",
    "THROTTLE_BITS",
    "GpuInfo",
    "NvmlReader",
    "device_environment",
    "explain",
    "find_devices",
    "visible_devices",
]

UNKNOWN_STATE = (NAN, NAN, NAN, NAN)


class NvmlReader:
    """Sensors of NVIDIA GPUs, opened once and read at every poll.

    Parameters
    ----------
    device_ids
        UUIDs of the GPUs; NVML ignores CUDA_VISIBLE_DEVICES, so indices would mean other GPUs.
    scope
        `gpu`, or `module` for the whole of a superchip.
    clock
        Monotonic nanoseconds.

    Attributes
    ----------
    device_ids
        UUIDs, in the order of `read`.
    scope
        What the counter covers.
    driver_version
        Version of the driver.
    simulated
        Whether the driver is a scripted one.
    sensors
        What each device offers.

    Raises
    ------
    MeterError
        NVML does not start; a UUID is unknown; MIG is on; a GPU is lost, or offers neither an
        energy counter nor a power reading.
    """

    def __init__(
        self,
        device_ids: Sequence[str],
        scope: str = "gpu",
        *,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        if scope not in SCOPES:
            raise MeterError(
                f"there is no power scope {scope!r}", where="scope", fix="use " + ", ".join(SCOPES)
            )
        self.device_ids = tuple(device_ids)
        self.scope = scope
        self._clock = clock
        self._nvml: Any = start()
        try:
            self.driver_version = text(
                attempt(self._nvml, self._nvml.nvmlSystemGetDriverVersion, "unknown")
            )
            self.sensors = tuple(self._open(uuid) for uuid in self.device_ids)
        except BaseException:
            self.close()
            raise
        self.simulated = self.driver_version.startswith(SIMULATED_DRIVER)
        self._state = [UNKNOWN_STATE] * len(self.sensors)

    @property
    def has_counter(self) -> bool:
        """Whether every device has an energy counter."""
        return all(sensor.has_counter for sensor in self.sensors)

    def _open(self, uuid: str) -> NvmlSensor:
        nvml = self._nvml
        if uuid.startswith("MIG-"):
            raise refuse_mig(uuid)
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        except nvml.NVMLError as error:
            if code_of(error) not in (2, 6):  # invalid argument, not found
                raise meter_error(error, uuid) from None
            raise MeterError(
                "the driver shows no GPU of this UUID",
                where=uuid,
                fix="nvidia-smi -L lists the GPUs and their UUIDs",
            ) from None
        if mig_enabled(nvml, handle):
            raise refuse_mig(
                uuid, attempt(nvml, lambda: int(nvml.nvmlDeviceGetIndex(handle)), None)
            )
        sensor = probe(nvml, handle, self.scope)
        if sensor.has_counter or sensor.has_instant_power or sensor.has_average_power:
            return sensor
        what, fix = explain(sensor.code)
        raise MeterError(
            f"no energy counter and no power reading at scope {self.scope}: {what}",
            where=uuid,
            fix=fix,
        )

    def read(self, slow: bool) -> list[tuple[float, ...]]:
        """Read every device once: one tuple of `READING_FIELDS` a device.

        Energy, power and the reasons for reduced clocks are read at each call; temperature,
        clocks and processes only if `slow`, else they are those of the last slow read.
        """
        clock = self._clock
        rows: list[tuple[float, ...]] = []
        now = began = clock()
        for index, sensor in enumerate(self.sensors):
            if index:
                now = clock()
            energy_mj, instant_w, average_w, mask, status, twice_ns = sensor.read(now, clock)
            if status and is_gone(status):
                self._state[index] = UNKNOWN_STATE
            elif slow:
                self._state[index] = sensor.state()
            temperature_c, sm_mhz, mem_mhz, processes = self._state[index]
            rows.append(
                (
                    energy_mj,
                    instant_w,
                    average_w,
                    temperature_c,
                    sm_mhz,
                    mem_mhz,
                    mask,
                    processes,
                    float(status),
                    (twice_ns - 2 * began) / 2e9,
                )
            )
        return rows

    def close(self) -> None:
        """Let NVML go; a second call does nothing."""
        if self._nvml is not None:
            stop(self._nvml)
            self._nvml = None

"""What one NVIDIA GPU lets be read, found out once, and how it is read at each poll.

    energy   field 83, else nvmlDeviceGetTotalEnergyConsumption         mJ since driver load
    instant  field 186, else nvmlDeviceGetPowerUsage before GA10x       mW
    average  field 185, else nvmlDeviceGetPowerUsage from GA10x on      mW, mean of the last 1 s

Source: NVML API reference, Device Queries and Field Value Enums (nvml.h). A reading of 0 mJ is
passed on as it is: whether a counter can be believed is judged where windows are.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_uint, c_ulonglong
from dataclasses import dataclass
from typing import Any

from harness.meters.nvml_fields import (
    FIELD_AVERAGE,
    FIELD_ENERGY,
    FIELD_INSTANT,
    NAN,
    FieldCall,
    NumberCall,
)
from harness.meters.nvml_library import GPU_IS_LOST, NOT_SUPPORTED, attempt

RESET_REQUIRED = 16

POLLED = (FIELD_INSTANT, FIELD_ENERGY, FIELD_AVERAGE)
"""The energy in the middle: so the middle of the call is when it was read."""

SCOPES = {"gpu": 0, "module": 1}
"""Scope of the power and energy fields: the GPU alone, or the whole superchip module."""

THROTTLE_BITS = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x200: "board limit",
    0x400: "reliability",
}
"""Bits that hold the clocks down against the user's will (nvml.h, nvmlClocksEventReasons).

Left out: GPU idle (0x1), applications clocks setting (0x2), display clock setting (0x100).
"""
THROTTLE_MASK = sum(THROTTLE_BITS)


@dataclass(frozen=True, slots=True)
class NvmlSensor:
    """The readings that one GPU offers.

    Attributes
    ----------
    nvml, handle
        The bindings, and the device in them.
    fields
        Fields that are read in one call at each poll, or None.
    energy
        Call for the energy counter, or None; where a field has it too, the call steps in when
        the field is refused.
    usage
        nvmlDeviceGetPowerUsage, where it stands in for a field; else None.
    usage_is_instant
        Whether that is the instant power, not the average.
    reasons
        Call for the reasons of reduced clocks, or None.
    code
        0, or NVML's code of why there is no energy counter.
    """

    nvml: Any
    handle: Any
    fields: FieldCall | None
    energy: NumberCall | None
    usage: NumberCall | None
    usage_is_instant: bool
    reasons: NumberCall | None
    code: int

    def _has_field(self, wanted: int) -> bool:
        return self.fields is not None and any(field == wanted for field, _ in self.fields.fields)

    @property
    def has_counter(self) -> bool:
        """Whether there is an energy counter."""
        return self.energy is not None or self._has_field(FIELD_ENERGY)

    @property
    def has_instant_power(self) -> bool:
        """Whether there is a power reading that is not a mean of the last second."""
        usage = self.usage is not None and self.usage_is_instant
        return usage or self._has_field(FIELD_INSTANT)

    @property
    def has_average_power(self) -> bool:
        """Whether there is an averaged power reading."""
        usage = self.usage is not None and not self.usage_is_instant
        return usage or self._has_field(FIELD_AVERAGE)

    def read(
        self, began_ns: int, clock: Callable[[], int]
    ) -> tuple[float, float, float, float, int, int]:
        """Energy (mJ), instant and average power (W), throttle mask; NaN if missing.

        Parameters
        ----------
        began_ns
            Time now.
        clock
            Monotonic nanoseconds.

        Returns
        -------
        energy_mj, instant_w, average_w, mask
            Bits of `THROTTLE_BITS` in the mask. All NaN if the device is gone.
        code
            0, or the first error code of NVML.
        twice_ns
            Twice the time at which the energy was read, on the clock.
        """
        before = began_ns
        energy_mj = instant_w = average_w = mask = NAN
        code = 0
        if self.fields is not None:
            values, code = self.fields.read()
            if len(values) == len(POLLED):
                instant_w, energy_mj, average_w = values
                instant_w /= 1e3
                average_w /= 1e3
            else:
                for (field, _), value in zip(self.fields.fields, values, strict=False):
                    if field == FIELD_ENERGY:
                        energy_mj = value
                    elif field == FIELD_INSTANT:
                        instant_w = value / 1e3
                    else:
                        average_w = value / 1e3
        if energy_mj != energy_mj and self.energy is not None and not is_gone(code):
            before = clock()
            number, refused = self.energy.read()
            code = code or refused
            if not refused:
                energy_mj = float(number)
        twice_ns = before + clock()
        if self.usage is not None and not is_gone(code):
            number, refused = self.usage.read()
            code = code or refused
            usage_w = NAN if refused else number / 1e3
            if self.usage_is_instant:
                instant_w = usage_w
            else:
                average_w = usage_w
        if code and is_gone(code):
            return NAN, NAN, NAN, NAN, code, twice_ns
        if self.reasons is not None:
            number, refused = self.reasons.read()
            if not refused:
                mask = float(number & THROTTLE_MASK)
        return energy_mj, instant_w, average_w, mask, code, twice_ns

    def throttle_mask(self) -> int | None:
        """Bits of `THROTTLE_BITS` that hold now; None where unknown."""
        if self.reasons is None:
            return None
        number, refused = self.reasons.read()
        return None if refused else number & THROTTLE_MASK

    def state(self) -> tuple[float, float, float, float]:
        """Temperature (C), SM and memory clock (MHz), number of compute processes; or NaN."""
        nvml, handle = self.nvml, self.handle
        return (
            attempt(nvml, lambda: float(nvml.nvmlDeviceGetTemperature(handle, 0)), NAN),
            attempt(nvml, lambda: float(nvml.nvmlDeviceGetClockInfo(handle, 1)), NAN),
            attempt(nvml, lambda: float(nvml.nvmlDeviceGetClockInfo(handle, 2)), NAN),
            attempt(
                nvml, lambda: float(len(nvml.nvmlDeviceGetComputeRunningProcesses(handle))), NAN
            ),
        )


def is_gone(code: int) -> bool:
    """Whether a code of NVML means that nothing more can be read from the device."""
    return code in (GPU_IS_LOST, RESET_REQUIRED)


def probe(nvml: Any, handle: Any, scope: str = "gpu") -> NvmlSensor:
    """Find out which readings a GPU offers, by trying each once.

    Parameters
    ----------
    nvml, handle
        The bindings, started, and the device in them.
    scope
        A name of `SCOPES`. At module scope there are only the fields; a driver that shows the
        same energy for both scopes ignores them, and then there is no counter of the module.
    """
    number = SCOPES[scope]
    offered = _offered_fields(nvml, handle, number)
    energy, code = None, NOT_SUPPORTED
    usage = None
    usage_is_instant = _usage_is_instant(nvml, handle)
    if scope == "gpu":
        energy, code = _number_call(
            nvml, handle, "nvmlDeviceGetTotalEnergyConsumption", c_ulonglong
        )
        stand_in = FIELD_INSTANT if usage_is_instant else FIELD_AVERAGE
        if stand_in not in offered:
            usage, _ = _number_call(nvml, handle, "nvmlDeviceGetPowerUsage", c_uint)
    if energy is not None and FIELD_ENERGY in offered and not same_counter(nvml, handle, energy):
        offered.discard(FIELD_ENERGY)
    fields = tuple((field, number) for field in POLLED if field in offered)
    return NvmlSensor(
        nvml=nvml,
        handle=handle,
        fields=FieldCall(nvml, handle, fields) if fields else None,
        energy=energy,
        usage=usage,
        usage_is_instant=usage_is_instant,
        reasons=_reasons_call(nvml, handle),
        code=0 if FIELD_ENERGY in offered else code,
    )


def _number_call(
    nvml: Any, handle: Any, name: str, kind: type[c_uint] | type[c_ulonglong]
) -> tuple[NumberCall | None, int]:
    """Try a call once; None and the code if it is refused."""
    try:
        call = NumberCall(nvml, handle, name, kind)
    except nvml.NVMLError as error:
        return None, int(error.value)
    _, code = call.read()
    return (None if code else call), code


def same_counter(nvml: Any, handle: Any, energy: NumberCall) -> bool:
    """Whether the field of the energy shows what the call shows just before and after."""
    field = FieldCall(nvml, handle, [(FIELD_ENERGY, 0)])
    before, _ = energy.read()
    values, code = field.read()
    after, refused = energy.read()
    return not code and not refused and before <= values[0] <= after


def _offered_fields(nvml: Any, handle: Any, scope: int) -> set[int]:
    wanted = [(field, scope) for field in POLLED]
    try:
        call = FieldCall(nvml, handle, [*wanted, (FIELD_ENERGY, 0)])
    except nvml.NVMLError:
        return set()
    values, _ = call.read()
    offered = {f for (f, _), x in zip(wanted, values, strict=False) if x == x}
    if scope != 0 and values and values[POLLED.index(FIELD_ENERGY)] == values[-1]:
        offered.discard(FIELD_ENERGY)
    return offered


def _usage_is_instant(nvml: Any, handle: Any) -> bool:
    """Whether nvmlDeviceGetPowerUsage is not yet a mean of 1 s: before Ampere, and on GA100."""
    capability = attempt(nvml, lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle), None)
    return capability is not None and tuple(capability) <= (8, 0)


def _reasons_call(nvml: Any, handle: Any) -> NumberCall | None:
    """The new name of the call where the driver has it, else the old one, else nothing."""
    for name in (
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetCurrentClocksThrottleReasons",
    ):
        call, _ = _number_call(nvml, handle, name, c_ulonglong)
        if call is not None:
            return call
    return None

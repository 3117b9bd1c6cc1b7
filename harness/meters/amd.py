"""Energy, power, temperature and clocks of AMD GPUs, through AMD SMI's Python library.

`amdsmi` is imported only when a reader is opened, and readers live in the sampler's process:
where libamd_smi.so is missing its import raises KeyError and leaves a broken module behind,
which then breaks the import of Ray. Source of names and units: AMD SMI 7.0 Python API reference.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from harness.errors import MeterError

COUNTER_RESOLUTION_UJ = 15.3
"""Energy of one count where the library does not say."""

UNSUPPORTED = 0xFFFF
"""What the library gives for a 16-bit or 32-bit value it cannot read, or more."""

NO_REASON = -1
"""Status of a read that failed without a code of the library."""

RESIDENCIES = (
    "prochot_residency_acc",
    "ppt_residency_acc",
    "socket_thm_residency_acc",
    "vr_thm_residency_acc",
    "hbm_thm_residency_acc",
)
"""Counters of time spent throttled (MI300 and newer); bit i of the mask: the i-th one grew."""


class AmdReader:
    """AMD GPUs by UUID, HIP UUID or PCI address.

    Parameters
    ----------
    device_ids
        Which GPUs; empty takes all.
    clock
        Monotonic time, ns.

    Raises
    ------
    MeterError
        If the library or the driver cannot be used, or a GPU is not there.
    """

    def __init__(
        self, device_ids: Sequence[str] = (), clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._smi = _load()
        self._clock = clock
        try:
            handles = list(self._smi.amdsmi_get_processor_handles())
            names = [self._names(handle) for handle in handles]
        except self._smi.AmdSmiException as error:
            self.close()
            raise _refused("AMD SMI cannot list the GPUs", error) from error
        chosen: list[Any] = []
        for device in device_ids:
            found = [h for h, known in zip(handles, names, strict=True) if device.lower() in known]
            if len(found) != 1:
                self.close()
                raise MeterError(
                    f"AMD SMI finds no GPU {device}",
                    where=device,
                    fix=f"it finds: {', '.join(n[0] for n in names if n) or 'none'}",
                )
            chosen += found
        self._handles = chosen or handles
        self.device_ids = tuple(device_ids) or tuple(n[0] for n in names)
        unknown = (math.nan, math.nan, math.nan, math.nan, math.nan)
        self._slow: list[tuple[float, ...]] = [unknown for _ in self._handles]
        self._residencies: list[tuple[float, ...] | None] = [None for _ in self._handles]

    def read(self, slow: bool) -> list[tuple[float, ...]]:
        """Read every GPU once: `READING_FIELDS` of each."""
        start_ns = self._clock()
        rows: list[tuple[float, ...]] = []
        for i, handle in enumerate(self._handles):
            delay_s = (self._clock() - start_ns) / 1e9
            energy_mj, status = self._energy_mj(handle)
            power_w, average_w, power_status = self._power_w(handle)
            if slow:
                self._slow[i] = self._read_slow(i, handle)
            status = status or power_status
            rows.append((energy_mj, power_w, average_w, *self._slow[i], status, delay_s))
        return rows

    def close(self) -> None:
        """Let the library go."""
        try:
            self._smi.amdsmi_shut_down()
        except self._smi.AmdSmiException:
            return

    def _names(self, handle: Any) -> tuple[str, ...]:
        """Every name a GPU is known by, its UUID first; lower case."""
        names: list[str] = []
        questions: list[Callable[[], Any]] = [
            lambda: self._smi.amdsmi_get_gpu_device_uuid(handle),
            lambda: self._smi.amdsmi_get_gpu_enumeration_info(handle)["hip_uuid"],
            lambda: self._smi.amdsmi_get_gpu_device_bdf(handle),
        ]
        for ask in questions:
            try:
                names.append(str(ask()).lower())
            except (self._smi.AmdSmiException, AttributeError, KeyError):
                continue
        return tuple(names)

    def _energy_mj(self, handle: Any) -> tuple[float, float]:
        try:
            answer = self._smi.amdsmi_get_energy_count(handle)
        except self._smi.AmdSmiException as error:
            return math.nan, _code(error)
        # The count was called `power` before ROCm 6.2.
        count = _number(answer.get("energy_accumulator", answer.get("power")), math.inf)
        resolution_uj = _number(answer.get("counter_resolution", COUNTER_RESOLUTION_UJ), math.inf)
        return count * resolution_uj / 1e3, 0.0

    def _power_w(self, handle: Any) -> tuple[float, float, float]:
        try:
            answer = self._smi.amdsmi_get_power_info(handle)
        except self._smi.AmdSmiException as error:
            return math.nan, math.nan, _code(error)
        # Current power is given by MI300 and newer, an average by older ones.
        current_w = _number(answer.get("current_socket_power"))
        return current_w, _number(answer.get("average_socket_power")), 0.0

    def _read_slow(self, i: int, handle: Any) -> tuple[float, ...]:
        """Temperature, clocks, throttle mask, processes."""
        smi = self._smi
        kind = smi.AmdSmiTemperatureType
        return (
            self._ask(
                lambda: smi.amdsmi_get_temp_metric(
                    handle, kind.HOTSPOT, smi.AmdSmiTemperatureMetric.CURRENT
                )
            ),
            self._ask(lambda: _clock_mhz(smi.amdsmi_get_clock_info(handle, smi.AmdSmiClkType.GFX))),
            self._ask(lambda: _clock_mhz(smi.amdsmi_get_clock_info(handle, smi.AmdSmiClkType.MEM))),
            self._ask(lambda: self._throttle_mask(i, smi.amdsmi_get_gpu_metrics_info(handle))),
            self._ask(lambda: len(smi.amdsmi_get_gpu_process_list(handle))),
        )

    def _throttle_mask(self, i: int, metrics: dict[str, Any]) -> float:
        """Bits of `RESIDENCIES` that grew since the last read, else the driver's own mask."""
        now = tuple(_number(metrics.get(name), math.inf) for name in RESIDENCIES)
        before, self._residencies[i] = self._residencies[i], now
        if all(math.isnan(value) for value in now):
            return _number(metrics.get("throttle_status"), math.inf)
        if before is None:
            return 0.0
        grew = [new > old for new, old in zip(now, before, strict=True)]
        return float(sum(1 << bit for bit, yes in enumerate(grew) if yes))

    def _ask(self, question: Callable[[], Any]) -> float:
        try:
            return _number(question())
        except (self._smi.AmdSmiException, AttributeError):
            return math.nan


def _load() -> Any:
    """Import and open the library."""
    try:
        smi = importlib.import_module("amdsmi")
    except (ImportError, OSError, KeyError, AttributeError) as error:
        raise MeterError(
            "AMD's system management library cannot be loaded",
            where=f"import amdsmi: {type(error).__name__}: {error}",
            fix="install ROCm's amd-smi-lib and the amdsmi package of the same version",
        ) from error
    try:
        smi.amdsmi_init()
    except smi.AmdSmiException as error:
        raise _refused("AMD SMI cannot be opened", error) from error
    return smi


def _refused(what: str, error: Exception) -> MeterError:
    said = " ".join(str(error).split())
    return MeterError(
        what,
        where=said,
        fix="check that the amdgpu driver is loaded and that this user is in the groups "
        "`render` and `video`",
    )


def _code(error: Exception) -> float:
    return float(getattr(error, "err_code", NO_REASON) or NO_REASON)


def _clock_mhz(answer: dict[str, Any]) -> Any:
    """Clock of an answer; called `cur_clk` before ROCm 6.2."""
    return answer.get("clk", answer.get("cur_clk"))


def _number(value: Any, below: float = UNSUPPORTED) -> float:
    """Turn an answer into a number; NaN for `N/A` and for values that mean not supported."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value) if value < below else math.nan

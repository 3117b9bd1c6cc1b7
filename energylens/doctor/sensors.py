"""Power sensors: those that were characterised before, and characterising all of them now."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from energylens.doctor.diagnosis import Check, Section
from energylens.units import duration, percent
from harness.errors import EnergyLensError, MeterError

if TYPE_CHECKING:
    from harness.meters.characterise import Timing
    from harness.meters.loads import Load
    from harness.meters.nvml import GpuInfo
    from harness.meters.sensor_report import Characterisation

ADVICE = "energylens doctor --sensors"


@dataclass(frozen=True, slots=True)
class GpuSensor:
    """What came of one GPU.

    Attributes
    ----------
    index, uuid, name
        The GPU, as NVML counts and names it.
    found
        The characterisation; None if the GPU was refused.
    refused
        Why, and what to do.
    kept
        Where the characterisation was stored; None if it was not.
    warning
        Why it could not be stored.
    """

    index: int
    uuid: str
    name: str
    found: Characterisation | None = None
    refused: str = ""
    kept: Path | None = None
    warning: str = ""


@dataclass(frozen=True, slots=True)
class SensorReport:
    """All GPUs, and why there is nothing to characterise where that is so."""

    gpus: tuple[GpuSensor, ...] = ()
    reason: str = ""

    @property
    def any_found(self) -> bool:
        """Whether at least one sensor was characterised."""
        return any(gpu.found is not None for gpu in self.gpus)


LoadFactory = Callable[[str], "tuple[Load | None, str]"]


def visible_gpus(environ: Mapping[str, str] | None = None) -> list[GpuInfo]:
    """NVIDIA GPUs that programs started here would see; all where nothing is hidden.

    Raises
    ------
    MeterError
        If there is no NVIDIA driver, or CUDA_VISIBLE_DEVICES names what is not there.
    """
    from harness.meters.nvml import find_devices, visible_devices

    environ = os.environ if environ is None else environ
    devices = find_devices()
    if "CUDA_VISIBLE_DEVICES" not in environ:
        return devices
    by_uuid = {device.uuid: device for device in devices}
    return [by_uuid[uuid] for uuid in visible_devices(environ, devices)]


def characterise_gpus(
    timing: Timing,
    *,
    make_load: LoadFactory | None = None,
    tell: Callable[[str], None] = lambda text: None,
    folder: Path | None = None,
    clock: Callable[[], int] = time.monotonic_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> SensorReport:
    """Characterise every visible GPU, one after the other, and keep what was found.

    Parameters
    ----------
    timing
        How long each part takes.
    make_load
        Gives the load of a GPU by its UUID, or why there is none; torch by default.
    tell
        Is told what happens next.
    folder
        Cache to write to; the user's by default.
    clock, sleep
        Monotonic time in nanoseconds, and waiting in seconds.
    """
    try:
        gpus = visible_gpus()
    except MeterError as error:
        return SensorReport(reason=_one_line(error))
    if not gpus:
        return SensorReport(reason="the driver shows no GPU to this process")
    # A batch system may hide each GPU's processes; what is hidden cannot be refused.
    refused = [_refusal(gpu) for gpu in gpus]
    able = refused.count("")
    tell(f"Characterising {able} GPU{'s' * (able != 1)}, about {timing.total_s:.0f} s each.")
    outcomes = []
    for gpu, reason in zip(gpus, refused, strict=True):
        if reason:
            outcomes.append(GpuSensor(gpu.index, gpu.uuid, gpu.name, refused=reason))
            continue
        tell(f"GPU {gpu.index}: {gpu.name} ...")
        outcomes.append(_one(gpu, timing, make_load, folder, clock, sleep))
    return SensorReport(tuple(outcomes))


def _refusal(gpu: GpuInfo) -> str:
    if gpu.lost:
        return "lost: the driver gives no access to it (see dmesg for Xid errors)"
    if gpu.mig_enabled:
        return f"MIG is on: a slice has no power of its own (nvidia-smi -i {gpu.index} -mig 0)"
    if foreign := [pid for pid in gpu.process_pids if pid != os.getpid()]:
        pids = ", ".join(map(str, foreign[:5]))
        return f"another process uses it (pid {pids}): its power would be taken for ours"
    if not (gpu.has_counter or gpu.has_instant_power or gpu.has_average_power):
        return "no energy counter and no power reading that this user may read"
    return ""


def _one(
    gpu: GpuInfo,
    timing: Timing,
    make_load: LoadFactory | None,
    folder: Path | None,
    clock: Callable[[], int],
    sleep: Callable[[float], None],
) -> GpuSensor:
    from harness.meters.characterise import characterise
    from harness.meters.loads import torch_load
    from harness.meters.nvml import NvmlReader
    from harness.meters.sensor_cache import store
    from harness.meters.sensor_findings import Gpu

    try:
        reader = NvmlReader([gpu.uuid], clock=clock)
    except MeterError as error:
        return GpuSensor(gpu.index, gpu.uuid, gpu.name, refused=_one_line(error))
    try:
        load, why_not = (make_load or torch_load)(gpu.uuid)
        found = characterise(
            reader,
            Gpu(gpu.uuid, gpu.name, gpu.driver_version, gpu.simulated),
            load=load,
            timing=timing,
            notes=(why_not,) if why_not else (),
            clock=clock,
            sleep=sleep,
        )
    except MeterError as error:
        return GpuSensor(gpu.index, gpu.uuid, gpu.name, refused=_one_line(error))
    finally:
        reader.close()
    try:
        kept, warning = store(found, folder), ""
    except MeterError as error:
        kept, warning = None, _one_line(error)
    return GpuSensor(gpu.index, gpu.uuid, gpu.name, found, kept=kept, warning=warning)


def _one_line(error: EnergyLensError) -> str:
    parts = [error.what, f"({error.where})" if error.where else "", error.fix or ""]
    text = " ".join(parts[:2]).strip()
    return f"{text}; {parts[2]}" if parts[2] else text


def cached_section(folder: Path | None = None, now: datetime | None = None) -> Section:
    """What was found out before, with its age; reads the cache and the driver version only."""
    from harness.meters.sensor_cache import entries

    now = datetime.now(UTC) if now is None else now
    drivers = _drivers()
    checks = []
    for cached in entries(folder):
        found = cached.found
        if found is None:
            checks.append(Check("cache", cached.warning, "warn", ADVICE))
            continue
        age = duration(max(0.0, (now - found.measured_at).total_seconds()))
        text = f"{found.name}: {describe(found)}; found {age} ago under driver {found.driver}"
        today = drivers.get(found.uuid)
        if today is not None and today != found.driver:
            checks.append(Check(found.uuid, f"{text}, now {today}: void", "warn", ADVICE))
        else:
            checks.append(Check(found.uuid, text, "ok" if today else "info"))
    known = {check.name for check in checks}
    for uuid in drivers.keys() - known:
        checks.append(Check(uuid, "not characterised: documentation is assumed", "warn", ADVICE))
    if not checks:
        checks.append(Check("characterised", "none so far"))
    return Section("Power sensors", tuple(checks))


def _drivers() -> dict[str, str]:
    """Driver version by UUID of the GPUs here; empty where there is no driver."""
    from importlib.util import find_spec

    if find_spec("pynvml") is None:
        return {}
    from harness.meters.nvml import find_devices

    try:
        return {gpu.uuid: gpu.driver_version for gpu in find_devices() if not gpu.lost}
    except MeterError:
        return {}


def describe(found: Characterisation) -> str:
    """One line about a sensor."""
    from harness.meters.trust import WORDS

    facts = found.facts
    verdict = "trusted"
    if found.reasons:
        verdict = "not trusted: " + "; ".join(WORDS.get(r, r) for r in found.reasons)
    updated = "counter" if facts.has_counter else "power"
    return (
        f"{updated} every {duration(facts.counter_period_s)}, "
        f"{percent(facts.sampled_fraction)} of the time sampled, "
        f"shortest window {duration(facts.shortest_window_s)}, {verdict}"
    )

"""Which meter a deployment is read by, and what is assumed of its sensor until it is known.

    cuda -> NVML        + RAPL for the host, where it may be read
    rocm -> AMD SMI     + RAPL for the host
    cpu  -> RAPL        else no meter, with the reason

A GPU whose sensor cannot be opened is an error, never a silent measurement of time alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from harness.errors import MeterError
from harness.meters.base import Meter, SensorFacts
from harness.meters.none import NoMeter
from harness.meters.rapl import POWERCAP, RaplReader
from harness.meters.sampled import SampledMeter
from harness.meters.sampler_process import ReaderSpec

HardwareKind = Literal["cuda", "rocm", "cpu"]

FactsLookup = Callable[[str, str], SensorFacts | None]
"""Facts of a device characterised before, by its UUID and driver version; None if not known."""

PERIOD_S = 0.02

PART_TIME = ("A100", "A800", "H100", "H800", "H200", "H20")
"""Sensors that look a quarter of the time: A100 and H100 (arXiv 2312.02741).

Nobody published a figure for the others of these two generations; they are assumed alike.
"""

NVIDIA_FACTS = SensorFacts(
    counter_period_s=0.1,
    poll_period_s=PERIOD_S,
    gain_error=0.05 / math.sqrt(3),
    power_period_s=0.1,
)
"""Counter every 100 ms (ml.energy, measuring GPU energy); +-5 % of gain (arXiv 2312.02741)."""

AMD_FACTS = SensorFacts(
    counter_period_s=0.1, poll_period_s=PERIOD_S, gain_error=0.05, power_period_s=0.1
)
"""AMD states neither period nor accuracy: taken with caution, as slow as NVIDIA's."""

RAPL_PERIOD_S = 0.001
"""Registers are updated every millisecond (Linux kernel, Documentation/hwmon/amd_energy.rst)."""

RAPL_GAIN_ERROR = 0.05
"""Intel states no accuracy; a caution."""


def open_meter(
    hardware_kind: HardwareKind,
    device_uuids: Sequence[str],
    *,
    period_s: float = PERIOD_S,
    sensor_facts: FactsLookup | None = None,
    environ: Mapping[str, str] | None = None,
    powercap: str = POWERCAP,
) -> Meter:
    """Open the meter of a deployment.

    Parameters
    ----------
    hardware_kind
        cuda, rocm or cpu.
    device_uuids
        Exactly the GPUs of the deployment, working or waiting; not used for cpu.
    period_s
        Time between two polls, 0.01 to 0.05 s.
    sensor_facts
        Looks up what is known of a device; documentation is used for the others.
    environ
        Environment of the sampler's process; this one's by default.
    powercap
        Folder of the host's energy counters.

    Raises
    ------
    MeterError
        If the sensors of a GPU cannot be read.
    """
    look_up = sensor_facts or (lambda uuid, driver: None)
    host = ReaderSpec("rapl", options={"root": powercap}, optional=True)
    if hardware_kind == "cpu":
        try:
            RaplReader(root=powercap).close()
        except MeterError as error:
            return NoMeter(str(error))
        return SampledMeter(
            "rapl",
            [ReaderSpec("rapl", options={"root": powercap})],
            rapl_facts(period_s),
            scope="package",
            period_s=period_s,
            environ=environ,
        )
    if not device_uuids:
        raise MeterError(
            "a deployment on GPUs needs the names of its GPUs", where=f"hardware {hardware_kind}"
        )
    if hardware_kind == "rocm":
        facts = [look_up(uuid, "") or AMD_FACTS for uuid in device_uuids]
        return SampledMeter(
            "amdsmi",
            [ReaderSpec("amdsmi", tuple(device_uuids)), host],
            worst_of(facts),
            scope="socket",
            gpu_uuids=device_uuids,
            period_s=period_s,
            environ=environ,
        )
    return _open_nvml(device_uuids, period_s, look_up, environ, host)


def _open_nvml(
    device_uuids: Sequence[str],
    period_s: float,
    look_up: FactsLookup,
    environ: Mapping[str, str] | None,
    host: ReaderSpec,
) -> Meter:
    from harness.meters.nvml_devices import find_devices, refuse_mig

    known = {gpu.uuid: gpu for gpu in find_devices()}
    for uuid in device_uuids:
        if uuid.startswith("MIG-"):
            raise refuse_mig(uuid)
        if uuid in known and known[uuid].mig_enabled:
            raise refuse_mig(uuid, known[uuid].index)
    missing = [uuid for uuid in device_uuids if uuid not in known]
    if missing:
        raise MeterError(
            f"the driver knows no GPU {', '.join(missing)}",
            where="NVML",
            fix=f"it knows: {', '.join(known) or 'none'}",
        )
    gpus = [known[uuid] for uuid in device_uuids]
    for gpu in gpus:
        # Without even an average the reader says why: that can be mended.
        if gpu.has_average_power and not (gpu.has_counter or gpu.has_instant_power):
            return NoMeter(
                f"{gpu.name} has no energy counter and no instant power, only an average over "
                "a second\n  where: " + gpu.uuid
            )
    facts = []
    for gpu in gpus:
        found = look_up(gpu.uuid, gpu.driver_version) or nvidia_facts(gpu.name)
        facts.append(dataclasses.replace(found, has_counter=found.has_counter and gpu.has_counter))
    return SampledMeter(
        "nvml",
        [ReaderSpec("nvml", tuple(device_uuids)), host],
        worst_of(facts),
        scope="gpu",
        simulated=any(gpu.simulated for gpu in gpus),
        gpu_uuids=device_uuids,
        period_s=period_s,
        environ=environ,
    )


def nvidia_facts(name: str) -> SensorFacts:
    """What is assumed of an NVIDIA GPU of this name."""
    part_time = any(kind in name for kind in PART_TIME)
    return dataclasses.replace(NVIDIA_FACTS, sampled_fraction=0.25 if part_time else 1.0)


def rapl_facts(period_s: float) -> SensorFacts:
    """What is assumed of a CPU: its counter is quicker than any poll, so polls are its period."""
    return SensorFacts(
        counter_period_s=max(RAPL_PERIOD_S, period_s),
        poll_period_s=period_s,
        gain_error=RAPL_GAIN_ERROR,
    )


def worst_of(facts: Sequence[SensorFacts]) -> SensorFacts:
    """Facts that hold for every device: the slowest, latest, least known of each."""
    origins = [fact.origin for fact in facts]
    return SensorFacts(
        counter_period_s=max(fact.counter_period_s for fact in facts),
        poll_period_s=max(fact.poll_period_s for fact in facts),
        gain_error=max(fact.gain_error for fact in facts),
        power_period_s=_largest_known([fact.power_period_s for fact in facts]),
        power_averaging_s=max(fact.power_averaging_s for fact in facts),
        lag_s=max(fact.lag_s for fact in facts),
        sampled_fraction=min(fact.sampled_fraction for fact in facts),
        has_counter=all(fact.has_counter for fact in facts),
        origin=origins[0] if len(set(origins)) == 1 else "assumed",
    )


def _largest_known(values: Sequence[float]) -> float:
    """Largest of the values that are known; NaN if none is."""
    return max((value for value in values if math.isfinite(value)), default=math.nan)

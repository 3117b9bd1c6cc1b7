"""Columns of a row from the trials of a workload."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np

from harness.measuring.reasons import valid
from harness.measuring.trials import Trial
from harness.meters.base import Meter
from harness.meters.phases import PhaseEnergies
from harness.spec.workload import Workload


def measured_columns(
    workload: Workload,
    trials: list[Trial],
    energy: PhaseEnergies | None,
    meter: Meter,
    idle_w: float,
    reasons: set[str],
) -> dict[str, Any]:
    """Energy, time and trust columns of one row.

    Parameters
    ----------
    workload
        What was run.
    trials
        Its trials, at least one.
    energy
        Energies of one run with their intervals; None where there is no power meter.
    meter
        What was read.
    idle_w
        Loaded idle power of all devices; NaN without a meter.
    reasons
        Codes of the whole launch, such as drift; those of the trials are added.
    """
    prefill_s = float(np.mean([t.prefill_s for t in trials]))
    decode_s = float(np.mean([t.decode_s for t in trials]))
    steps = workload.output_tokens - 1
    codes = set(reasons).union(*(t.reasons for t in trials))
    if energy is None:
        codes.add("no_power_meter")
    elif not energy.additive:
        codes.add("not_additive")
    listed = sorted(codes)
    return {
        "measured_at": datetime.now(UTC),
        **_energy_columns(workload, energy, idle_w, prefill_s, decode_s),
        "idle_power_w": _known(idle_w),
        "host_energy_j": _mean([t.host_j for t in trials]),
        "prefill_latency_s": prefill_s,
        "decode_latency_s": decode_s if steps else None,
        "total_latency_s": prefill_s + decode_s,
        "ttft_s": prefill_s,
        "itl_s": decode_s / steps if steps else None,
        "meter": meter.name,
        "window_s": min(t.window_s for t in trials),
        "samples": sum(t.samples for t in trials),
        "repeats": len(trials),
        "counter_vs_integral": _mean([t.counter_vs_integral for t in trials]),
        "additivity": None if energy is None else _known(energy.additivity),
        "temperature_c": _mean([t.temperature_c for t in trials]),
        "throttled": any(t.throttled for t in trials) if meter.has_power else None,
        "valid": valid(listed),
        "reasons": listed,
    }


def _energy_columns(
    workload: Workload,
    energy: PhaseEnergies | None,
    idle_w: float,
    prefill_s: float,
    decode_s: float,
) -> dict[str, float | None]:
    """Gross energies, and what is left of them without the loaded idle power."""
    if energy is None:
        return {}
    decodes = workload.output_tokens > 1
    tokens = workload.batch * workload.output_tokens
    every = workload.batch * (workload.input_tokens + workload.output_tokens)
    return {
        "prefill_energy_j": _known(energy.prefill_j),
        "prefill_energy_j_ci95_j": _known(energy.prefill_ci95_j),
        "decode_energy_j": _known(energy.decode_j) if decodes else None,
        "decode_energy_j_ci95_j": _known(energy.decode_ci95_j) if decodes else None,
        "total_energy_j": _known(energy.total_j),
        "total_energy_j_ci95_j": _known(energy.total_ci95_j),
        "energy_per_output_token_j": _known(energy.total_j / tokens),
        "energy_per_total_token_j": _known(energy.total_j / every),
        "prefill_net_energy_j": _known(energy.prefill_j - idle_w * prefill_s),
        "decode_net_energy_j": _known(energy.decode_j - idle_w * decode_s) if decodes else None,
        "total_net_energy_j": _known(energy.total_j - idle_w * (prefill_s + decode_s)),
    }


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _mean(values: list[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else None

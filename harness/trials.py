"""Trials of one workload: windows of each phase, turned into columns of a row.

    one trial:  [ prefill window ]  [ whole window ]      each at least `window_s` long

A window is as many whole runs as fill it. Between two runs the host prepares the next prompts;
those pauses draw loaded idle power, which is taken off before the energy is shared among the runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.engines import Phase, RunStamps, Session
from harness.meters import (
    Meter,
    PhaseEnergies,
    PhaseSamples,
    Samples,
    WindowEnergy,
    window_energy,
)
from harness.spec import Task, Workload

if TYPE_CHECKING:
    import pandas as pd

IDLE_WINDOW_S = 5.0
WINDOW_MARGIN = 1.1
"""Windows are planned longer than asked for, because the next run may be faster."""
DECODE_PERIODS = 5
"""Counter periods that a decode phase must last to be read from inside a whole window."""


@dataclass(slots=True)
class Collected:
    """What the windows of one workload gave, trial after trial.

    Attributes
    ----------
    prefill_j, full_j, decode_j
        Energy of one run, joules, one value a trial; decode is NaN where the counter is too
        coarse for it.
    stderr_j
        What the sensor alone adds to one trial: prefill, decode, full.
    prefill_s, decode_s
        Mean times of one run in the whole window.
    windows, window_s
        Every window, and its length in seconds.
    reasons
        Why any of them must not be trusted.
    """

    prefill_j: list[float] = field(default_factory=list)
    full_j: list[float] = field(default_factory=list)
    decode_j: list[float] = field(default_factory=list)
    stderr_j: list[tuple[float, float, float]] = field(default_factory=list)
    prefill_s: list[float] = field(default_factory=list)
    decode_s: list[float] = field(default_factory=list)
    windows: list[WindowEnergy] = field(default_factory=list)
    window_s: list[float] = field(default_factory=list)
    reasons: set[str] = field(default_factory=set)


def warm_up(session: Session, workload: Workload) -> dict[Phase, float]:
    """Run each phase once; return seconds a run, by which windows are sized."""
    out: dict[Phase, float] = {}
    phases: tuple[Phase, ...] = ("prefill", "full")
    for phase in phases:
        stamps = session.run(workload, phase, 1)
        out[phase] = (stamps.end_ns - stamps.start_ns) / 1e9
    return out


def idle_power_w(session: Session) -> float:
    """Loaded idle power of all GPUs of the deployment."""
    start, end = session.rest(max(IDLE_WINDOW_S, session.meter.sensor.shortest_window_s))
    energy, _ = window_energy(session.meter.read(start, end), start, end, session.meter.sensor)
    return energy.energy_j / ((end - start) / 1e9)


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """What a trial is sized by: seconds a run of each phase, shortest window, idle power."""

    per_run_s: dict[Phase, float]
    window_s: float
    idle_w: float


def one_trial(
    session: Session,
    workload: Workload,
    plan: TrialPlan,
    into: Collected,
    traces: list[pd.DataFrame] | None,
) -> None:
    """One prefill window and one whole window of a workload.

    Between two runs of a window the host prepares the next prompts; those pauses draw loaded
    idle power, which is taken off before the energy is shared among the runs.
    """
    sensor = session.meter.sensor
    stderr: dict[Phase, float] = {}
    decode_stderr = math.nan
    phases: tuple[Phase, ...] = ("prefill", "full")
    for phase in phases:
        count = max(1, math.ceil(WINDOW_MARGIN * plan.window_s / plan.per_run_s[phase]))
        stamps = session.run(workload, phase, count)
        session.rest(5 * sensor.counter_period_s)
        samples = session.meter.read(stamps.start_ns, stamps.end_ns)
        energy, line = window_energy(samples, stamps.start_ns, stamps.end_ns, sensor)
        into.windows.append(energy)
        into.window_s.append((stamps.end_ns - stamps.start_ns) / 1e9)
        into.reasons.update(energy.reasons)
        pauses_s = float((stamps.starts_ns[1:] - stamps.ends_ns[:-1]).sum() / 1e9)
        per_run_j = (energy.energy_j - plan.idle_w * pauses_s) / count
        stderr[phase] = energy.stderr_j / count
        if phase == "prefill":
            into.prefill_j.append(per_run_j)
        else:
            into.full_j.append(per_run_j)
            decode_s = float((stamps.ends_ns - stamps.first_tokens_ns).mean() / 1e9)
            into.prefill_s.append(float((stamps.first_tokens_ns - stamps.starts_ns).mean() / 1e9))
            into.decode_s.append(decode_s)
            decode_j = math.nan
            if decode_s >= DECODE_PERIODS * sensor.counter_period_s:
                inside = line.at(stamps.ends_ns) - line.at(stamps.first_tokens_ns)
                decode_j = float(inside.mean())
                # Every run of the window has two edges of its own between two counter steps.
                decode_stderr = energy.stderr_j / math.sqrt(count)
            into.decode_j.append(decode_j)
        if traces is not None:
            traces.append(_trace(samples, stamps, phase))
    if math.isnan(decode_stderr):
        decode_stderr = math.hypot(stderr["prefill"], stderr["full"])
    into.stderr_j.append((stderr["prefill"], decode_stderr, stderr["full"]))


def phase_samples(c: Collected) -> PhaseSamples:
    """Energies per run of one workload, one value a trial, as intervals are made from."""
    decode_j = np.array(c.decode_j)
    if np.isnan(decode_j).any():  # one way for all trials of a workload
        decode_j = np.full(decode_j.shape, np.nan)
    p, d, f = np.mean(np.array(c.stderr_j), axis=0).tolist()
    return PhaseSamples(np.array(c.prefill_j), np.array(c.full_j), decode_j, (p, d, f))


def measured_columns(
    task: Task, c: Collected, energy: PhaseEnergies, meter: Meter, idle_w: float
) -> dict[str, Any]:
    """Energy, time and trust columns of one row."""
    workload = task.workload
    prefill_s, decode_s = float(np.mean(c.prefill_s)), float(np.mean(c.decode_s))
    steps = workload.output_tokens - 1
    reasons = sorted(c.reasons | (set() if energy.additive else {"not_additive"}))
    ratios = [w.counter_vs_integral for w in c.windows]
    return {
        "measured_at": datetime.now(UTC),
        "prefill_energy_j": energy.prefill_j,
        "prefill_energy_j_ci95_j": energy.prefill_ci95_j,
        "decode_energy_j": energy.decode_j if steps else None,
        "decode_energy_j_ci95_j": energy.decode_ci95_j if steps else None,
        "total_energy_j": energy.total_j,
        "total_energy_j_ci95_j": energy.total_ci95_j,
        "energy_per_output_token_j": energy.total_j / (workload.batch * workload.output_tokens),
        "idle_power_w": idle_w,
        "prefill_latency_s": prefill_s,
        "decode_latency_s": decode_s if steps else None,
        "total_latency_s": prefill_s + decode_s,
        "ttft_s": prefill_s,
        "itl_s": decode_s / steps if steps else None,
        "meter": meter.name,
        "window_s": min(c.window_s),
        "samples": sum(w.samples for w in c.windows),
        "repeats": len(c.full_j),
        "counter_vs_integral": float(np.mean(ratios)),
        "throttled": any(w.throttled for w in c.windows),
        "valid": not reasons,
        "reasons": reasons,
    }


def _trace(samples: Samples, stamps: RunStamps, phase: Phase) -> pd.DataFrame:
    """Samples of one window in the columns of a trace; what was not read is null."""
    import pandas as pd

    devices, n = samples.power_w.shape
    t = samples.t_ns
    run = np.clip(np.searchsorted(stamps.starts_ns, t, side="right") - 1, 0, None)
    name = np.where(t < stamps.first_tokens_ns[run], "prefill", "decode")
    outside = (t < stamps.start_ns) | (t > stamps.end_ns) | (t > stamps.ends_ns[run])
    name = np.where(outside, "idle", name if phase == "full" else np.where(outside, "", "prefill"))
    return pd.DataFrame(
        {
            "t_ns": np.tile(t, devices),
            "gpu_uuid": np.repeat(np.array(samples.gpu_uuids), n),
            "power_w": samples.power_w.ravel(),
            "energy_mj": samples.energy_mj.ravel(),
            "temperature_c": None,
            "sm_clock_mhz": None,
            "mem_clock_mhz": None,
            "throttle_mask": samples.throttle_mask.ravel(),
            "phase": np.tile(name, devices),
        }
    )

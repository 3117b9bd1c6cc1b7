"""Trials of one workload: a window of each phase, turned into energies and times of one run.

    one trial:   rest [ prefill window ] rest [ decode window ] rest [ whole window ] rest

A window is as many whole runs as fill it. Between two runs the host prepares the next inputs;
those pauses draw loaded idle power, which is taken off before the energy is shared among the runs.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.engines import Phase, RunStamps, Session
from harness.measuring.traces import trace_frame
from harness.meters.phases import PhaseSamples
from harness.meters.window import EnergyLine, WindowEnergy, rest_needed_s, window_energy
from harness.spec.workload import Workload

if TYPE_CHECKING:
    import pandas as pd

WINDOW_MARGIN = 1.1
"""Windows are planned longer than asked for, because the next run may be faster."""
DECODE_PERIODS = 5
"""Counter periods that a decode phase must last to be read from inside a whole window."""
LONGEST_SHORTFALL = 0.95
"""A window that ends before this share of what was asked for is measured again, once."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What one trial of one workload gave.

    Attributes
    ----------
    prefill_j, decode_j, full_j
        Energy of one run, joules, all devices; NaN where there is no power meter, and for decode
        where the counter is too coarse or there is no decode.
    stderr_j
        What the sensor alone adds to each: prefill, decode, full.
    prefill_s, decode_s
        Mean times of one run in the whole window.
    window_s
        Length of the shortest window, seconds.
    samples
        Polls inside the windows.
    counter_vs_integral
        Mean over the windows; NaN without a meter.
    throttled
        Whether any device reported reduced clocks.
    temperature_c
        Highest temperature; NaN if not read.
    host_j
        Energy of the host's CPUs and memory for one run, joules; NaN if not read.
    reasons
        Why the windows must not be trusted.
    """

    prefill_j: float
    decode_j: float
    full_j: float
    stderr_j: tuple[float, float, float]
    prefill_s: float
    decode_s: float
    window_s: float
    samples: int
    counter_vs_integral: float
    throttled: bool
    temperature_c: float
    host_j: float
    reasons: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Trial:
        """Read what `to_dict` gave."""
        tuples = {key: tuple(values[key]) for key in ("stderr_j", "reasons")}
        return cls(**{**values, **tuples})


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """What a trial is sized by.

    Attributes
    ----------
    per_run_s
        Seconds that one run of each phase takes.
    window_s
        Shortest window.
    idle_w
        Loaded idle power of all devices.
    own_processes
        Processes on a device that are ours; more are foreign. NaN if not known.
    decode_windows
        Whether decode has windows of its own.
    phase
        Share of a counter period, 0 to 1, by which windows start after a step where the sensor
        looks only part of the time: it must not see the same part of each window again.
    """

    per_run_s: dict[Phase, float]
    window_s: float
    idle_w: float
    own_processes: float = math.nan
    decode_windows: bool = True
    phase: float = 0.0


@dataclass(frozen=True, slots=True)
class _Window:
    """One window: its stamps, its energy, and the line behind it (None without a meter)."""

    stamps: RunStamps
    energy: WindowEnergy | None
    line: EnergyLine | None
    run_j: float
    stderr_j: float
    host_j: float


def one_trial(
    session: Session,
    workload: Workload,
    plan: TrialPlan,
    traces: list[pd.DataFrame] | None = None,
) -> Trial:
    """Measure one window of each phase that the session has.

    Parameters
    ----------
    session
        An open session whose devices rest.
    workload
        What is run.
    plan
        How long windows are, and what idling costs.
    traces
        Where to put the samples of each window, or None.

    Raises
    ------
    EngineError
        If the engine refuses or fails.
    """
    decodes = workload.output_tokens > 1 and plan.decode_windows
    phases = [p for p in session.phases if p != "decode" or decodes]
    windows: dict[Phase, _Window] = {}
    for phase in phases:
        windows[phase] = _window(session, workload, phase, plan, traces)
    full = windows["full"]
    stamps = full.stamps
    decode_s = float((stamps.ends_ns - stamps.first_tokens_ns).mean() / 1e9)
    if "decode" in windows:
        decode_j, decode_stderr = windows["decode"].run_j, windows["decode"].stderr_j
    else:
        decode_j, decode_stderr = _decode_inside(session, full, decode_s)
    prefill = windows["prefill"]
    if math.isnan(decode_stderr):
        decode_stderr = math.hypot(prefill.stderr_j, full.stderr_j)
    energies = [w.energy for w in windows.values() if w.energy is not None]
    lengths = [(w.stamps.end_ns - w.stamps.start_ns) / 1e9 for w in windows.values()]
    reasons = {reason for e in energies for reason in e.reasons}
    if any(e.processes > plan.own_processes for e in energies):
        reasons.add("foreign_process")
    return Trial(
        prefill.run_j,
        decode_j,
        full.run_j,
        (prefill.stderr_j, decode_stderr, full.stderr_j),
        float((stamps.first_tokens_ns - stamps.starts_ns).mean() / 1e9),
        decode_s,
        min(lengths),
        sum(e.samples for e in energies),
        float(np.mean([e.counter_vs_integral for e in energies])) if energies else math.nan,
        any(e.throttled for e in energies),
        max((e.temperature_c for e in energies), default=math.nan),
        full.host_j,
        tuple(sorted(reasons)),
    )


def whole_window(session: Session, workload: Workload, plan: TrialPlan) -> tuple[float, float]:
    """Measure one whole window; return joules (NaN without a meter) and seconds of one run."""
    window = _window(session, workload, "full", plan, None)
    stamps = window.stamps
    return window.run_j, float((stamps.ends_ns - stamps.starts_ns).mean() / 1e9)


def _window(
    session: Session,
    workload: Workload,
    phase: Phase,
    plan: TrialPlan,
    traces: list[pd.DataFrame] | None,
) -> _Window:
    """Run and read one window; once more if the runs were quicker than planned."""
    meter = session.meter
    run_s = plan.per_run_s[phase]
    for last in (False, True):
        count = max(1, math.ceil(WINDOW_MARGIN * plan.window_s / run_s))
        meter.wait_for_tick()
        if meter.sensor.sampled_fraction < 1:
            session.rest(plan.phase * meter.sensor.counter_period_s)
        stamps = session.run(workload, phase, count)
        rest_s = rest_needed_s(meter.sensor)
        if meter.has_power:
            session.rest(rest_s)
        length_s = (stamps.end_ns - stamps.start_ns) / 1e9
        if length_s >= LONGEST_SHORTFALL * plan.window_s or last:
            break
        run_s = length_s / count
    if not meter.has_power:
        return _Window(stamps, None, None, math.nan, math.nan, math.nan)
    return _read(session, stamps, phase, plan, rest_s, traces)


def _read(
    session: Session,
    stamps: RunStamps,
    phase: Phase,
    plan: TrialPlan,
    rest_s: float,
    traces: list[pd.DataFrame] | None,
) -> _Window:
    """Energy of one run of a window."""
    meter = session.meter
    sensor = meter.sensor
    if sensor.origin == "simulated":
        rest_s = 0.0
    rest_ns = round(rest_s * 1e9)
    samples = meter.read(stamps.start_ns - rest_ns, stamps.end_ns + rest_ns)
    energy, line = window_energy(samples, stamps.start_ns, stamps.end_ns, sensor, rest_s=rest_s)
    pauses_s = float((stamps.starts_ns[1:] - stamps.ends_ns[:-1]).sum() / 1e9)
    count = stamps.count
    run_j = (energy.energy_j - plan.idle_w * pauses_s) / count
    stderr_j = energy.stderr_j
    if sensor.origin != "simulated":
        # A pause draws something between idle and load; how much, nobody can see.
        load_w = energy.energy_j / ((stamps.end_ns - stamps.start_ns) / 1e9)
        stderr_j = math.hypot(stderr_j, pauses_s * max(load_w - plan.idle_w, 0.0) / math.sqrt(12))
    if traces is not None:
        traces.append(trace_frame(samples, stamps, phase))
    host_j = meter.read_host(stamps.start_ns, stamps.end_ns)
    return _Window(
        stamps,
        energy,
        line,
        run_j,
        stderr_j / count,
        math.nan if host_j is None else host_j / count,
    )


def _decode_inside(session: Session, full: _Window, decode_s: float) -> tuple[float, float]:
    """Decode energy of one run from inside a whole window, and its standard error.

    NaN where the phase is too short against the counter, and where the lag of the sensor is only
    assumed: between two phases there is no rest that would take it out.
    """
    sensor = session.meter.sensor
    short = decode_s < DECODE_PERIODS * sensor.counter_period_s
    unknown = sensor.origin == "assumed" or not sensor.has_counter
    if full.line is None or not full.line.lines or unknown or short:
        return math.nan, math.nan
    stamps = full.stamps
    inside = full.line.at(stamps.ends_ns) - full.line.at(stamps.first_tokens_ns)
    # Every run of the window has two edges of its own between two counter steps.
    return float(inside.mean()), full.stderr_j * stamps.count / math.sqrt(stamps.count)


def phase_samples(trials: list[Trial]) -> PhaseSamples:
    """Energies per run of one workload, one value a trial, as intervals are made from."""
    decode_j = np.array([t.decode_j for t in trials])
    if np.isnan(decode_j).any():  # one way for all trials of a workload
        decode_j = np.full(decode_j.shape, np.nan)
    p, d, f = np.mean(np.array([t.stderr_j for t in trials]), axis=0).tolist()
    prefill_j = np.array([t.prefill_j for t in trials])
    return PhaseSamples(prefill_j, np.array([t.full_j for t in trials]), decode_j, (p, d, f))

"""Run one launch: one deployment, many workloads, each measured in repeated windows.

    open session -> warm up -> idle -> for each trial, in random order:
        workload: [ prefill window ] [ whole window ]     each at least `window_s` long
    -> idle -> phase energies with intervals and a verdict -> one row a workload

Needs no Ray: `python -m harness.launch SPEC.json --out DIR` measures on its own. The same code
runs real engines with real sensors and the twin with a simulated one; only the session differs.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.catalog import ModelFacts, load_hardware, load_model
from harness.engines import Phase, RunStamps, Session, load_engine
from harness.errors import EnergyLensError, EngineError, RunError
from harness.meters import (
    Meter,
    PhaseEnergies,
    PhaseSamples,
    Samples,
    WindowEnergy,
    combine_repeats,
    window_energy,
)
from harness.spec import Deployment, Task, Workload, task_columns

if TYPE_CHECKING:
    import pandas as pd

IDLE_WINDOW_S = 5.0
WINDOW_MARGIN = 1.1
"""Windows are planned longer than asked for, because the next run may be faster."""
DECODE_PERIODS = 5
"""Counter periods that a decode phase must last to be read from inside a whole window."""


class Protocol(BaseModel):
    """How a launch measures.

    Parameters
    ----------
    repeats
        Windows of each kind for each workload.
    window_s
        Shortest window, seconds; the sensor may ask for longer ones.
    seed
        Seed of the order of the workloads, and of the twin's scatter.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    repeats: int = Field(default=3, ge=1)
    window_s: float = Field(default=5.0, gt=0)
    seed: int = Field(default=0, ge=0)


class LaunchSpec(BaseModel):
    """Everything one launch needs to know: the content of SPEC.json.

    Parameters
    ----------
    launch_id
        Names the result file.
    model_id, config_path
        The model, and the config file it is read from.
    deployment
        How it is served.
    workloads
        What is measured, in the order of the rows.
    protocol
        How it is measured.
    sweep
        Name of the sweep, copied into the rows.
    attempt
        Counts from 1.
    keep_traces
        Positions in `workloads` whose samples are kept.
    engine_options
        Arguments of the engine, such as the twin's repeat_noise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    launch_id: str
    model_id: str
    config_path: Path
    deployment: Deployment
    workloads: tuple[Workload, ...]
    protocol: Protocol = Protocol()
    sweep: str = ""
    attempt: int = Field(default=1, ge=1)
    keep_traces: tuple[int, ...] = ()
    engine_options: dict[str, Any] = Field(default_factory=dict)


@dataclass(slots=True)
class LaunchResult:
    """Rows of one launch, the traces that were asked for, and what failed."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    traces: dict[str, pd.DataFrame] = field(default_factory=dict)
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    """(task_id, class, detail)."""


@dataclass(slots=True)
class _Collected:
    """What the windows of one workload gave, trial after trial."""

    prefill_j: list[float] = field(default_factory=list)
    full_j: list[float] = field(default_factory=list)
    decode_j: list[float] = field(default_factory=list)
    stderr_j: list[tuple[float, float, float]] = field(default_factory=list)
    prefill_s: list[float] = field(default_factory=list)
    decode_s: list[float] = field(default_factory=list)
    windows: list[WindowEnergy] = field(default_factory=list)
    window_s: list[float] = field(default_factory=list)
    reasons: set[str] = field(default_factory=set)


def run_launch(spec: LaunchSpec) -> LaunchResult:
    """Measure every workload of a launch.

    A workload that the engine refuses, at warm-up or later, is a row without energies whose
    reasons name the class; the others go on. A deployment that cannot be opened fails all of
    them.
    """
    model = load_model(str(spec.config_path))
    if model.model_id != spec.model_id:
        model = _renamed(model, spec.model_id)
    engine = load_engine(spec.deployment.engine, **spec.engine_options)
    hardware = load_hardware(spec.deployment.hardware)
    tasks = [
        Task(model_id=spec.model_id, workload=w, deployment=spec.deployment) for w in spec.workloads
    ]
    common = {
        "sweep": spec.sweep,
        "attempt": spec.attempt,
        "provenance": engine.provenance,
        "source": "energylens",
        "engine_version": engine.version(hardware),
        "num_nodes": math.ceil(spec.deployment.num_gpus / hardware.gpus_per_node),
        "seed": spec.protocol.seed,
    }
    result = LaunchResult()
    rows = [{**task_columns(t, model), **common} for t in tasks]
    try:
        session = engine.open(model, spec.deployment, spec.protocol.seed)
    except EnergyLensError as error:
        for task, row in zip(tasks, rows, strict=True):
            _fail(result, task, row, "engine_refused", str(error))
        return result
    try:
        _measure(spec, session, tasks, rows, result)
    finally:
        session.close()
    return result


def _renamed(model: ModelFacts, model_id: str) -> ModelFacts:
    from dataclasses import replace

    return replace(model, model_id=model_id)


def _fail(result: LaunchResult, task: Task, row: dict[str, Any], kind: str, detail: str) -> None:
    result.rows.append({**row, "measured_at": datetime.now(UTC), "valid": False, "reasons": [kind]})
    result.failures.append((task.task_id, kind, detail))


def _measure(
    spec: LaunchSpec,
    session: Session,
    tasks: Sequence[Task],
    rows: Sequence[dict[str, Any]],
    result: LaunchResult,
) -> None:
    """All trials of all workloads, then the rows."""
    meter = session.meter
    window_s = max(spec.protocol.window_s, meter.sensor.shortest_window_s)
    collected: dict[int, _Collected] = {}
    per_run_s: dict[int, dict[Phase, float]] = {}
    session.prepare([task.workload for task in tasks])
    idle_before_w = _idle_power_w(session)
    for i, task in enumerate(tasks):
        try:
            per_run_s[i] = _warm_up(session, task.workload)
            collected[i] = _Collected()
        except EnergyLensError as error:
            _fail(result, task, rows[i], "workload_refused", str(error))
    order = np.random.default_rng(spec.protocol.seed)
    for trial in range(spec.protocol.repeats):
        for i in order.permutation(sorted(collected)).tolist():
            traces: list[pd.DataFrame] | None = [] if i in spec.keep_traces and not trial else None
            plan = _TrialPlan(per_run_s[i], window_s, idle_before_w)
            try:
                _one_trial(session, tasks[i].workload, plan, collected[i], traces)
            except EngineError as error:
                del collected[i]
                result.traces.pop(tasks[i].task_id, None)
                _fail(result, tasks[i], rows[i], "workload_failed", str(error))
                continue
            if traces:
                import pandas as pd

                result.traces[tasks[i].task_id] = pd.concat(traces, ignore_index=True)
    idle_w = (idle_before_w + _idle_power_w(session)) / 2
    done = sorted(collected)
    energies = combine_repeats([_phase_samples(collected[i]) for i in done])
    for i, energy in zip(done, energies, strict=True):
        result.rows.append(
            {**rows[i], **_measured_columns(tasks[i], collected[i], energy, meter, idle_w)}
        )


def _warm_up(session: Session, workload: Workload) -> dict[Phase, float]:
    """Run each phase once; return seconds a run, by which windows are sized."""
    out: dict[Phase, float] = {}
    phases: tuple[Phase, ...] = ("prefill", "full")
    for phase in phases:
        stamps = session.run(workload, phase, 1)
        out[phase] = (stamps.end_ns - stamps.start_ns) / 1e9
    return out


def _idle_power_w(session: Session) -> float:
    """Loaded idle power of all GPUs of the deployment."""
    start, end = session.rest(max(IDLE_WINDOW_S, session.meter.sensor.shortest_window_s))
    energy, _ = window_energy(session.meter.read(start, end), start, end, session.meter.sensor)
    return energy.energy_j / ((end - start) / 1e9)


@dataclass(frozen=True, slots=True)
class _TrialPlan:
    """How long a run of each phase takes, how long a window must be, what a pause draws."""

    per_run_s: dict[Phase, float]
    window_s: float
    idle_w: float


def _one_trial(
    session: Session,
    workload: Workload,
    plan: _TrialPlan,
    into: _Collected,
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


def _phase_samples(c: _Collected) -> PhaseSamples:
    decode_j = np.array(c.decode_j)
    if np.isnan(decode_j).any():  # one way for all trials of a workload
        decode_j = np.full(decode_j.shape, np.nan)
    p, d, f = np.mean(np.array(c.stderr_j), axis=0).tolist()
    return PhaseSamples(np.array(c.prefill_j), np.array(c.full_j), decode_j, (p, d, f))


def _measured_columns(
    task: Task, c: _Collected, energy: PhaseEnergies, meter: Meter, idle_w: float
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


def store_result(spec: LaunchSpec, result: LaunchResult, out: Path) -> None:
    """Write the traces, then the result file that commits the launch."""
    from harness.store import RunFolder, conform

    folder = RunFolder.open(out)
    for task_id, trace in result.traces.items():
        folder.write_trace(f"{task_id}-{spec.attempt}", trace)
    folder.write_result(
        f"{spec.launch_id}-{spec.attempt}", spec.deployment.hardware, conform(result.rows)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m harness.launch SPEC.json --out DIR`; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.launch", description="Run one launch and store its rows."
    )
    parser.add_argument("spec", type=Path, help="SPEC.json: one launch")
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    options = parser.parse_args(arguments)
    try:
        spec = read_spec(options.spec)
        started = time.monotonic()
        from harness.store import RunFolder

        # The manifest is the driver's: launches side by side must not write it.
        RunFolder.create(options.out, {})
        result = run_launch(spec)
        store_result(spec, result, options.out)
    except EnergyLensError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        return 1
    print(
        f"{len(result.rows)} tasks, {len(result.failures)} failed, "
        f"{time.monotonic() - started:.1f} s -> {options.out}"
    )
    return 0


def read_spec(path: Path) -> LaunchSpec:
    """Read and check a SPEC.json.

    Raises
    ------
    RunError
        If the file cannot be read or does not describe a launch.
    """
    try:
        return LaunchSpec.model_validate_json(path.read_text())
    except OSError as error:
        raise RunError(f"cannot read the launch spec: {error.strerror}", where=str(path)) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RunError(
            f"not a launch spec: {first['msg']}", where=f"{path}, key {key or '(file)'}"
        ) from error


if __name__ == "__main__":
    sys.exit(main())

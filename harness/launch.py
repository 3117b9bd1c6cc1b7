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
from harness.engines import Phase, Session, load_engine
from harness.errors import EnergyLensError, EngineError, RunError
from harness.meters import combine_repeats
from harness.spec import Deployment, Task, Workload, task_columns
from harness.trials import (
    Collected,
    TrialPlan,
    idle_power_w,
    measured_columns,
    one_trial,
    phase_samples,
    warm_up,
)

if TYPE_CHECKING:
    import pandas as pd


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
    collected: dict[int, Collected] = {}
    per_run_s: dict[int, dict[Phase, float]] = {}
    session.prepare([task.workload for task in tasks])
    idle_before_w = idle_power_w(session)
    for i, task in enumerate(tasks):
        try:
            per_run_s[i] = warm_up(session, task.workload)
            collected[i] = Collected()
        except EnergyLensError as error:
            _fail(result, task, rows[i], "workload_refused", str(error))
    order = np.random.default_rng(spec.protocol.seed)
    for trial in range(spec.protocol.repeats):
        for i in order.permutation(sorted(collected)).tolist():
            traces: list[pd.DataFrame] | None = [] if i in spec.keep_traces and not trial else None
            plan = TrialPlan(per_run_s[i], window_s, idle_before_w)
            try:
                one_trial(session, tasks[i].workload, plan, collected[i], traces)
            except EngineError as error:
                del collected[i]
                result.traces.pop(tasks[i].task_id, None)
                _fail(result, tasks[i], rows[i], "workload_failed", str(error))
                continue
            if traces:
                import pandas as pd

                result.traces[tasks[i].task_id] = pd.concat(traces, ignore_index=True)
    idle_w = (idle_before_w + idle_power_w(session)) / 2
    done = sorted(collected)
    energies = combine_repeats([phase_samples(collected[i]) for i in done])
    for i, energy in zip(done, energies, strict=True):
        result.rows.append(
            {**rows[i], **measured_columns(tasks[i], collected[i], energy, meter, idle_w)}
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

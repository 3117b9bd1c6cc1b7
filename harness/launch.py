"""Run one launch: one deployment, many workloads, each measured in repeated windows.

    SPEC.json -> open the engine -> campaign (warm-up, windows, repeats) -> rows, traces, a record

Needs no Ray and few packages: `python -m harness.launch SPEC.json --out DIR` measures on its own.
The same code runs real engines with real sensors and the twin with a simulated one; only the
session differs. Real engines run in a child of this process, which is watched: a crash or a hang
costs the workload that was under way, and the others go on (`harness.supervise`).
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.catalog import load_hardware, load_model
from harness.engines import Engine, Session, load_engine
from harness.errors import EnergyLensError, EngineError
from harness.measuring.campaign import Campaign, Outcome
from harness.measuring.journal import FileJournal, Journal, NoJournal
from harness.measuring.settings import LaunchSpec, Protocol, read_spec
from harness.spec.task import Task, task_columns

if TYPE_CHECKING:
    import pandas as pd


__all__ = ["LaunchResult", "LaunchSpec", "Protocol", "main", "read_spec", "run_launch"]

NOT_REACHED = "not_reached"
BROKEN = 3
"""Exit code of a child whose engine became unusable: start another one for the rest."""
STOP_FILE = "ENERGYLENS_STOP_FILE"
"""Environment variable with the path of a file: once it exists, no window is begun any more."""
OPEN_DEADLINE_S = 1800.0
"""Longest time to bring a deployment up: weights of a large model from a slow disk."""


@dataclass(slots=True)
class LaunchResult:
    """What one launch gave.

    Attributes
    ----------
    rows
        One a workload, also of those that failed.
    traces
        task_id -> power samples, of the workloads that were asked for.
    failures
        (task_id, class, detail).
    record
        What no column says: environment, order, idle powers, warm-up, sentinel.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    traces: dict[str, pd.DataFrame] = field(default_factory=dict)
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)


def run_launch(spec: LaunchSpec, journal: Journal | None = None) -> LaunchResult:
    """Measure every workload of a launch in this process.

    A workload that the engine refuses, at warm-up or later, is a row without energies whose
    reasons name the class; the others go on. A deployment that cannot be opened fails all of
    them.

    Parameters
    ----------
    spec
        The launch.
    journal
        Where to write what happens; default nowhere.

    Raises
    ------
    EngineError
        With kind `engine_broken` and a journal: a new process must go on.
    """
    started_s = time.monotonic()
    journal = journal or NoJournal()
    model = load_model(str(spec.config_path))
    if model.model_id != spec.model_id:
        model = replace(model, model_id=spec.model_id)
    engine = load_engine(spec.deployment.engine, **spec.engine_options)
    tasks = [
        Task(model_id=spec.model_id, workload=w, deployment=spec.deployment) for w in spec.workloads
    ]
    result = LaunchResult()
    common = _common_columns(spec, engine)
    rows = {t.task_id: {**task_columns(t, model), **common} for t in tasks}
    failed = journal.recalled().failed
    if failed.keys() >= rows.keys():
        outcome = Outcome(failures=[(i, *failed[i]) for i in rows])
        _collect(result, outcome, rows)
        return result
    try:
        journal.begin("", "open", OPEN_DEADLINE_S)
        session = engine.open(model, spec.deployment, spec.protocol.seed)
    except EnergyLensError as error:
        kind = getattr(error, "kind", "") or "engine_refused"
        outcome = Outcome(failures=[(t.task_id, kind, str(error)) for t in tasks])
    else:
        try:
            outcome = _measure(spec, session, tasks, journal, started_s)
            for row in rows.values():
                row.update(_session_columns(session, engine))
            result.record.update(environment=session.environment(), measuring=outcome.record)
        finally:
            session.close()
    _collect(result, outcome, rows)
    return result


def _measure(
    spec: LaunchSpec, session: Session, tasks: Sequence[Task], journal: Journal, started_s: float
) -> Outcome:
    campaign = Campaign(
        session,
        tasks,
        spec.protocol,
        journal,
        keep_traces=spec.keep_traces,
        started_s=started_s,
        stop=_asked_to_stop(),
    )
    return campaign.run()


def _asked_to_stop() -> Callable[[], bool]:
    """Whoever holds this launch may make a file to ask it to end after the window under way."""
    path = os.environ.get(STOP_FILE)
    return (lambda: os.path.exists(path)) if path else (lambda: False)


def _common_columns(spec: LaunchSpec, engine: Engine) -> dict[str, Any]:
    hardware = load_hardware(spec.deployment.hardware)
    return {
        "sweep": spec.sweep,
        "attempt": spec.attempt,
        "provenance": engine.provenance,
        "source": "energylens",
        "engine_version": engine.version(hardware),
        "num_nodes": math.ceil(spec.deployment.num_gpus / hardware.gpus_per_node),
        "seed": spec.protocol.seed,
        "launch_id": spec.launch_id,
    }


def _session_columns(session: Session, engine: Engine) -> dict[str, Any]:
    """Columns that only an open session knows; a simulated sensor never makes a measured row."""
    meter = session.meter
    if session.virtual:
        return {}
    devices = session.environment().get("devices") or [{}]
    return {
        "provenance": "projected" if meter.simulated else engine.provenance,
        "host": platform.node(),
        "gpu_uuids": list(meter.gpu_uuids),
        "driver_version": devices[0].get("driver"),
    }


def _collect(result: LaunchResult, outcome: Outcome, rows: dict[str, dict[str, Any]]) -> None:
    """Rows in the order of the spec: measured ones, and those that say why they are not.

    What the launch had no time for gets no row, so that the next run does it.
    """
    failed = {task_id: kind for task_id, kind, _ in outcome.failures}
    for task_id, row in rows.items():
        if task_id in outcome.columns:
            result.rows.append({**row, **outcome.columns[task_id]})
        elif failed.get(task_id) != NOT_REACHED:
            kind = failed.get(task_id, "workload_failed")
            row.update(measured_at=datetime.now(UTC), valid=False, reasons=[kind])
            result.rows.append(row)
    result.traces = outcome.traces
    result.failures = outcome.failures


def store_result(spec: LaunchSpec, result: LaunchResult, out: Path) -> None:
    """Write the traces and the record, then the result file that commits the launch."""
    from harness.store import RunFolder, conform

    folder = RunFolder.open(out)
    for task_id, trace in result.traces.items():
        folder.write_trace(f"{task_id}-{spec.attempt}", trace)
    record = {"spec": spec.model_dump(mode="json"), **result.record, "failures": result.failures}
    if result.record.get("environment") or result.failures:
        folder.write_launch(spec.key, record)
    if result.rows:
        folder.write_result(spec.key, spec.deployment.hardware, conform(result.rows))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m harness.launch SPEC.json --out DIR`; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.launch", description="Run one launch and store its rows."
    )
    parser.add_argument("spec", type=Path, help="SPEC.json: one launch")
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--journal", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        spec = read_spec(options.spec)
        started = time.monotonic()
        from harness.store import RunFolder

        # The manifest is the driver's: launches side by side must not write it.
        RunFolder.create(options.out, {})
        if options.journal is not None:
            from harness.supervise import end_with_parent

            end_with_parent()
        elif load_engine(spec.deployment.engine).isolated:
            from harness.supervise import supervise

            return supervise(spec, options.out)
        result = run_launch(spec, FileJournal(options.journal) if options.journal else None)
        store_result(spec, result, options.out)
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return BROKEN if error.kind == "engine_broken" and options.journal else 2
    except EnergyLensError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        return 1
    print(summary(result.rows, len(result.failures), time.monotonic() - started, options.out))
    for task_id, kind, detail in result.failures[:20]:
        print(f"  {task_id[:12]} {kind}: {detail.splitlines()[0]}")
    return 0


def summary(rows: Sequence[dict[str, Any]], failures: int, seconds: float, out: Path) -> str:
    """One line: how many tasks, how many without a measurement, how many flagged."""
    flagged = sum(1 for row in rows if row.get("repeats") and not row["valid"])
    return f"{len(rows)} tasks, {failures} failed, {flagged} flagged, {seconds:.1f} s -> {out}"


if __name__ == "__main__":
    sys.exit(main())

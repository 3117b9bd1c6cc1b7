"""One call of the GPU check: GPU, sensor, plan, a slice of launches, results."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from harness.catalog import load_hardware
from harness.gpucheck.machine import CheckedGpu, find_gpu
from harness.gpucheck.plan import CheckPlan, Pace, make_check_plan, pace_for
from harness.gpucheck.report import write_report
from harness.gpucheck.results import (
    SIZE_LIMIT_BYTES,
    folder_bytes,
    summarise,
    write_results,
)
from harness.gpucheck.sensor import characterise_apart, known_sensor, use_cache_in
from harness.gpucheck.slices import Launcher, Slice, SliceResult, Tell
from harness.measuring.settings import LaunchSpec
from harness.meters.sensor_report import Characterisation
from harness.store import RunFolder, read_measurements
from harness.store.code import code_version

RESULTS_S = 5.0
"""Kept back at the end of a slice to write the results."""


def supervised(spec: LaunchSpec, folder: RunFolder) -> int:
    """Run a launch in watched child processes."""
    from harness.supervise import supervise

    return supervise(spec, folder.path)


def run_check(
    out: Path,
    *,
    device: str = "cuda:0",
    slice_s: float = 480.0,
    launch: Launcher = supervised,
    characterise: Callable[[CheckedGpu], Characterisation] = characterise_apart,
    plan: CheckPlan | None = None,
    pace: Pace | None = None,
    tell: Tell = print,
    clock: Callable[[], float] = time.monotonic,
    started_s: float | None = None,
) -> SliceResult:
    """Run one slice of the check and write its results.

    Parameters
    ----------
    out
        The run folder; what is done in it is not done again.
    device
        ``cuda:N``.
    slice_s
        Longest time of the call.
    launch
        Runs one launch and stores its rows.
    characterise
        Finds out how the sensor behaves, where the cache does not know.
    plan, pace
        Instead of the fixed list, and of what the sensor suggests.
    tell
        Is told how it goes on, line by line.
    clock, started_s
        Monotonic seconds, and when the call began.

    Raises
    ------
    EnergyLensError
        If there is no GPU to measure, or the folder cannot be used.
    """
    started_s = clock() if started_s is None else started_s
    gpu = find_gpu(device)
    version, commit = code_version()
    folder = RunFolder.create(
        out, {"kind": "gpu-check", "energylens": version, "git_commit": commit}
    )
    use_cache_in(out)
    notes: list[str] = []

    def hear(text: str) -> None:
        notes.append(text)
        tell(text)

    with folder.lock():
        tell(f"{gpu.name} ({gpu.hardware}), driver {gpu.driver}")
        found, sensor = known_sensor(gpu, characterise, hear)
        pace = pace or pace_for(sensor)
        hardware = load_hardware(gpu.hardware)
        if plan is None:
            plan = make_check_plan(hardware, sensor, pace)
        tell(
            f"{len(plan.launches)} launches, {plan.rows} rows, about "
            f"{plan.seconds / 60:.0f} min in all; this slice: {slice_s:.0f} s"
        )
        result = Slice(
            folder,
            gpu,
            plan,
            pace,
            sensor,
            slice_s - RESULTS_S,
            launch=launch,
            tell=tell,
            clock=clock,
            started_s=started_s,
        ).run()
        problems = tuple(note for note in notes if not note.startswith("characterising"))
        size = _write(folder, gpu, plan, found, problems)
    state = "all is done" if result.finished else "call again to go on"
    tell(f"{state}; {size / 1e6:.2f} MB in {out}, see report.md")
    if size >= SIZE_LIMIT_BYTES:
        tell(f"more than {SIZE_LIMIT_BYTES / 1e6:.0f} MB: leave traces out before committing it")
    return result


def _write(
    folder: RunFolder,
    gpu: CheckedGpu,
    plan: CheckPlan,
    found: Characterisation | None,
    notes: tuple[str, ...],
) -> int:
    summary = summarise(folder, gpu, plan, found, notes)
    report = write_report(summary, read_measurements(folder), folder_bytes(folder.path))
    return write_results(folder, summary, found, report)

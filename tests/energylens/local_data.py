"""Runs of machines without a power meter: times, no energies, failures with their class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from harness.catalog.cpu import cpu_hardware
from harness.spec import expand_sweep, load_models, load_sweep, task_columns
from harness.store import RunFolder, conform

REPOSITORY = Path(__file__).resolve().parents[2]
CPU = "CPU-AMD-EPYC-9R14-2C"


def timed(hardware: str = CPU) -> pd.DataFrame:
    """Rows of the sweep `local` as a CPU without a power meter gives them."""
    sweep = load_sweep(REPOSITORY / "sweeps" / "local.yaml")
    models = load_models(sweep)
    tasks = expand_sweep(sweep, models, {"local": (cpu_hardware(hardware),)}).tasks
    facts = {model.model_id: model for model in models.values()}
    frame = pd.DataFrame([task_columns(task, facts[task.model_id]) for task in tasks])
    size = frame["params_active"].to_numpy(dtype=float)
    prefill_s = 2e-11 * size * frame["batch"] * frame["input_tokens"]
    step_s = 4e-10 * size * np.sqrt(frame["batch"])
    decode_s = (frame["output_tokens"] - 1) * step_s
    return conform(
        frame.assign(
            provenance="measured",
            source="energylens",
            engine_version="transformers 5.23.0, torch 2.13.0",
            sweep="local",
            attempt=1,
            measured_at=pd.Timestamp("2025-11-20T10:00:00Z"),
            prefill_latency_s=prefill_s,
            decode_latency_s=decode_s,
            total_latency_s=prefill_s + decode_s,
            ttft_s=prefill_s,
            itl_s=step_s,
            meter="none",
            window_s=1.0,
            samples=0,
            repeats=3,
            valid=False,
            reasons=[["no_power_meter"]] * len(frame),
        )
    )


def failed(frame: pd.DataFrame, codes: dict[int, str]) -> pd.DataFrame:
    """Rows of `frame` at some positions with a class of failure instead of times."""
    out = frame.copy()
    numbers = [name for name in out.columns if name.endswith("_s") and name != "window_s"]
    for position, code in codes.items():
        out.loc[position, numbers] = np.nan
        out.at[position, "reasons"] = [code]
    return out


def write(path: Path, frame: pd.DataFrame, sweep: str = "local") -> Path:
    """Write rows as a finished run, by the path that launches take."""
    folder = RunFolder.create(path, {"sweep_name": sweep})
    with folder.lock():
        folder.append_event(
            "run_started", sweep=sweep, tasks_planned=len(frame), tasks_already_done=0
        )
        for hardware, rows in frame.groupby("hardware"):
            folder.write_result(f"first-{hardware}", str(hardware), rows)
        folder.append_event("run_finished", done=len(frame), failed=0, seconds=2.0)
        folder.compact()
    return path

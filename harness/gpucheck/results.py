"""What an acceptance run found, as plain values: summary.json and traces_summary.csv."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from harness.gpucheck.machine import CheckedGpu
from harness.gpucheck.plan import CheckPlan
from harness.gpucheck.slices import ENOUGH_ROWS, MOST_STARTS, History
from harness.store import RunFolder, read_measurements, read_traces

if TYPE_CHECKING:
    from harness.meters.sensor_report import Characterisation

SIZE_LIMIT_BYTES = 5_000_000
SUMMARY, SENSORS, TRACES, REPORT = (
    "summary.json",
    "sensors.json",
    "traces_summary.csv",
    "report.md",
)


def summarise(
    folder: RunFolder,
    gpu: CheckedGpu,
    plan: CheckPlan,
    found: Characterisation | None,
    notes: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return what the run found so far.

    Parameters
    ----------
    folder
        The run folder.
    gpu
        What was measured.
    plan
        What was planned.
    found
        The characterisation of its sensor, or None.
    notes
        What else to say.
    """
    rows = read_measurements(folder)
    history = History.of(folder)
    valid = rows["valid"].fillna(False).astype(bool)
    reasons = Counter(str(code) for codes in rows["reasons"] for code in _list(codes))
    total = rows["total_energy_j"]
    measured = total.notna()
    records = {key: folder.launch_record(key) or {} for key in history.ended}
    given_up = [
        launch.spec.key
        for launch in plan.launches
        if launch.spec.key not in history.ended and history.starts[launch.spec.key] >= MOST_STARTS
    ]
    return {
        "machine": asdict(gpu),
        "versions": _versions(records),
        "sensor": None if found is None else _sensor(found),
        "simulated": gpu.simulated,
        "provenance": sorted(set(rows["provenance"].dropna())),
        "rows": {
            "planned": plan.rows,
            "there": len(rows),
            "with_energy": int(measured.sum()),
            "valid": int(valid.sum()),
            "enough": bool(valid.sum() >= ENOUGH_ROWS),
            "by_model": {
                str(model): {
                    "rows": len(part),
                    "with_energy": int(part["total_energy_j"].notna().sum()),
                    "valid": int(valid[part.index].sum()),
                }
                for model, part in rows.groupby("model_id")
            },
            "by_modality": {str(k): int(v) for k, v in rows["modality"].value_counts().items()},
        },
        "reasons": dict(sorted(reasons.items())),
        "additivity": _spread(rows["additivity"].abs() if "additivity" in rows else None),
        "counter_vs_integral": _spread(rows["counter_vs_integral"].abs()),
        "ci95_share": {
            phase: _spread(rows[f"{phase}_energy_j_ci95_j"] / rows[f"{phase}_energy_j"])
            for phase in ("prefill", "decode", "total")
        },
        "launches": {
            "ended": len(history.ended),
            "failed": sorted(key for key, code in history.ended.items() if code),
            "given_up": given_up,
            "left": sum(history.open(launch) for launch in plan.launches),
            "seconds": round(history.spent_s, 1),
        },
        "failures": [
            {"launch": key, "task_id": f[0], "class": f[1], "detail": str(f[2]).splitlines()[0]}
            for key, record in records.items()
            for f in _list(record.get("failures"))
        ],
        "left_out": list(plan.left_out),
        "notes": list(notes),
    }


def traces_summary(folder: RunFolder) -> pd.DataFrame:
    """One row a launch and phase: power, temperature, clocks, share of throttled samples."""
    rows = read_measurements(folder)
    names = {
        f"{task}-{int(attempt)}": launch
        for task, attempt, launch in zip(
            rows["task_id"], rows["attempt"], rows["launch_id"], strict=True
        )
    }
    traces = read_traces(folder)
    out = []
    for (key, phase), part in traces.groupby(["key", "phase"], sort=True):
        out.append(
            {
                "launch_id": names.get(str(key), ""),
                "trace": key,
                "phase": phase,
                "samples": len(part),
                "power_mean_w": part["power_w"].mean(),
                "power_peak_w": part["power_w"].max(),
                "temperature_max_c": part["temperature_c"].max(),
                "sm_clock_mean_mhz": part["sm_clock_mhz"].mean(),
                "mem_clock_mean_mhz": part["mem_clock_mhz"].mean(),
                "throttled_share": (part["throttle_mask"].fillna(0) != 0).mean(),
            }
        )
    return pd.DataFrame(out)


def write_results(
    folder: RunFolder, summary: dict[str, Any], found: Characterisation | None, report: str
) -> int:
    """Write all result files of the run folder; return the bytes that the folder takes."""
    path = folder.path
    if found is not None:
        _write(path / SENSORS, json.dumps([found.to_dict()], indent=1) + "\n")
    traces_summary(folder).round(3).to_csv(path / TRACES, index=False)
    _write(path / REPORT, report)
    size = folder_bytes(path)
    summary = {**summary, "folder_bytes": size, "folder_small": size < SIZE_LIMIT_BYTES}
    _write(path / SUMMARY, json.dumps(plain(summary), indent=1, allow_nan=False) + "\n")
    return folder_bytes(path)


def folder_bytes(path: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def plain(value: Any) -> Any:
    """Return JSON values; what is not finite is null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _sensor(found: Characterisation) -> dict[str, Any]:
    facts = found.facts
    return {
        "trusted": found.trusted,
        "reasons": list(found.reasons),
        "counter_period_s": facts.counter_period_s,
        "power_period_s": facts.power_period_s,
        "lag_s": facts.lag_s,
        "sampled_fraction": facts.sampled_fraction,
        "shortest_window_s": facts.shortest_window_s,
        "bare_w": found.bare and found.bare.power_w,
        "context_w": found.context and found.context.power_w,
        "load_w": found.load_w,
        "agreement": found.agreement,
        "seconds": found.seconds,
        "notes": list(found.notes),
    }


def _versions(records: dict[str, dict[str, object]]) -> Any:
    for record in records.values():
        environment = record.get("environment")
        if isinstance(environment, dict) and environment.get("versions"):
            return environment["versions"]
    return None


def _spread(values: pd.Series | None) -> dict[str, float] | None:
    """Median, 90th percentile and largest of what is known."""
    known = np.array([] if values is None else values.dropna(), dtype=float)
    known = known[np.isfinite(known)]
    if not known.size:
        return None
    return {
        "median": float(np.median(known)),
        "p90": float(np.quantile(known, 0.9)),
        "largest": float(known.max()),
    }


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple, np.ndarray)) else []

"""Energy against latency: in which scenarios the fastest layout is not the thriftiest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from energylens.report.facts import valid_rows
from energylens.report.rows import layout, records, short, whole, workload

if TYPE_CHECKING:
    import pandas as pd

MOST_WORKLOADS = 12
_SCENARIO = (
    "model_id",
    "hardware",
    "modality",
    "task",
    "batch",
    "input_tokens",
    "output_tokens",
    "visual_tokens",
    "images",
    "frames",
    "image_height",
    "image_width",
    "request_rate_per_s",
    "precision",
    "diffusion_steps",
    "output_frames",
    "output_height",
    "output_width",
)
# Rows without input lengths are serving runs: their lengths vary, so they compare per token.
_SERVING = tuple(name for name in _SCENARIO if name not in ("input_tokens", "output_tokens"))
_LATENCIES = {"total_latency_s": "Latency of the batch", "itl_s": "Time per output token"}
_ENERGIES = {
    "total_energy_j": "Energy of the batch",
    "energy_per_output_token_j": "Energy per output token",
}


def tradeoffs(frame: pd.DataFrame) -> dict[str, Any] | None:
    """List scenarios with at least two layouts, the one to show first named.

    A scenario holds model, GPU type and workload; its points are the layouts that were
    run. Per (model, GPU type) the `MOST_WORKLOADS` workloads with the largest penalty at a
    fixed number of GPUs are kept.

    Returns
    -------
    dict or None
        The scenarios; None when no latency or no choice was recorded.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in records(valid_rows(frame)):
        serving = row["input_tokens"] is None and row["output_tokens"] is not None
        energy = "energy_per_output_token_j" if serving else "total_energy_j"
        latency = next((name for name in _LATENCIES if row[name] is not None), None)
        if latency is None or row[energy] is None:
            continue
        key = tuple(row[name] for name in (_SERVING if serving else _SCENARIO))
        groups.setdefault((energy, latency, *key), []).append(row)
    found = [_scenario(g, key[0], key[1]) for key, g in groups.items() if len(g) > 1]
    if not found:
        return None
    kept = _most_instructive(found)
    return {
        "scenarios": kept,
        "first": _first(kept),
        "shown": len(kept),
        "all": len(found),
    }


def _scenario(group: list[dict[str, Any]], energy: str, latency: str) -> dict[str, Any]:
    ordered = sorted(group, key=lambda row: (row["num_gpus"], row["tensor_parallel"]))
    first = ordered[0]
    gpus = [int(row["num_gpus"]) for row in ordered]
    energies = [short(row[energy]) for row in ordered]
    times = [short(row[latency]) for row in ordered]
    penalties = {
        count: _penalty(energies, times, [g == count for g in gpus]) for count in sorted(set(gpus))
    }
    sizes = {count: gpus.count(count) for count in penalties}
    rich = {c: p for c, p in penalties.items() if sizes[c] >= 3} or penalties
    default = max(rich, key=lambda c: rich[c])
    return {
        "model": str(first["model_id"]),
        "hardware": str(first["hardware"]),
        "provenance": str(first["provenance"]),
        "batch": whole(first["batch"]),
        "workload": workload(first) + _modality(first),
        "energy_name": _ENERGIES[energy],
        "latency_name": _LATENCIES[latency],
        "layout": [layout(row) for row in ordered],
        "gpus": gpus,
        "energy": energies,
        "latency": times,
        "penalty": rich[default],
        "default_gpus": default if rich[default] > 0 else 0,
    }


def _modality(row: dict[str, Any]) -> str:
    return f", {row['modality']}" if row["modality"] not in ("text", None) else ""


def _penalty(energies: list[float], times: list[float], among: list[bool]) -> float:
    """Return E(fastest) / E(least) - 1 among the chosen points."""
    chosen = [(t, e) for e, t, yes in zip(energies, times, among, strict=True) if yes]
    return min(chosen)[1] / min(e for _, e in chosen) - 1


def _most_instructive(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    taken: dict[tuple[str, str], int] = {}
    for scenario in sorted(found, key=lambda s: (-s["penalty"], -len(s["gpus"]))):
        key = (scenario["model"], scenario["hardware"])
        if taken.get(key, 0) < MOST_WORKLOADS:
            taken[key] = taken.get(key, 0) + 1
            kept.append(scenario)
    return kept


def _first(kept: list[dict[str, Any]]) -> int:
    """Choose the scenario shown first: many layouts, a batch worth serving, a large penalty."""
    most = max(len(s["gpus"]) for s in kept)
    ranked = sorted(
        range(len(kept)),
        key=lambda i: (kept[i]["batch"] < 8, len(kept[i]["gpus"]) < most, -kept[i]["penalty"]),
    )
    return ranked[0]

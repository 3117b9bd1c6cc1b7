"""Pairs of nights whose truth is known: real intervals from simulated repeats."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.meters.phases import PhaseSamples, combine_repeats
from harness.store import RunFolder, conform, task_id_of

MODELS = (
    "meta-llama/Meta-Llama-3.1-8B",
    "Qwen/Qwen3-30B-A3B",
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
)
HARDWARE = "H200-SXM5-141GB"
WORKLOADS = tuple(product((1, 8, 32), ((1024, 32), (128, 256))))
Cards = Callable[[int, np.random.Generator], list[str] | None]


def gpu(number: int) -> str:
    """UUID of a GPU."""
    return f"GPU-{number:08d}-0000-0000-0000-000000000000"


def fixed(launch: int, rng: np.random.Generator) -> list[str]:
    """The same eight GPUs in the same order every night."""
    return [gpu(launch % 8)]


def drawn(launch: int, rng: np.random.Generator) -> list[str]:
    """One of eight GPUs, drawn anew."""
    return [gpu(int(rng.integers(8)))]


def night(
    seed: int,
    *,
    models: tuple[str, ...] = MODELS,
    layouts: tuple[int, ...] = (1, 2),
    noise: float = 0.01,
    launch_sd: float = 0.0,
    repeats: int = 3,
    cards: Cards = lambda launch, rng: None,
    card_factor: dict[str, float] | None = None,
    factor: Callable[[dict[str, Any]], float] = lambda row: 1.0,
    reps_of_launch: int = 1,
    provenance: str = "measured",
) -> pd.DataFrame:
    """One night: a launch a deployment, energies from `repeats` noisy windows a phase.

    Parameters
    ----------
    noise
        Relative standard deviation of the mean over the repeats.
    launch_sd
        The same of what a launch adds to all its rows.
    cards
        Number of the launch -> GPUs that it runs on.
    card_factor
        GPU -> factor on its joules.
    factor
        Row -> factor on its joules and times.
    reps_of_launch
        Launches a deployment: its workloads are dealt out to them.
    """
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    launch = 0
    for model, t in product(models, layouts):
        for part in range(reps_of_launch):
            uuids = cards(launch, rng)
            odd = [(card_factor or {}).get(card, 1.0) for card in uuids or ()]
            shift = float(np.exp(launch_sd * rng.standard_normal())) * float(np.mean(odd or [1.0]))
            rows += [
                _row(model, t, batch, n, m, f"launch-{launch}", uuids, shift, provenance)
                for batch, (n, m) in WORKLOADS[part::reps_of_launch]
            ]
            launch += 1
    scatter = noise * np.sqrt(repeats)
    for row in rows:
        row["factor"] = row.pop("shift") * factor(row)
    for group in {row["launch_id"]: None for row in rows}:
        own = [row for row in rows if row["launch_id"] == group]
        samples = []
        for row in own:
            prefill, decode = (
                row[f"true_{p}"] * row["factor"] * (1 + scatter * rng.standard_normal(repeats))
                for p in ("prefill", "decode")
            )
            total = row["factor"] * (row["true_prefill"] + row["true_decode"])
            full = total * (1 + scatter * rng.standard_normal(repeats))
            samples.append(PhaseSamples(prefill, full, decode, (0.0, 0.0, 0.0)))
        for row, energy in zip(own, combine_repeats(samples), strict=True):
            row |= {
                "prefill_energy_j": energy.prefill_j,
                "prefill_energy_j_ci95_j": energy.prefill_ci95_j,
                "decode_energy_j": energy.decode_j,
                "decode_energy_j_ci95_j": energy.decode_ci95_j,
                "total_energy_j": energy.total_j,
                "total_energy_j_ci95_j": energy.total_ci95_j,
                "repeats": repeats,
            }
            for name, seconds in (("prefill_latency_s", 0.1), ("decode_latency_s", 1.0)):
                slow = row["factor"] * (1 + 0.003 * rng.standard_normal())
                row[name] = seconds * row["batch"] ** 0.3 * slow
            row["total_latency_s"] = row["prefill_latency_s"] + row["decode_latency_s"]
            row["ttft_s"] = row["prefill_latency_s"]
            row["itl_s"] = row["decode_latency_s"] / (row["output_tokens"] - 1)
    return pd.DataFrame(conform(rows))[conform([]).columns]


def _row(
    model: str,
    t: int,
    batch: int,
    n: int,
    m: int,
    launch: str,
    uuids: list[str] | None,
    shift: float,
    provenance: str,
) -> dict[str, Any]:
    row = {
        "schema_version": 1,
        "attempt": 1,
        "model_id": model,
        "family": "dense",
        "modality": "text",
        "engine": "transformers",
        "engine_version": "transformers 5.23.0, torch 2.13.0",
        "hardware": HARDWARE,
        "num_gpus": t,
        "tensor_parallel": t,
        "pipeline_parallel": 1,
        "expert_parallel": 1,
        "data_parallel": 1,
        "precision": "bf16",
        "batch": batch,
        "input_tokens": n,
        "output_tokens": m,
        "visual_tokens": 0,
        "provenance": provenance,
        "launch_id": launch,
        "gpu_uuids": uuids,
        "driver_version": "575.57.08",
        "measured_at": pd.Timestamp("2026-03-01T02:00:00Z"),
        "meter": "nvml",
        "valid": True,
        "reasons": [],
        "shift": shift,
        "true_prefill": 0.02 * batch * n * t**0.1,
        "true_decode": 3.0 * (m - 1) * batch**0.5,
    }
    row["task_id"] = task_id_of({k: v for k, v in row.items() if k not in ("shift", "reasons")})
    return row


def write(
    path: Path,
    frame: pd.DataFrame,
    *,
    manifest: dict[str, Any] | None = None,
    launches: dict[str, dict[str, Any]] | None = None,
) -> Path:
    """Write a night as a run folder."""
    folder = RunFolder.create(path, {"sweep_name": "nightly", **(manifest or {})})
    for hardware, rows in frame.groupby("hardware"):
        folder.write_result("night", str(hardware), rows)
    for key, record in (launches or {}).items():
        folder.write_launch(key, record)
    return path

"""Synthetic tables of many models and GPU types whose hierarchy of parameters is known."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from fitting.facts import Facts, HardwareFacts, ModelFacts
from fitting.pooling.columns import columns_of
from fitting.pooling.parameters import INDEX, KIND_FACTOR, N_PARAMETERS, PARAMETERS
from fitting.pooling.sizes import machine_of
from fitting.pooling.terms import energies

SHARED = {
    "prefill_compute": 0.3,
    "prefill_launch": 1.5,
    "decode_weights": -0.2,
    "decode_cache": 0.2,
    "decode_sync": 0.8,
    "decode_launch": 0.7,
    "waiting_power_ratio": 0.3,
    "weight_shard_exponent": 0.1,
}
"""Parameters that all pairs share; the others are zero."""


def gpu(name: str, flops: float, bandwidth: float, link: float, power: float) -> HardwareFacts:
    """A datasheet with the rates that the terms read."""
    return HardwareFacts(
        hardware=name,
        architecture=name,
        memory_bytes=8e10,
        memory_bandwidth_bytes_per_s=bandwidth,
        peak_flops={"bf16": flops, "fp8": 2.0 * flops},
        power_limit_w=power,
        idle_power_w=0.1 * power,
        loaded_idle_power_w=0.17 * power,
        interconnect_bytes_per_s=link,
    )


def model(name: str, layers: int, width: int, *, experts: int = 0) -> ModelFacts:
    """An architecture of usual proportions; an MoE model uses 2 of its experts."""
    dense = 4.0 * layers * width**2
    routed = 8.0 * layers * width**2 * max(experts, 1)
    return ModelFacts(
        model_id=name,
        family="moe" if experts else "dense",
        backbone=f"{layers}-{width}-{experts}",
        layers=layers,
        attention_layers=layers,
        state_layers=0,
        hidden_size=width,
        heads=width // 128,
        kv_heads=8,
        head_dim=128,
        vocab_size=1000,
        experts=experts,
        experts_per_token=2 if experts else 0,
        params_total=dense + routed,
        params_active=dense + routed * (2.0 / experts if experts else 1.0),
        params_experts=routed if experts else 0.0,
        params_lookup=0.0,
        params_vision=0.0,
        kv_bytes_per_token=layers * 4096.0,
        kv_window_tokens=0.0,
        kv_window_share=0.0,
        state_bytes_per_sequence=0.0,
        state_flops_per_token=0.0,
    )


GPUS = (
    gpu("one", 1.0e15, 3.3e12, 4.5e11, 700.0),
    gpu("two", 3.0e14, 2.0e12, 3.0e11, 400.0),
    gpu("three", 2.2e15, 7.7e12, 9.0e11, 1000.0),
    gpu("four", 3.6e14, 9.0e11, 6.0e11, 350.0),
)
MODELS = (
    model("a/8B", 32, 4096),
    model("c/70B", 80, 8192),
    model("d/8x7B", 32, 4096, experts=8),
)
FACTS = Facts({h.hardware: h for h in GPUS}, {m.model_id: m for m in MODELS})


def table(*, noise: float = 0.02, apart: float = 0.15, seed: int = 0) -> pd.DataFrame:
    """Rows of every pair: 60 configurations each, whose law is the pooled law itself.

    GPU types, models and pairs lie `apart` from what is shared, in the logarithm of each term.
    """
    rng = np.random.default_rng(seed)
    shared = np.zeros(N_PARAMETERS)
    for name, value in SHARED.items():
        shared[INDEX[name]] = value
    factor = np.array([p.kind == KIND_FACTOR for p in PARAMETERS])

    def effect() -> np.ndarray:
        return apart * factor * rng.standard_normal(N_PARAMETERS)

    of_gpu = {h.hardware: effect() for h in GPUS}
    of_model = {m.model_id: effect() for m in MODELS}
    frames = []
    for one, other in itertools.product(MODELS, GPUS):
        frame = _configurations(rng)
        own = 0.3 * effect()
        values = shared + of_gpu[other.hardware] + of_model[one.model_id] + own
        nothing = np.zeros(len(frame), dtype=np.intp)
        columns = columns_of(frame, [one], [machine_of(other)], nothing, nothing)
        phases = energies(columns, values[None], nothing)
        frame["prefill_energy_j"] = phases.prefill * np.exp(noise * rng.standard_normal(len(frame)))
        frame["decode_energy_j"] = phases.decode * np.exp(noise * rng.standard_normal(len(frame)))
        frames.append(
            frame.assign(
                model_id=one.model_id,
                hardware=other.hardware,
                family=one.family,
                params_total=one.params_total,
                params_active=one.params_active,
                hidden_size=one.hidden_size,
                kv_bytes_per_token=one.kv_bytes_per_token,
                provenance="projected",
                valid=True,
            )
        )
    rows = pd.concat(frames, ignore_index=True)
    rows["total_energy_j"] = rows["prefill_energy_j"] + rows["decode_energy_j"]
    rows["total_energy_j_ci95_j"] = 1.96 * noise * rows["total_energy_j"]
    return rows


def _configurations(rng: np.random.Generator) -> pd.DataFrame:
    every = [
        (b, n, m, t, p)
        for b, n, m in itertools.product((1, 4, 16, 64), (128, 1024, 4096), (33, 257))
        for t, p in itertools.product((1, 2, 4, 8), (1, 2, 4))
        if t * p <= 8
    ]
    picked = rng.permutation(len(every))[:60]
    names = ["batch", "input_tokens", "output_tokens", "tensor_parallel", "pipeline_parallel"]
    return pd.DataFrame([every[i] for i in picked], columns=names).assign(precision="bf16")


def head(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """The first rows of each pair; configurations come in a random order."""
    return rows.groupby(["model_id", "hardware"], sort=False).head(count)


def error(predicted: np.ndarray, rows: pd.DataFrame) -> float:
    """Mean absolute relative error of total energies."""
    return float(np.abs(predicted / rows["total_energy_j"].to_numpy() - 1.0).mean())

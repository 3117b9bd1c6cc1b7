"""Synthetic measurement tables whose law is known."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from fitting.forms import phase_parts
from fitting.forms.energylens12 import EVERY_TERM
from fitting.traits import ModelTraits

CACHE_SHARE = 131072 / (2 * 8_030_000_000)

TRUE_COEFFICIENTS = {
    "prefill_compute": 0.014,
    "prefill_sharding": 0.004,
    "prefill_launch": 2.0,
    "prefill_encoder": 0.006,
    "decode_weights": 4.0,
    "decode_tokens": 0.3,
    "decode_sync": 0.5,
    "decode_launch": 0.8,
    "shared_bridge": 4e-4,
}
TRUE_EXPONENTS = {"waiting_power_ratio": 0.22, "weight_shard_exponent": 0.15}


def grid(
    model_id: str = "a/Model-8B", hardware: str = "H100-SXM5-80GB", *, visual: bool = True
) -> pd.DataFrame:
    """Configurations of one pair: t, p in {1, 2, 4, 8} up to 8 GPUs, 48 workloads."""
    work = itertools.product((1, 4, 16, 64), (256, 1024, 4096), (33, 257), (0.0, 0.5))
    rows = []
    for batch, n, m, share in work:
        if share and not visual:
            continue
        for t, p in itertools.product((1, 2, 4, 8), (1, 2, 4, 8)):
            if t * p <= 8:
                rows.append((batch, n, m, int(share * n), t, p))
    names = ["batch", "input_tokens", "output_tokens", "visual_tokens"]
    frame = pd.DataFrame(rows, columns=[*names, "tensor_parallel", "pipeline_parallel"])
    frame["num_gpus"] = frame["tensor_parallel"] * frame["pipeline_parallel"]
    frame["modality"] = np.where(frame["visual_tokens"] > 0, "image", "text")
    return frame.assign(
        model_id=model_id,
        hardware=hardware,
        family="dense",
        precision="bf16",
        params_total=8_030_000_000,
        params_active=8_030_000_000,
        hidden_size=4096,
        kv_bytes_per_token=131072.0,
        provenance="projected",
        valid=True,
        task_id=[f"{hardware[:4]}-{i:04d}" for i in range(len(frame))],
    )


def energies(
    frame: pd.DataFrame, scale: float = 1.0, factor: float = 1.0, extra: float = 0.0
) -> dict[str, np.ndarray]:
    """Energies of both phases by energylens12 with the true parameters."""
    truth = {**TRUE_COEFFICIENTS, "decode_launch_extra": extra}
    form = EVERY_TERM
    work = ModelTraits(cache_share=CACHE_SHARE).work_of(frame)
    theta = [*TRUE_EXPONENTS.values(), factor]
    values = np.array([truth[c.name] for c in form.coefficients])
    out = {}
    for phase, part in phase_parts(form).items():
        columns = np.column_stack(form.columns(work, phase, theta))
        out[phase] = scale * columns @ values[part]
    return out


def synthetic(
    *, noise: float, seed: int = 0, visual: bool = True, scale: float = 1.0, **pair: str
) -> pd.DataFrame:
    """A table of one pair with log-normal noise of the given size on each phase."""
    frame = grid(visual=visual, **pair)
    rng = np.random.default_rng(seed)
    for phase, energy in energies(frame, scale).items():
        frame[f"{phase}_energy_j"] = energy * np.exp(noise * rng.standard_normal(len(frame)))
    frame["total_energy_j"] = frame["prefill_energy_j"] + frame["decode_energy_j"]
    frame["total_energy_j_ci95_j"] = 1.96 * noise * frame["total_energy_j"]
    frame["ttft_s"] = frame["prefill_energy_j"] / (300.0 * frame["num_gpus"])
    frame["itl_s"] = frame["decode_energy_j"] / (400.0 * frame["num_gpus"])
    frame["total_latency_s"] = frame["ttft_s"] + frame["itl_s"]
    return frame

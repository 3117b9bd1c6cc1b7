"""A synthetic run whose energies and latencies follow known formulas."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from harness.store import RunFolder, task_id_of

MODELS = ("meta-llama/Meta-Llama-3.1-8B", "Qwen/Qwen3-32B")
HARDWARE = {"H100-SXM5-80GB": 1.0, "H200-SXM5-141GB": 0.8}
SIZE = {"meta-llama/Meta-Llama-3.1-8B": 8.03e9, "Qwen/Qwen3-32B": 32.8e9}
WAITING = 0.25  # power of a waiting pipeline stage over that of a working one


def configurations(model_id: str, hardware: str) -> pd.DataFrame:
    """Every layout on up to 8 GPUs with 24 workloads."""
    rows = [
        (batch, n, m, t, p)
        for batch, n, m in product((1, 4, 16, 64), (256, 1024, 4096), (32, 256))
        for t, p in product((1, 2, 4, 8), (1, 2, 4, 8))
        if t * p <= 8
    ]
    names = ["batch", "input_tokens", "output_tokens", "tensor_parallel", "pipeline_parallel"]
    frame = pd.DataFrame(rows, columns=names)
    return frame.assign(
        model_id=model_id,
        hardware=hardware,
        num_gpus=frame["tensor_parallel"] * frame["pipeline_parallel"],
        expert_parallel=1,
        data_parallel=1,
        family="dense",
        modality="text",
        precision="bf16",
        params_total=int(SIZE[model_id]),
        params_active=int(SIZE[model_id]),
        visual_tokens=0,
        images=0,
        frames=0,
    )


def _formula(frame: pd.DataFrame) -> pd.DataFrame:
    """Energies of both phases, J: work, attention, launches, waiting stages."""
    t, p = (frame[f"{name}_parallel"].astype(float) for name in ("tensor", "pipeline"))
    n, m = frame["input_tokens"].astype(float), frame["output_tokens"].astype(float)
    b = np.ceil(frame["batch"] / p)
    k = np.ceil(frame["batch"] / b)
    scale = frame["hardware"].map(HARDWARE) * frame["params_total"] / 8e9
    prefill = 0.014 * b * n * t**0.1 + 6e-7 * b * n**2 + 2.0 * t
    step = 4.0 * t**0.15 + 0.3 * b + 4e-5 * b * (n + m / 2) + 1.3 * t * (t > 1)
    return pd.DataFrame(
        {
            "prefill_energy_j": scale * (k + WAITING * (p - 1)) * prefill,
            "decode_energy_j": scale * (m - 1) * (k + WAITING * (p - k)) * step,
        }
    )


@lru_cache(maxsize=1)
def true_law():
    """The law behind the data, of whatever form is the default: fitted once to `_formula`.

    What the data holds is what this law says, so that a fit can find it again and tests of
    the face do not hang on how well a form copies a formula.
    """
    from fitting import fit_frame

    frame = pd.concat([configurations(*pair) for pair in product(MODELS, HARDWARE)])
    frame = frame.reset_index(drop=True).assign(provenance="projected", valid=True)
    frame = frame.join(_formula(frame))
    frame["total_energy_j"] = frame["prefill_energy_j"] + frame["decode_energy_j"]
    return fit_frame(frame)


def energies(frame: pd.DataFrame) -> pd.DataFrame:
    """Noise-free energies of both phases, J."""
    return true_law().predict_phases(frame)[["prefill_energy_j", "decode_energy_j"]]


def latencies(frame: pd.DataFrame) -> pd.DataFrame:
    """Latencies by the terms that `energylens.recommendation.latency` documents, s."""
    b = np.ceil(frame["batch"] / frame["pipeline_parallel"])
    k = np.ceil(frame["batch"] / b)
    p, t = frame["pipeline_parallel"], frame["tensor_parallel"]
    n, m = frame["input_tokens"], frame["output_tokens"]
    ttft = (1 + (k - 1) / p) * (0.01 + 2e-5 * b * n / t + 1e-10 * b * n * n)
    tpot = np.maximum(1.0, k / p) * (0.012 / t + 1e-4 * b + 1e-8 * b * (n + m / 2))
    speed = frame["hardware"].map({"H100-SXM5-80GB": 1.0, "H200-SXM5-141GB": 1.2})
    times = {"ttft_s": ttft, "itl_s": tpot, "total_latency_s": ttft + (m - 1) * tpot}
    return pd.DataFrame({name: values / speed for name, values in times.items()})


def measurements(*, noise: float = 0.01, provenance: str = "projected") -> pd.DataFrame:
    """The measurement table: two models on two GPU types, three rows flagged."""
    frame = pd.concat(
        [configurations(*pair) for pair in product(MODELS, HARDWARE)], ignore_index=True
    )
    rng = np.random.default_rng(0)
    for name, values in energies(frame).items():
        frame[name] = values * np.exp(noise * rng.standard_normal(len(frame)))
        frame[f"{name}_ci95_j"] = 1.96 * noise * frame[name]
    frame["total_energy_j"] = frame["prefill_energy_j"] + frame["decode_energy_j"]
    frame["total_energy_j_ci95_j"] = 1.96 * noise * frame["total_energy_j"]
    frame["energy_per_output_token_j"] = frame["total_energy_j"] / (
        frame["batch"] * frame["output_tokens"]
    )
    frame = frame.join(latencies(frame))
    frame["task_id"] = [task_id_of({**row, "engine": "twin"}) for row in frame.to_dict("records")]
    frame["valid"] = True
    frame.loc[:2, "valid"] = False
    frame["reasons"] = [["throttled"] if i < 3 else [] for i in range(len(frame))]
    return frame.assign(
        provenance=provenance,
        engine="twin",
        engine_version="1",
        meter="twin",
        attempt=1,
        sweep="face",
        measured_at=pd.Timestamp("2025-11-20T10:00:00Z"),
    )


def write_run(path: Path, frame: pd.DataFrame) -> Path:
    """Write the rows as a finished run."""
    folder = RunFolder.create(path, {"sweep_name": "face"})
    with folder.lock():
        folder.append_event(
            "run_started", sweep="face", tasks_planned=len(frame), tasks_already_done=0
        )
        for hardware, rows in frame.groupby("hardware"):
            folder.write_result("first", str(hardware), rows)
            folder.append_event(
                "launch_finished",
                launch_id="first",
                hardware=hardware,
                model_id="several",
                tasks=len(rows),
                failed=0,
                seconds=1.0,
                energy_j=float(rows["total_energy_j"].sum()),
            )
        folder.append_event("run_finished", done=len(frame), failed=0, seconds=2.0)
        folder.compact()
    return path

"""Tables of scenarios that are small enough to check by hand."""

from __future__ import annotations

import pandas as pd


def tiny():
    """Two workloads on one GPU type: (t, p, J, s); the second has one candidate with 2 GPUs."""
    rows = [
        (1, 8, 2, 1, 100.0, 1.0),
        (1, 8, 1, 2, 90.0, 2.0),
        (1, 8, 1, 1, 80.0, 3.0),
        (1, 8, 4, 1, 150.0, 0.5),
        (1, 8, 2, 2, 151.0, 0.9),
        (4, 8, 2, 1, 400.0, 1.0),
        (4, 8, 1, 1, 300.0, 2.0),
    ]
    names = [
        "batch",
        "output_tokens",
        "tensor_parallel",
        "pipeline_parallel",
        "total_energy_j",
        "total_latency_s",
    ]
    frame = pd.DataFrame(rows, columns=names)
    return frame.assign(
        model_id="a/M",
        hardware="H",
        family="dense",
        modality="text",
        precision="bf16",
        input_tokens=64,
        num_gpus=frame["tensor_parallel"] * frame["pipeline_parallel"],
        ttft_s=frame["total_latency_s"] / 10,
        itl_s=frame["total_latency_s"] / 100,
        total_energy_j_ci95_j=1.0,
        task_id=[f"{i}" for i in range(len(frame))],
    )


def batches():
    """One request in three batches, two precisions and two layouts: 4 rows of 8 tokens each."""
    rows = [
        (1, 1, "bf16", 100.0, 1.0),
        (1, 2, "bf16", 130.0, 0.6),
        (4, 1, "bf16", 200.0, 2.0),
        (4, 1, "fp8", 220.0, 1.5),
        (16, 1, "bf16", 1000.0, 9.0),
    ]
    names = ["batch", "tensor_parallel", "precision", "total_energy_j", "total_latency_s"]
    frame = pd.DataFrame(rows, columns=names)
    return frame.assign(
        model_id="a/M",
        hardware="H",
        output_tokens=8,
        input_tokens=64,
        pipeline_parallel=1,
        num_gpus=frame["tensor_parallel"],
        ttft_s=frame["total_latency_s"] / 10,
        itl_s=frame["total_latency_s"] / 100,
        total_energy_j_ci95_j=1.0,
        task_id=[f"{i}" for i in range(len(frame))],
    )

"""Rows of the measurement table as plain dicts, and their short names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "model_id",
    "hardware",
    "provenance",
    "modality",
    "task",
    "num_gpus",
    "tensor_parallel",
    "pipeline_parallel",
    "expert_parallel",
    "data_parallel",
    "precision",
    "batch",
    "input_tokens",
    "output_tokens",
    "visual_tokens",
    "images",
    "frames",
    "image_height",
    "image_width",
    "request_rate_per_s",
    "ulysses_degree",
    "ring_degree",
    "diffusion_steps",
    "output_frames",
    "output_height",
    "output_width",
    "total_energy_j",
    "energy_per_output_token_j",
    "total_latency_s",
    "ttft_s",
    "itl_s",
)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as dicts of `COLUMNS`; null is None. Far faster than row iteration."""
    columns = {
        name: [None if value is None or value != value else value for value in frame[name].tolist()]
        if name in frame.columns
        else [None] * len(frame)
        for name in COLUMNS
    }
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def layout(row: dict[str, Any]) -> str:
    """Short name of a row's parallel layout, as in `TP4 PP2`."""
    sequence = row["ulysses_degree"] is not None or row["ring_degree"] is not None
    parts = [] if sequence else [f"TP{whole(row['tensor_parallel'])}"]
    for label, name in (
        ("PP", "pipeline_parallel"),
        ("EP", "expert_parallel"),
        ("DP", "data_parallel"),
        ("Ulysses ", "ulysses_degree"),
        ("Ring ", "ring_degree"),
    ):
        if whole(row[name]) > 1:
            parts.append(f"{label}{whole(row[name])}")
    if row["precision"] not in ("bf16", None):
        parts.append(str(row["precision"]))
    return " ".join(parts) or "one GPU"


def workload(row: dict[str, Any]) -> str:
    """Short name of a row's workload, as in `batch 8, 1024 in, 256 out`."""
    parts = [f"batch {whole(row['batch'])}"]
    if row["input_tokens"] is not None:
        visual = f" ({whole(row['visual_tokens'])} visual)" if row["visual_tokens"] else ""
        parts.append(f"{whole(row['input_tokens'])} in{visual}")
    if row["output_tokens"] is not None:
        parts.append(f"{whole(row['output_tokens'])} out")
    if row["diffusion_steps"] is not None:
        parts.append(f"{whole(row['diffusion_steps'])} steps")
    if row["task"]:
        parts.append(str(row["task"]))
    return ", ".join(parts)


def whole(value: Any) -> int:
    """Return a degree or a count as a whole number; a degree that is not given is 1."""
    return 1 if value is None else int(value)


def short(value: float) -> float:
    """Round to four significant digits, to keep the page small."""
    return float(f"{value:.4g}")
